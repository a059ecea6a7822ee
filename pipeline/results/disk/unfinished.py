"""List the unfinished work that killed jobs have left, and delete on request what no job would resume.

A killed training or generation leaves a hidden work folder, from which the next job of that result resumes. It is abandoned
if the result exists all the same, or if no study plans its job any more. A killed write leaves a ``.partial`` file or
folder, which nothing reads again.
"""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from pipeline.core.text import open_console
from pipeline.core.work_folder import FolderInUse, folder_lock
from pipeline.results.disk.free_store import DAY_S, latest_time, start_freeing, studies_by_path
from pipeline.study import Study
from pipeline.study.artifacts import RECORDS, STORE
from pipeline.study.stages import STAGES

_WORK = re.compile(r"\.((?:.*-)?[0-9a-f]{12})\.work")
_PARTIAL = re.compile(r"\..+\.partial")
# A file that is being written has no lock, so a young one counts as in use.
WRITING_S = 3600.0


@dataclass(frozen=True)
class UnfinishedWork:
    """Work that a job has not finished.

    Attributes:
        path: relative to the project's root.
        size: in bytes.
        changed_at: when any of its files was last written, in seconds since the epoch.
        result: the path of the result; None for what a killed write left.
        has_result: whether that result exists.
        in_use: whether a running job may need it.
        studies: the names of the studies that plan its job.
    """

    path: Path
    size: int
    changed_at: float
    result: Path | None
    has_result: bool
    in_use: bool
    studies: tuple[str, ...]

    @property
    def is_resumable(self) -> bool:
        """Whether a job that a study plans would resume from it."""
        return bool(self.studies) and not self.has_result

    @property
    def state(self) -> str:
        """In words, why it may be deleted or why it stays."""
        if self.in_use:
            return "in use"
        if self.result is None:
            return "left by a killed write"
        if self.has_result:
            return "the result exists"
        return f"resumable: {', '.join(self.studies)}" if self.studies else "no study plans it"


def free_unfinished(
    *,
    older_than_days: float = 0.0,
    include_resumable: bool = False,
    confirmed: bool = False,
    studies: Iterable[Study] | None = None,
    root: Path = Path(),
) -> None:
    """Print the unfinished work and what of it can be freed; free it if ``confirmed``, or if the user confirms it.

    Args:
        older_than_days: free only what has not changed for this long.
        include_resumable: also free what a study's next job would resume from.
        confirmed: do not ask.
        studies: that may plan the jobs; None: all of params/study/, which takes seconds to load.
        root: the project's root.

    Raises:
        UserError: a negative number of days; or there is something to free and a run is active.
    """
    latest = latest_time(older_than_days)
    found = list_unfinished(studies=studies, root=root)
    to_free = [
        work
        for work in found
        if not work.in_use and work.changed_at <= latest and (include_resumable or not work.is_resumable)
    ]
    if found:
        open_console().print(_work_table(found, to_free))
    size = decimal(sum(work.size for work in to_free))
    print(f"to free: {len(to_free)} of {len(found)} unfinished results, {size}")
    skipped = sum(work.in_use for work in found)
    question = "Free them? A job that would resume from one starts from the beginning. [y/N] "
    if to_free and start_freeing(question, confirmed=confirmed, root=root):
        freed = [work for work in to_free if _delete_unless_in_use(root / work.path)]
        skipped += len(to_free) - len(freed)
        print(f"freed {decimal(sum(work.size for work in freed))}")
    if skipped:
        print(f"skipped: {skipped} in use by a running job")


def remind_of_unfinished(root: Path = Path()) -> None:
    """Print a line if there is unfinished work."""
    paths = unfinished_paths(root)
    if paths:
        size = decimal(sum(_measure(root / path)[0] for path in paths))
        print(f"unfinished work: {len(paths)}, {size}; list it: python -m pipeline prune --unfinished")


def list_unfinished(*, studies: Iterable[Study] | None = None, root: Path = Path()) -> list[UnfinishedWork]:
    """Return the unfinished work in the folders of the stages, of the records and of the store.

    Args:
        studies: as for ``free_unfinished``.
        root: the project's root.
    """
    paths = unfinished_paths(root)
    names = studies_by_path(studies) if paths else {}
    return [_describe(path, names, root) for path in paths]


def unfinished_paths(root: Path = Path()) -> list[Path]:
    """Return the paths of all unfinished work, relative to ``root``, without a look into it."""
    tops = [*(Path(stage.folder) for stage in STAGES.values()), RECORDS]
    return sorted(
        path.relative_to(root)
        for top in (*tops, *(STORE / top for top in tops))
        for path in _hidden_work(root / top)
    )


def _hidden_work(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            if _PARTIAL.fullmatch(name) or (name in folders and _WORK.fullmatch(name)):
                yield Path(folder, name)
        folders[:] = [name for name in folders if not name.startswith(".")]


def _describe(path: Path, names: Mapping[Path, Sequence[str]], root: Path) -> UnfinishedWork:
    match = _WORK.fullmatch(path.name)
    result = path.with_name(match[1]) if match else None
    size, changed_at = _measure(root / path)
    return UnfinishedWork(
        path=path,
        size=size,
        changed_at=changed_at,
        result=result,
        has_result=result is not None and (root / result).exists(),
        in_use=_is_in_use(root / path, changed_at),
        studies=tuple(names.get(result, ())) if result else (),
    )


def _measure(path: Path) -> tuple[int, float]:
    """Return the size of a file or of a folder's files, and when any of it was last written."""
    size, changed_at = 0, 0.0
    inside = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
    for file in (path, *inside):
        # a running job renames and deletes its files
        with suppress(FileNotFoundError):
            stat = os.lstat(file)
            size += 0 if file.is_dir() else stat.st_size
            changed_at = max(changed_at, stat.st_mtime)
    return size, changed_at


def _is_in_use(path: Path, changed_at: float) -> bool:
    if not path.is_dir():
        return time.time() - changed_at < WRITING_S
    try:
        with folder_lock(path):
            return False
    except (FolderInUse, OSError):
        # a file system without locks cannot say
        return True


def _delete_unless_in_use(path: Path) -> bool:
    """Delete it, and return True; a folder is locked meanwhile, so that no job starts to work in it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    with suppress(FolderInUse, OSError), folder_lock(path):
        shutil.rmtree(path)
    return not path.exists()


def _work_table(found: Sequence[UnfinishedWork], to_free: Sequence[UnfinishedWork]) -> Table:
    table = Table("action", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    table.add_column("days", justify="right")
    table.add_column("unfinished", overflow="fold")
    table.add_column("state")
    for work in found:
        days = (time.time() - work.changed_at) / DAY_S
        action = "free" if work in to_free else "keep"
        table.add_row(action, decimal(work.size), f"{days:.1f}", str(work.path), work.state)
    return table
