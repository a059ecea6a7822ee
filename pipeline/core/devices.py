"""Where a job computes: the CPU, or GPUs that it claims for itself.

Snakemake counts GPUs and does not say which. Each job takes its own by an exclusive lock on a file per GPU, which the
kernel releases when the job ends, however it ends.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

DEVICES = ("auto", "cpu", "cuda")
# what the rules read of snakemake's --config
CONFIG = ("study", "data_root", "device", "processes", "adapters_per_load")
VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5


def check_options(config: Mapping[str, Any]) -> None:
    """Refuse what ``--config`` gives and no rule reads, or no job could take.

    Raises:
        UserError: naming the key, the value and the choices.
    """
    for key, value in config.items():
        if key not in CONFIG:
            raise UserError(f"--config {key}: unknown (choices: {', '.join(CONFIG)})")
        if key == "device" and value not in DEVICES:
            raise UserError(f"--config device: unknown '{value}' (choices: {', '.join(DEVICES)})")
        if key == "processes" and not (isinstance(value, int) and value > 0):
            raise UserError(f"--config processes: '{value}' is no number of processes above 0")
        if key == "adapters_per_load" and value != "all" and not (isinstance(value, int) and value > 0):
            raise UserError(f"--config adapters_per_load: '{value}' is neither a number above 0 nor 'all'")


@contextlib.contextmanager
def claimed(device: str) -> Iterator[str]:
    """Yield "cpu", or "cuda" with one GPU claimed and made the only visible one.

    Enter it before CUDA is used. A process that ``launch`` started computes on the GPUs that its launcher claimed.

    Args:
        device: "cpu", "cuda", or "auto": a GPU where there is one.

    Raises:
        UserError: unknown device, or "cuda" where there is none.
    """
    if device not in DEVICES:
        raise UserError(f"device: unknown '{device}' (choices: {', '.join(DEVICES)})")
    launched = "LOCAL_RANK" in os.environ
    if launched:
        _end_with_parent()
    pool = [] if device == "cpu" else visible_gpus()
    if device == "cuda" and not pool:
        raise UserError("device=cuda: there is no GPU here that torch can use; use --config device=cpu")
    if not pool or launched:
        yield "cuda" if pool else "cpu"
        return
    with claim(1, pool=pool, directory=_lock_directory()) as gpus, _environment(VISIBLE, ",".join(gpus)):
        yield "cuda"


@contextlib.contextmanager
def claim(n: int, *, pool: Sequence[str], directory: Path) -> Iterator[list[str]]:
    """Yield ``n`` members of ``pool`` that no other process holds; wait while too few are free.

    All are taken or none, so that two jobs that wait for several cannot block each other.

    Args:
        n: how many.
        pool: names of the GPUs, as CUDA_VISIBLE_DEVICES has them.
        directory: of the lock files; all jobs that share the GPUs give the same.

    Raises:
        UserError: if the pool is smaller than ``n``.
    """
    if n > len(pool):
        raise UserError(f"{n} GPUs asked for, {len(pool)} here ({', '.join(pool)}); lower --config processes")
    directory.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        with contextlib.ExitStack() as held:
            taken: list[str] = []
            for gpu in pool:
                if len(taken) < n and _try_lock(directory / f"{gpu.replace('/', '-')}.lock", held):
                    taken.append(gpu)
            if len(taken) == n:
                yield taken
                return
        if not waiting:
            print(f"waiting for {n} free GPU(s) of {', '.join(pool)}", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)


def launch(argv: Sequence[str], n: int, *, device: str = "auto") -> None:
    """Run ``python ARGV`` in ``n`` processes that know each other (torch.distributed.run), on GPUs of their own if any.

    Raises:
        UserError: if a process fails; its own message stands above.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    with contextlib.ExitStack() as held:
        pool = [] if device == "cpu" else visible_gpus()
        if pool:
            gpus = held.enter_context(claim(n, pool=pool, directory=_lock_directory()))
            held.enter_context(_environment(VISIBLE, ",".join(gpus)))
        # children forked by the warm parent (pipeline.core.warm) would not end with this launcher
        held.enter_context(_environment("PIPELINE_WARM", None))
        try:
            main(["--standalone", f"--nproc_per_node={n}", *argv])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise UserError(
                f"process {rank} of {n} failed (exit {failure.exitcode}); its message stands above"
            ) from None


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; asks NVML, starts no CUDA."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    preset = os.environ.get(VISIBLE)
    names = [str(index) for index in range(count)] if preset is None else preset.split(",")
    return [name.strip() for name in names[:count]]


def _lock_directory() -> Path:
    # A scheduler may give each job GPUs of its own that are all called 0, so locks are per scheduled job.
    scheduled = os.environ.get("SLURM_JOB_ID", "machine")
    return Path(tempfile.gettempdir()) / f"adapter-studies-gpus-{os.getuid()}-{scheduled}"


def _try_lock(path: Path, held: contextlib.ExitStack) -> bool:
    """Lock ``path`` until ``held`` is closed; False if another process has it. The file stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    held.callback(os.close, descriptor)
    return True


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable of the environment, or remove it, and put it back at the end."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _end_with_parent() -> None:
    """Have the kernel end this process when its launcher dies, whose death frees the GPUs. Linux only."""
    parent = os.getppid()
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
