"""What the params no longer name: moved aside into the store, listed, and freed only when that is asked for.

The store belongs to no study. What one study does not name another may, so freeing looks at all of params/study/.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import processes
from pipeline.core.errors import UserError
from pipeline.params.reading import PARAMS
from pipeline.results.dvc import lock, remotes
from pipeline.results.dvc.summary import write_summary
from pipeline.study import Study, load_study, project_root
from pipeline.study.artifacts import (
    RECORDS,
    STORE,
    Artifact,
    record_path,
    stored,
    stored_records,
)
from pipeline.study.stages import STAGES

DAY_S = 86400.0


@dataclass(frozen=True)
class Kept:
    """A result in the store: its stage and place, size, when it was moved there, and which studies name it."""

    stage: str
    path: Path
    size: int
    since: float
    named_by: tuple[str, ...]


def prune(study: Study, stages: Sequence[str], *, dry_run: bool = False, root: Path = Path()) -> None:
    """Move results of the stages (none: of all) that the study does not name into the store, a line each.

    Nothing is freed: what is named again, by this study or another, is taken back from there. Unless it is a dry run, this
    process is the one run in ``root`` from then on (``processes.acquire_run_lock``).

    Raises:
        UserError: an unknown stage, or a run is at work.
    """
    unknown = set(stages) - set(study.artifacts)
    if unknown:
        raise UserError(f"prune: unknown stage '{min(unknown)}' (choices: {', '.join(study.artifacts)})")
    if not dry_run:
        processes.acquire_run_lock(root)
    chosen = list(stages or study.artifacts)
    moving = unnamed(study.named(), chosen, root=root)
    size = sum(size_of(root / path) for path in moving)
    for path in moving:
        print(f"{'would be moved' if dry_run else 'moved'} to the store: {path}")
    if not dry_run:
        set_aside(study.named(), chosen, root=root)
        for stage in chosen:  # DVC expects the folder, also where nothing was made since there are records
            (root / RECORDS / stage).mkdir(parents=True, exist_ok=True)
        if "report" in chosen:
            write_summary(study, root=root)
    if not stages and (moving or dry_run):
        print(
            f"{len(moving)} results, {told_size(size)}; moving frees no disk: python -m pipeline prune --store"
        )


def commit(study: Study) -> None:
    """Prune, then record the present results in dvc.lock; and do what is easily forgotten before that.

    Remotes are told to check what they hand out, and a dvc.lock that a killed dvc left cut
    off is mended.

    Raises:
        UserError: DVC could not, or files of results that dvc.lock has are not here.
    """
    lock.show(lock.mend())
    absent = remotes.lost(study)
    if absent:
        raise UserError(
            f"{len(absent)} files of results that dvc.lock has are not here, so recording would lose them: {absent[0]}"
            f"{' ...' if len(absent) > 1 else ''}; get them with dvc pull, or make them with snakemake"
        )
    prune(study, [])
    started = time.time()
    for name in remotes.verify_remotes():
        print(f"remote '{name}': DVC now checks what it pulls (verify = true)")
    command = [sys.executable, "-m", "dvc", "commit", "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = " ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
        raise UserError(
            f"dvc commit failed ({told or done.stderr}); is every result there? run snakemake first"
        )
    print(f"recorded in dvc.lock ({time.time() - started:.0f} s)")


def empty(
    *,
    older_than_days: float = 0.0,
    also_named: bool = False,
    yes: bool = False,
    studies: Iterable[Study] | None = None,
    root: Path = Path(),
) -> None:
    """Show what of the store would be freed, and free it if ``yes``, or if a person at the terminal says so.

    Args:
        older_than_days: only what was moved there longer ago.
        also_named: also what a study of params/study/ names.
        yes: do not ask.
        studies: as for ``contents``.
        root: the project's.

    Raises:
        UserError: there is something to free, and a run is at work; or a number of days below 0.
    """
    if not older_than_days >= 0:
        raise UserError(f"prune: --older-than must be 0 days or more (got {older_than_days:g})")
    found = contents(studies=studies, root=root)
    before = time.time() - older_than_days * DAY_S
    going = [one for one in found if one.since <= before and (also_named or not one.named_by)]
    for one in found:
        names = f"named by {', '.join(one.named_by)}" if one.named_by else "named by no study"
        days = (time.time() - one.since) / DAY_S
        what = "free" if one in going else "keep"
        print(f"{what}  {told_size(one.size):>9}  {days:5.1f} days  {one.path}  ({names})")
    size = told_size(sum(one.size for one in going))
    print(f"to free: {len(going)} of {len(found)} results, {size}")
    if not going:
        return
    if not yes and not _agreed("free them? They can only be made again. [y/N] "):
        print("nothing was freed; add --yes to free without a question")
        return
    processes.acquire_run_lock(root)
    for one in going:
        _free(root / STORE / one.path)
        _free(root / STORE / record_path(one.stage, one.path))
    print(f"freed {size}")


def contents(*, studies: Iterable[Study] | None = None, root: Path = Path()) -> list[Kept]:
    """Return what lies in the store.

    Args:
        studies: to look for names in; None: all of params/study/, which takes seconds.
        root: the project's.
    """
    names = sorted(path.stem for path in (PARAMS / "study").glob("*.yaml"))
    every = [load_study(name) for name in names] if studies is None else list(studies)
    named: dict[Path, list[str]] = {}
    for study in every:
        for path in dict.fromkeys(artifact.path for artifact in study.named()):
            named.setdefault(path, []).append(study.name)
    found = []
    for stage in STAGES:
        for path in stored(root / STORE, stage):
            place = root / STORE / path
            since = place.stat().st_ctime  # renaming sets it, and keeps the date of the content
            found.append(Kept(stage, path, size_of(place), since, tuple(named.get(path, ()))))
    return found


def size_of(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(os.lstat(Path(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


def told_size(size: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _agreed(question: str) -> bool:
    return sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes")


def _free(path: Path) -> None:
    """Delete a result; renamed first, so that a half deleted one is never taken back."""
    if not path.exists():
        return
    going = path.with_name(f".{path.name}.partial")
    os.replace(path, going)
    if going.is_dir():
        shutil.rmtree(going)
    else:
        going.unlink()


def restore(study: Study) -> None:
    """Take back from the store what the study names and is missing: a reverted parameter costs nothing."""
    take_back(study.named(), root=project_root())


def unnamed(artifacts: Iterable[Artifact], stages: Iterable[str], *, root: Path = Path()) -> list[Path]:
    """Return what the stages have on disk and ``artifacts`` do not name.

    Of reports there is none: theirs is a folder that keeps its name.
    """
    named = {artifact.path for artifact in artifacts}
    return [
        path for stage in stages if stage != "report" for path in stored(root, stage) if path not in named
    ]


def set_aside(artifacts: Iterable[Artifact], stages: Iterable[str], *, root: Path = Path()) -> list[Path]:
    """Move what the stages have on disk and ``artifacts`` do not name into the store, records too.

    Returns:
        The artifacts that were moved.
    """
    artifacts, stages = list(artifacts), list(stages)
    moved = unnamed(artifacts, stages, root=root)
    kept = {artifact.record for artifact in artifacts}
    records = [path for stage in stages for path in stored_records(root, stage) if path not in kept]
    for path in [*moved, *records]:
        _move(root / path, root / STORE / path)
        _remove_empty(root, (root / path).parent)
    return moved


def take_back(artifacts: Iterable[Artifact], *, root: Path = Path()) -> list[Path]:
    """Move what ``artifacts`` name, is missing and lies in the store back to its place; return what was moved."""
    artifacts, moved = list(artifacts), set()
    if not (root / STORE).is_dir():
        return []
    for artifact in artifacts:
        for path in (artifact.path, artifact.record):
            if (root / STORE / path).exists() and not (root / path).exists():
                _move(root / STORE / path, root / path)
                moved.add(path)
    return sorted(moved - {artifact.record for artifact in artifacts})


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    try:
        os.replace(source, target)
    except FileNotFoundError:
        if source.exists():
            raise  # else: another job of the same study took it back first


def _remove_empty(root: Path, folder: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
