"""One run at a time in a checkout, and no process that outlives what it works for.

A run is a ``snakemake`` that makes results, or a command that moves them away. It holds a lock that the kernel frees however
it ends, so a killed run leaves nothing to unlock. A job ends with the run that it works for, and a run that DVC started
ends with DVC, also by kill -9.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path

import psutil

from pipeline.core.errors import UserError

LOCK = ".run.lock"  # in the root, since people delete .snakemake/
CALLER = "PIPELINE_CALLER"  # HOST:PID of the snakemake that a job works for


def planned(root: Path) -> int:
    """Return when a run last began in ``root``, in ns; ``claim`` takes it to tell whether a plan is out of date."""
    path = root / LOCK
    return path.stat().st_mtime_ns if path.is_file() and path.stat().st_size else 0


def claim(root: Path, plan: int | None = None) -> None:
    """Make this process the one run in ``root`` until it ends.

    Args:
        root: of the checkout.
        plan: what ``planned`` returned before this run was planned; None: nothing was planned before.

    Raises:
        UserError: another run is at work, or began and ended since this one was planned.
    """
    path = root / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # never closed: open is locked
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8") or "just started"
        raise UserError(
            f"another run ({holder}) is at work in {root.resolve()}; wait for it or end it"
        ) from None
    if plan is not None and planned(root) != plan:
        raise UserError(f"another run was at work in {root.resolve()} while this one planned; start again")
    os.truncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())


def name_as_caller() -> None:
    """Have the jobs that this process starts end with it (``end_with_caller``)."""
    os.environ[CALLER] = f"{_where()}:{os.getpid()}"


def _where() -> str:
    """This machine, or container, by what makes process ids mean the same."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}:{os.readlink(space) if space.exists() else ''}"


def end_with_caller() -> None:
    """End this process, by SIGKILL, as soon as what it works for is gone.

    That is the snakemake that named itself and the shell between, or, in a command of dvc.yaml, the ``dvc`` above. A
    person's own command has nothing to end with.
    """
    where, _, pid = os.environ.get(CALLER, "").rpartition(":")
    if pid and where == _where():  # on a cluster's node the run is out of sight
        end_with(int(pid))
        end_with(os.getppid())
    elif not pid and "DVC_STAGE" in os.environ:
        above = (one.pid for one in psutil.Process().parents() if _is_dvc(one))
        dvc = next(above, None)
        if dvc is not None:
            end_with(dvc)


def _is_dvc(process: psutil.Process) -> bool:
    try:
        return any(Path(word).name == "dvc" for word in process.cmdline()[:3])
    except psutil.Error:
        return False


def end_with(pid: int) -> None:
    """End this process, by SIGKILL, when the process ``pid`` ends."""
    threading.Thread(target=_end_after, args=(pid,), daemon=True).start()


def _end_after(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        if sys.platform == "linux":  # psutil waits until a killed process is reaped as well
            ended = select.poll()
            ended.register(os.pidfd_open(pid), select.POLLIN)
            ended.poll()
        else:
            psutil.Process(pid).wait()
    os.kill(os.getpid(), signal.SIGKILL)
