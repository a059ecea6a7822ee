"""What torch calls differently on NVIDIA cards and on an Apple GPU: their memory, random generators and names.

On a CPU the functions do nothing, or return 0. Devices are those of one job, of one type.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def accelerators_of(tensors: Iterable[Tensor]) -> list[torch.device]:
    """Return the GPUs that tensors lie on, each once, in order; empty where all lie on the CPU."""
    return [device for device in dict.fromkeys(tensor.device for tensor in tensors) if is_gpu(device)]


def is_gpu(device: torch.device) -> bool:
    """Whether a device is a GPU that jobs may use."""
    return device.type in ("cuda", "mps")


def fork_generators(devices: Sequence[torch.device]) -> AbstractContextManager[None]:
    """Return a context that leaves the random generators of the CPU and of GPUs as they were."""
    gpus = [device for device in devices if is_gpu(device)]
    return torch.random.fork_rng(devices=gpus, device_type=gpus[0].type if gpus else None)


def generator_states(devices: Sequence[torch.device]) -> list[Tensor]:
    """Return the states of the random generators of the CPU and of GPUs."""
    states = [torch.get_rng_state()]
    states += [torch.get_device_module(device).get_rng_state(device) for device in devices if is_gpu(device)]
    return states


def empty_caches() -> None:
    """Return memory that torch holds on GPUs and does not use."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Wait for a GPU, and restart the count of its peak memory."""
    empty_caches()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_bytes(device: torch.device) -> int:
    """Return the peak of a GPU's memory so far; 0 on a CPU.

    On an Apple GPU torch keeps no peak. Its allocator keeps what was freed, so what it holds is the peak since the cache was
    last emptied, rounded up.
    """
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def free_bytes(device: torch.device) -> int:
    """Return the memory of a GPU that is free, or that torch holds and does not use; 0 on a CPU.

    An Apple GPU shares the memory of the host, of which Metal recommends a part.
    """
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type != "cuda":
        return 0
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def device_name(device: torch.device) -> str:
    """Return a card's name as its vendor has it, else the type of a device, such as "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
