"""Time of a call, and memory of this process, on a CPU or a CUDA device."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

Result = TypeVar("Result")


class Seconds(NamedTuple):
    """Time of a call."""

    wall: float
    cpu: float


def time_call(function: Callable[..., Result], *arguments: Any) -> tuple[Result, Seconds]:
    """Return the result of a call and the time it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def median_time(times: Sequence[Seconds]) -> Seconds:
    """Return the median wall and the median CPU seconds."""
    return Seconds(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times))


def resident_mib(field: str) -> float:
    """Return a field of /proc/self/status, such as VmRSS, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def reset_peak_mib(device: str) -> float:
    """Reset the peak of memory use; return the present use, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    reset_resident_peak()
    return resident_mib("VmRSS")


def reset_resident_peak() -> None:
    """Reset the peak of this process' resident size to its present size."""
    # proc(5): 5 resets VmHWM
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: str) -> float:
    """Return the peak of memory use since ``reset_peak_mib``, in MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident_mib("VmHWM")
