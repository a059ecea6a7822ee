"""The store: where artifacts that the params no longer refer to are parked, until a study needs them or a user frees them.

The store belongs to no single study: what is stale for one study may be current for another.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.filesize import decimal

from pipeline.core import processes
from pipeline.core.errors import UserError
from pipeline.results.disk.links import delete_dead, has_dead_link, materialize
from pipeline.results.dvc.summary import write_summary
from pipeline.study import Study, project_root
from pipeline.study.artifacts import RECORDS, STORE, Artifact, list_artifacts, list_records
from pipeline.study.stages import STAGES


def prune_results(study: Study, stages: Sequence[str], *, dry_run: bool = False, root: Path = Path()) -> None:
    """Move the stale results of some stages to the store; print a line for each.

    Nothing is lost: what a study needs again is restored from the store. Unless ``dry_run`` is set, this acquires the
    run lock.

    Args:
        study: what it refers to stays.
        stages: empty: all.
        dry_run: only print what would be moved.
        root: the project's root.

    Raises:
        UserError: an unknown stage, or another run is active.
    """
    unknown = set(stages) - set(study.artifacts)
    if unknown:
        raise UserError(f"prune: unknown stage '{min(unknown)}' (choices: {', '.join(study.artifacts)})")
    if not dry_run:
        processes.acquire_run_lock(root)
    chosen = list(stages or study.artifacts)
    stale = stale_paths(study.named(), chosen, root=root)
    size = decimal(sum(disk_size(root / path) for path in stale))
    for path in stale:
        action = (
            "deleted, since DVC's cache lost its files"
            if has_dead_link(root / path)
            else "moved to the store"
        )
        print(f"{'would be ' if dry_run else ''}{action}: {path}")
    if not dry_run:
        park_stale(study.named(), chosen, root=root)
        # DVC requires each output folder, also of a stage that has no results or no records yet
        for stage in chosen:
            (root / RECORDS / stage).mkdir(parents=True, exist_ok=True)
            (root / STAGES[stage].folder).mkdir(parents=True, exist_ok=True)
        if "report" in chosen:
            write_summary(study, root=root)
    if not stages and (stale or dry_run):
        print(f"{len(stale)} results, {size}; to free the disk space: python -m pipeline prune --store")


def restore_study(study: Study) -> None:
    """Move the study's artifacts that are missing back from the store, so a reverted parameter reruns nothing.

    Artifacts whose files are dead links count as missing; they are deleted, with a line for each on stderr.

    Raises:
        UserError: DVC's cache, which results link to, is missing.
    """
    root, artifacts = project_root(), study.named()
    paths = [path for artifact in artifacts for path in (artifact.path, artifact.record)]
    for path in delete_dead(root / path for path in paths):
        print(f"deleted: {path.relative_to(root)}; DVC's cache no longer has its files", file=sys.stderr)
    restore_artifacts(artifacts, root=root)


def stale_paths(artifacts: Iterable[Artifact], stages: Iterable[str], *, root: Path = Path()) -> list[Path]:
    """Return the results of the stages on disk that are not in ``artifacts``.

    Reports are never stale: a new report overwrites the folder of the previous one.
    """
    current = {artifact.path for artifact in artifacts}
    return [
        path
        for stage in stages
        if stage != "report"
        for path in list_artifacts(root, stage)
        if path not in current
    ]


def park_stale(artifacts: Iterable[Artifact], stages: Iterable[str], *, root: Path = Path()) -> list[Path]:
    """Move the results of the stages that are not in ``artifacts`` to the store, with their records.

    Returns:
        The paths of the results that were moved.
    """
    artifacts, stages = list(artifacts), list(stages)
    stale = stale_paths(artifacts, stages, root=root)
    current_records = {artifact.record for artifact in artifacts}
    # The record of an earlier report moves too, though its folder was overwritten and never becomes stale.
    stale_records = [
        path for stage in stages for path in list_records(root, stage) if path not in current_records
    ]
    for path in [*stale, *stale_records]:
        if has_dead_link(root / path):
            delete_dead([root / path])
        else:
            # a later `dvc gc` may delete what links point to
            materialize(root / path)
            _move_result(root / path, root / STORE / path)
        _remove_empty_folders(root, (root / path).parent)
    return stale


def restore_artifacts(artifacts: Iterable[Artifact], *, root: Path = Path()) -> list[Path]:
    """Move ``artifacts`` that are missing, and their records, back from the store.

    Returns:
        The paths of the artifacts that were moved.
    """
    if not (root / STORE).is_dir():
        return []
    moved = set()
    for artifact in artifacts:
        for path in (artifact.path, artifact.record):
            parked = root / STORE / path
            if parked.exists() and not has_dead_link(parked) and not (root / path).exists():
                _move_result(parked, root / path)
                if path == artifact.path:
                    moved.add(path)
    return sorted(moved)


def _move_result(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # os.replace cannot replace a folder that has files
    if target.is_dir():
        shutil.rmtree(target)
    try:
        os.replace(source, target)
    except FileNotFoundError:
        # another job of the study may have restored it first
        if source.exists():
            raise


def _remove_empty_folders(root: Path, folder: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def disk_size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(os.lstat(Path(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
