"""The hidden folder beside a result in which its job keeps unfinished work, and the lock that a running job has on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.errors import UserError


class FolderInUse(Exception):
    """Another process has the lock of the folder."""


def work_folder(output: Path) -> Path:
    """Return the folder of the unfinished work on a result."""
    return output.with_name(f".{output.name}.work")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which the kernel releases however this process ends.

    On a network file system the lock is valid between processes of one machine: Linux does not send locks on folders to
    the server.

    Raises:
        FolderInUse: another process has the lock.
        OSError: the folder is missing, or its file system has no locks.
    """
    # The lock is on the folder itself, which filelock cannot do: a lock file in it would become part of the result.
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(folder) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def locked_work_folder(output: Path) -> Iterator[Path]:
    """Yield the work folder of a result, which this process alone may use within the block; empty, it is deleted.

    Raises:
        UserError: another process uses it.
    """
    work = work_folder(output)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with folder_lock(work):
            try:
                yield work
            finally:
                # a job that fails at once leaves nothing behind
                with suppress(OSError):
                    work.rmdir()
    except FolderInUse:
        raise UserError(
            f"{work}: another process is working on {output.name}; wait until it ends, or stop it"
        ) from None
