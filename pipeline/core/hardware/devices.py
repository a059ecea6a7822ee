"""Where a job computes: on the CPU, or on GPUs that it claims for itself, NVIDIA's ("cuda") or the GPU of an Apple computer ("mps").

Snakemake counts GPUs but does not say which ones a job may use. Each job locks one file per GPU that it takes. The kernel
releases the locks when the job ends, even after kill -9.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.processes import exit_with_process

DEVICES = ("auto", "cpu", "cuda", "mps")
VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5
# without a workspace of its own, cuBLAS may sum in another order from call to call
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def claim_device(device: str, *, gpus: int = 1) -> Iterator[str]:
    """Yield "cpu", "mps" with the GPU claimed, or "cuda" with GPUs claimed and made the only visible ones.

    Enter it before CUDA is initialized. A process that ``launch_processes`` started uses the GPUs that its launcher
    claimed.

    Args:
        device: "cpu", "cuda", "mps", or "auto": a GPU if there is one.
        gpus: how many GPUs the job uses, if any.

    Raises:
        UserError: an unknown device, or "cuda" or "mps" on a machine without enough such GPUs.
    """
    if device not in DEVICES:
        raise UserError(f"device: unknown '{device}' (choices: {', '.join(DEVICES)})")
    launched = "LOCAL_RANK" in os.environ
    if launched:
        # the GPUs are free for other jobs once the launcher is dead
        exit_with_process(os.getppid())
    kind, pool = find_gpus(device)
    _refuse_missing_gpu(device, pool)
    if not pool or launched:
        yield kind
        return
    with _claim_of_kind(kind, gpus, pool=pool, setting="gpus_per_job"):
        yield kind


def check_device(device: str, *, gpus: int = 1) -> None:
    """Refuse a device that this machine lacks, before any job starts.

    Args:
        device: one of ``DEVICES``.
        gpus: how many GPUs a job uses, if any.

    Raises:
        UserError: "cuda" or "mps" on a machine without such a GPU, or too few GPUs.
    """
    # asking takes an import of torch
    if device not in ("auto", "cpu") or gpus > 1:
        pool = find_gpus(device)[1]
        _refuse_missing_gpu(device, pool)
        if pool:
            _refuse_few_gpus(gpus, pool, setting="gpus_per_job")


def _refuse_few_gpus(n: int, pool: Sequence[str], *, setting: str) -> None:
    if n > len(pool):
        raise UserError(
            f"--config {setting}: {n} GPUs needed, {len(pool)} available ({', '.join(pool)}); use a lower number"
        )


def find_gpus(device: str) -> tuple[str, list[str]]:
    """Return the kind of device that a job computes on, "cpu", "cuda" or "mps", and the names of such GPUs.

    Args:
        device: one of ``DEVICES``; "auto" prefers "cuda" to "mps" to "cpu".
    """
    if device in ("auto", "cuda"):
        gpus = visible_gpus()
        if gpus or device == "cuda":
            return "cuda", gpus
    if device in ("auto", "mps"):
        has_gpu = has_apple_gpu()
        if has_gpu or device == "mps":
            return "mps", ["mps"] if has_gpu else []
    return "cpu", []


def _refuse_missing_gpu(device: str, gpus: Sequence[str]) -> None:
    if device not in ("auto", "cpu") and not gpus:
        raise UserError(
            f"device={device}: torch finds no usable GPU on this machine; use --config device=cpu"
        )


@contextlib.contextmanager
def _claim_of_kind(kind: str, n: int, *, pool: Sequence[str], setting: str) -> Iterator[None]:
    """Claim ``n`` GPUs of a kind; those of the kind "cuda" become the only visible ones."""
    _refuse_few_gpus(n, pool, setting=setting)
    with claim_gpus(n, pool=pool, directory=_lock_directory()) as claimed:
        # an Apple computer has a single GPU, which needs no choice
        visible = ",".join(claimed) if kind == "cuda" else os.environ.get(VISIBLE)
        with _environment_variable(VISIBLE, visible):
            yield


def configure_torch(device: str, *, threads: int | None, deterministic: bool | None) -> None:
    """Set the threads of a job on a CPU, and on a GPU whether only kernels are used that repeat their sums.

    Call it before CUDA is initialized. On a CPU, ``deterministic`` changes nothing: its kernels repeat their sums.

    Args:
        device: a device of torch: "cpu", or such as "cuda" or "mps".
        threads: of torch on a CPU; None: 1, so that every number of cores writes the same bytes and jobs run side by side.
        deterministic: whether torch refuses an operation that has no such kernel.

    Source: https://docs.pytorch.org/docs/2.13/notes/randomness.html
    """
    import torch

    if device == "cpu":
        torch.set_num_threads(threads or 1)
    elif deterministic:
        torch.use_deterministic_algorithms(True)
        if device == "mps":
            return
        os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
        torch.backends.cudnn.deterministic = True
        # it would measure which kernel is the fastest, and so choose differently from run to run
        torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def claim_gpus(n: int, *, pool: Sequence[str], directory: Path) -> Iterator[list[str]]:
    """Yield ``n`` GPUs that no other process has claimed; wait until enough are free.

    It claims all of them or none, so that two jobs that wait for several GPUs cannot block each other.

    Args:
        n: number of GPUs.
        pool: names of the GPUs to choose from, as in CUDA_VISIBLE_DEVICES.
        directory: folder of the lock files; the same for all jobs that share the GPUs.

    Raises:
        UserError: the pool has fewer than ``n`` GPUs.
    """
    _refuse_few_gpus(n, pool, setting="processes")
    directory.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        with contextlib.ExitStack() as locks:
            claimed: list[str] = []
            for gpu in pool:
                lock_file = directory / f"{gpu.replace('/', '-')}.lock"
                if len(claimed) < n and _try_lock(lock_file, locks):
                    claimed.append(gpu)
            if len(claimed) == n:
                yield claimed
                return
        if not waiting:
            print(f"waiting for {n} free GPU(s) of {', '.join(pool)}", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)


def launch_processes(argv: Sequence[str], n: int, *, device: str = "auto") -> None:
    """Run ``python ARGV`` in ``n`` processes connected by torch.distributed, on GPUs of their own if there are any.

    Raises:
        UserError: a process failed; it has printed its own message before.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    with contextlib.ExitStack() as claims:
        kind, pool = find_gpus(device)
        if pool:
            claims.enter_context(_claim_of_kind(kind, n, pool=pool, setting="processes"))
        # Processes forked by the warm server (pipeline.core.warm) would not end with this launcher.
        claims.enter_context(_environment_variable("PIPELINE_WARM", None))
        try:
            main(["--standalone", f"--nproc_per_node={n}", *argv])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise UserError(
                f"process {rank} of {n} failed (exit {failure.exitcode}); see its message above"
            ) from None


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES.

    It asks NVML and does not initialize CUDA.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    preset = os.environ.get(VISIBLE)
    names = [str(index) for index in range(count)] if preset is None else preset.split(",")
    return [name.strip() for name in names[:count]]


def has_apple_gpu() -> bool:
    """Return whether torch finds the GPU of an Apple computer, which all its jobs share."""
    import torch

    return bool(torch.backends.mps.is_available())


def _lock_directory() -> Path:
    # A scheduler may call the GPU of every job "0", so jobs of different allocations must not share lock files.
    scheduled = os.environ.get("SLURM_JOB_ID", "machine")
    return Path(tempfile.gettempdir()) / f"adapter-studies-gpus-{os.getuid()}-{scheduled}"


def _try_lock(path: Path, locks: contextlib.ExitStack) -> bool:
    """Lock a file until ``locks`` is closed; return False if another process holds it. The file stays."""
    # imported here to keep commands that need no GPU fast
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    locks.callback(lock.release)
    return True


@contextlib.contextmanager
def _environment_variable(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable, or unset it (None), and restore it at the end."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
