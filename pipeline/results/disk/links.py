"""Results whose files are links into DVC's cache, as `dvc config cache.type symlink` makes them.

The cache may lose what dvc.lock no longer lists (`dvc gc -w`). Parked results must therefore hold their own bytes, and
a result with a dead link is no result.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import UserError


def has_dead_link(path: Path) -> bool:
    """Return whether a result is a link to a missing file, or a folder with such a link."""
    return any(not link.exists() for link in _links(path))


def materialize(path: Path) -> None:
    """Replace each link in a result by the file that it points to; a copy, so that DVC's cache stays as it is.

    Raises:
        FileNotFoundError: a link is dead.
    """
    for link in _links(path):
        copied = link.with_name(f".{link.name}.copied")
        shutil.copy(link, copied)
        # objects of the cache are read-only
        copied.chmod(copied.stat().st_mode | 0o200)
        os.replace(copied, link)


def delete_dead(paths: Iterable[Path]) -> list[Path]:
    """Delete results with dead links, so that they are restored or made again.

    Returns:
        The paths of the deleted results.

    Raises:
        UserError: the folder of the cache itself is missing, so the results may come back when it is mounted.
    """
    dead = [path for path in paths if has_dead_link(path)]
    for path in dead:
        for link in _links(path):
            # CACHE/files/md5/ab/cdef...
            cache = Path(os.path.abspath(link.parent / os.readlink(link))).parent.parent
            if not cache.is_dir():
                raise UserError(
                    f"{path}: its files are links into DVC's cache {cache}, which is missing; mount it, "
                    "or delete the links to make the results again"
                )
    for path in dead:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return dead


def _links(path: Path) -> Iterator[Path]:
    if path.is_symlink():
        yield path
        return
    for folder, folders, names in os.walk(path):
        yield from (link for name in (*folders, *names) if (link := Path(folder, name)).is_symlink())
