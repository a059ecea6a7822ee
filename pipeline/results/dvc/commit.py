"""Record the results on disk in dvc.lock."""

import subprocess
import sys
import time

from pipeline.core.errors import UserError
from pipeline.results.dvc.lock import missing_files, require_git
from pipeline.results.dvc.workarounds import delete_invalid_rwlock, verify_pulls
from pipeline.results.store import prune_results
from pipeline.study import Study


def commit_results(study: Study) -> None:
    """Move stale results to the store, make remotes check what is pulled, and record the results in dvc.lock.

    Raises:
        UserError: there is no git here, dvc.lock is not valid, it lists files that are missing, or dvc failed.
    """
    require_git()
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
        raise UserError(
            f"dvc commit failed ({errors or done.stderr}); are results missing? run snakemake first"
        )
    print(f"recorded in dvc.lock ({time.time() - started:.0f} s)")
