"""Record the results on disk in dvc.lock."""

import subprocess
import sys
import time
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.results.dvc.lock import missing_files, require_git
from pipeline.results.dvc.summary import compare_with_git
from pipeline.results.dvc.workarounds import delete_invalid_rwlock, keep_reports, verify_pulls
from pipeline.results.provenance import read_record
from pipeline.results.store import prune_results, stale_paths
from pipeline.study import Study, default_study, load_study
from pipeline.study.artifacts import record_path


def commit_results(study: Study, *, chosen: bool = True) -> None:
    """Move stale results to the store, make remotes check what is pulled, and record the results in dvc.lock.

    Args:
        study: the default study, whose report dvc.yaml lists.
        chosen: whether the user named the study or its seeds. Otherwise results of other studies stay where they are, and
            nothing is recorded as long as there are such results.

    Raises:
        UserError: there is no git here, the study is not the default one, other studies have results here, dvc.lock is not
            valid, it lists files that are missing, or dvc failed.
    """
    require_git()
    if study.name != default_study():
        raise UserError(
            f"commit --study {study.name}: dvc.lock records the study of params/params.yaml, '{default_study()}'; "
            f"write 'study: {study.name}' there, run snakemake, then commit without --study"
        )
    if not chosen:
        _refuse_other_studies(study)
    missing = missing_files(study)
    if missing:
        ellipsis = " ..." if len(missing) > 1 else ""
        raise UserError(
            f"{len(missing)} files that dvc.lock lists are missing, so a commit would drop them: {missing[0]}{ellipsis}; "
            "get them with dvc pull or run snakemake"
        )
    delete_invalid_rwlock()
    prune_results(study, [])
    started = time.time()
    for name in verify_pulls():
        print(f"remote '{name}': DVC now checks what it pulls (verify = true)")
    # --force: without it dvc asks about each changed folder
    command = [sys.executable, "-m", "dvc", "commit", "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = " ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
        if "Permission denied" in done.stderr and "cache" in errors:
            raise UserError(
                f"dvc commit failed ({errors}); a cache shared by several users needs: dvc config cache.shared group (docs/dvc.md)"
            )
        raise UserError(
            f"dvc commit failed ({errors or done.stderr}); are results missing? run snakemake first"
        )
    keep_reports()
    print(f"study '{study.name}' is recorded in dvc.lock ({time.time() - started:.0f} s)")
    if line := compare_with_git():
        print(line)


def _refuse_other_studies(study: Study) -> None:
    """Refuse to move results away that were made for another study, which still refers to them.

    Raises:
        UserError: with the number of results, the study, and the commands for either of them.
    """
    made_for: dict[str, set[Path]] = {}
    for stage in study.artifacts:
        for path in stale_paths(study.named(), [stage]):
            if record := read_record(record_path(stage, path)):
                made_for.setdefault(record["study"], set()).add(path)
    for name in sorted(made_for.keys() - {study.name}):
        try:
            paths = made_for[name] & {artifact.path for artifact in load_study(name).named()}
        except UserError:
            # the study is gone, or its card is not valid
            continue
        if paths:
            raise UserError(
                f"commit: {len(paths)} results belong to study '{name}', and dvc.lock records those of one study. "
                f"To record '{study.name}': python -m pipeline commit --study {study.name} moves the others to .store/, from where "
                f"the next run of '{name}' takes them back. To record '{name}': write 'study: {name}' in params/params.yaml, then commit"
            )
