"""List the results in the store, and delete those that no study refers to when a user asks for it."""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from pipeline.core import processes
from pipeline.core.errors import UserError
from pipeline.core.text import open_console
from pipeline.params.reading import PARAMS
from pipeline.results.store import disk_size
from pipeline.study import Study, load_study
from pipeline.study.artifacts import STORE, list_artifacts, record_path
from pipeline.study.stages import STAGES

DAY_S = 86400.0


@dataclass(frozen=True)
class ParkedResult:
    """A result in the store.

    Attributes:
        stage: the stage that produced it.
        path: relative to the store.
        size: in bytes.
        parked_at: when it was moved to the store, in seconds since the epoch.
        studies: the names of the studies that refer to it.
    """

    stage: str
    path: Path
    size: int
    parked_at: float
    studies: tuple[str, ...]


def free_store(
    *,
    older_than_days: float = 0.0,
    include_referenced: bool = False,
    confirmed: bool = False,
    studies: Iterable[Study] | None = None,
    root: Path = Path(),
) -> None:
    """Print what is in the store and what of it can be freed; free it if ``confirmed``, or if the user confirms it.

    Args:
        older_than_days: free only what was moved there longer ago.
        include_referenced: also free what a study of params/study/ refers to.
        confirmed: do not ask.
        studies: as for ``list_store``.
        root: the project's root.

    Raises:
        UserError: a negative number of days; or there is something to free and a run is active.
    """
    latest = latest_time(older_than_days)
    parked = list_store(studies=studies, root=root)
    to_free = [
        result
        for result in parked
        if result.parked_at <= latest and (include_referenced or not result.studies)
    ]
    if parked:
        open_console().print(_store_table(parked, to_free))
    size = decimal(sum(result.size for result in to_free))
    print(f"to free: {len(to_free)} of {len(parked)} results, {size}")
    if not to_free:
        return
    if not start_freeing(
        "Free them? They can only be recovered by a rerun. [y/N] ", confirmed=confirmed, root=root
    ):
        return
    for result in to_free:
        _delete_result(root / STORE / result.path)
        _delete_result(root / STORE / record_path(result.stage, result.path))
    print(f"freed {size}")


def latest_time(older_than_days: float) -> float:
    """Return the latest time of what may be freed, in seconds since the epoch.

    Raises:
        UserError: a negative number of days.
    """
    # written so that NaN is refused too
    if not older_than_days >= 0:
        raise UserError(f"prune: --older-than must be 0 days or more (got {older_than_days:g})")
    return time.time() - older_than_days * DAY_S


def _store_table(parked: Sequence[ParkedResult], to_free: Sequence[ParkedResult]) -> Table:
    table = Table("action", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    table.add_column("days", justify="right")
    table.add_column("result", overflow="fold")
    table.add_column("studies that refer to it")
    for result in parked:
        action = "free" if result in to_free else "keep"
        days = (time.time() - result.parked_at) / DAY_S
        studies = ", ".join(result.studies) or "none"
        table.add_row(action, decimal(result.size), f"{days:.1f}", str(result.path), studies)
    return table


def list_store(*, studies: Iterable[Study] | None = None, root: Path = Path()) -> list[ParkedResult]:
    """Return the results in the store.

    Args:
        studies: that may refer to them; None: all of params/study/, which takes seconds to load.
        root: the project's root.
    """
    names_by_path = studies_by_path(studies)
    parked = []
    for stage in STAGES:
        for path in list_artifacts(root / STORE, stage):
            content = root / STORE / path
            # a rename changes ctime but not mtime
            parked_at = content.stat().st_ctime
            names = tuple(names_by_path.get(path, ()))
            parked.append(ParkedResult(stage, path, disk_size(content), parked_at, names))
    return parked


def studies_by_path(studies: Iterable[Study] | None = None) -> dict[Path, list[str]]:
    """Return the names of the studies that refer to each path; the arguments are those of ``list_store``."""
    if studies is None:
        # the store belongs to no single study: what is stale for one may be current for another
        studies = [load_study(path.stem) for path in sorted((PARAMS / "study").glob("*.yaml"))]
    names_by_path: dict[Path, list[str]] = {}
    for study in studies:
        for path in dict.fromkeys(artifact.path for artifact in study.named()):
            names_by_path.setdefault(path, []).append(study.name)
    return names_by_path


def start_freeing(question: str, *, confirmed: bool, root: Path) -> bool:
    """Take the run lock and return True, unless the user does not agree to free what was listed.

    Args:
        question: to the user at the terminal.
        confirmed: do not ask.
        root: the project's root.

    Raises:
        UserError: a run is active.
    """
    # without a terminal nobody can answer, and a script must not wait
    agrees = confirmed or (sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes"))
    if not agrees:
        print("nothing was freed; add --yes to skip the question")
        return False
    # Only deleting needs the lock: a list may be read during a run.
    processes.acquire_run_lock(root)
    return True


def _delete_result(path: Path) -> None:
    """Delete a result. It is renamed first, so that a partly deleted one is never restored."""
    if not path.exists():
        return
    partial = path.with_name(f".{path.name}.partial")
    os.replace(path, partial)
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink()
