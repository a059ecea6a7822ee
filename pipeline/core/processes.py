"""The run lock of a checkout, and processes that end together with the process they work for.

A ``snakemake`` that makes results, or a command that moves them, acquires the run lock. The kernel releases it however the
process ends, so nobody has to unlock after a kill. A job ends with the snakemake that started it, and a run that DVC
started ends with DVC, also after kill -9. A job that is asked to stop by SIGTERM can finish its step first.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

# in the root of the checkout, not in .snakemake/, which people delete
LOCK = ".run.lock"
# environment variable with HOST:NAMESPACE:ALLOCATION:PID of the snakemake that a job works for
CALLER = "PIPELINE_CALLER"
# where schedulers (Slurm, LSF, PBS, Grid Engine) put the id of the job that a process belongs to
SCHEDULED_JOB = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")
# A lock is released when its object is garbage collected, so run locks stay here until the process ends.
_run_locks: list["BaseFileLock"] = []


def last_run(root: Path) -> int:
    """Return when a run last acquired the lock of the checkout ``root``, in ns; 0 if none has."""
    path = root / LOCK
    return path.stat().st_mtime_ns if path.is_file() and path.stat().st_size else 0


def acquire_run_lock(root: Path, planned_after: int | None = None) -> None:
    """Acquire the run lock of a checkout until this process ends.

    Args:
        root: folder of the checkout.
        planned_after: ``last_run`` from before this run was planned; None: the run needs no plan.

    Raises:
        UserError: another run holds the lock, or has changed the results since this one was planned.
    """
    # imported here because few commands acquire the lock, and all of them import this module
    from filelock import FileLock, Timeout

    path = root / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = path.read_text(encoding="utf-8") or "just started"
        raise UserError(
            f"{root.resolve()}: another run is active ({holder}); wait for it or stop it"
        ) from None
    if planned_after is not None and last_run(root) != planned_after:
        lock.release()
        raise UserError(f"{root.resolve()}: another run was active while this one was planned; start again")
    _run_locks.append(lock)
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")


def register_as_caller() -> None:
    """Let the jobs that this process starts end with it (see ``exit_with_caller``)."""
    os.environ[CALLER] = f"{_pid_namespace()}:{os.getpid()}"


def _pid_namespace() -> str:
    """Return a name of the machine, container or scheduler's job in which processes can end each other."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}:{os.readlink(namespace) if namespace.exists() else ''}:{allocation()}"


def allocation() -> str:
    """Return the id of the scheduler's job that this process belongs to; empty outside such a job.

    A scheduler counts and limits the processes of its job alone, and ends them itself. So nothing of a job is done by, or
    depends on, a process of another allocation, even on the same machine.
    """
    return next((os.environ[name] for name in SCHEDULED_JOB if os.environ.get(name)), "")


def exit_with_caller() -> None:
    """Kill this process as soon as its caller ends.

    The caller is the snakemake that registered itself, and the shell in between; for a command of dvc.yaml it is ``dvc``.
    A command that a person started in a shell has no caller.
    """
    namespace, _, pid = os.environ.get(CALLER, "").rpartition(":")
    # The caller of a scheduler's job may run on another machine, and the scheduler ends the job.
    if pid and namespace == _pid_namespace():
        exit_with_process(int(pid))
        exit_with_process(os.getppid())
    elif not pid and "DVC_STAGE" in os.environ and (dvc := _dvc_pid()):
        exit_with_process(dvc)


def _dvc_pid() -> int | None:
    """Return the id of the nearest parent process that is ``dvc``."""
    import psutil

    for parent in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            if any(Path(word).name == "dvc" for word in parent.cmdline()[:3]):
                return parent.pid
    return None


def exit_with_process(pid: int) -> None:
    """Kill this process, by SIGKILL, when the process ``pid`` ends."""
    threading.Thread(target=_kill_self_after, args=(pid,), daemon=True).start()


@contextlib.contextmanager
def catching_stop() -> Iterator[Callable[[], bool]]:
    """Keep SIGTERM from ending this process within the block; yield a function that says whether one came.

    A scheduler sends it before a time limit, before it preempts a job and when a job is cancelled.
    """
    caught: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    except ValueError:
        # only the main thread may set a handler
        yield lambda: False
        return
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGTERM, before)


def _kill_self_after(pid: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError):
            # psutil would also wait until the killed process is reaped
            process_ended = select.poll()
            process_ended.register(os.pidfd_open(pid), select.POLLIN)
            process_ended.poll()
    else:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait()
    os.kill(os.getpid(), signal.SIGKILL)
