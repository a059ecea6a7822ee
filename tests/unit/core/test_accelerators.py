"""The memory and the generators of GPUs, by their type. No GPU is needed: torch's functions for them are replaced."""

import pytest
import torch

from pipeline.adapters.precision import compute_in
from pipeline.core.hardware import accelerators
from pipeline.core.hardware.accelerators import fork_generators, generator_states
from pipeline.models.memory import is_out_of_memory
from pipeline.models.optimizer import build_scaler

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def apple(monkeypatch):
    """Pretend an Apple GPU: its allocator holds 3 GiB, of which tensors use 2, and Metal recommends 10."""
    calls = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: calls.append("empty_cache"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 * 2**30)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2 * 2**30)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * 2**30)
    return calls


def test_the_memory_of_an_apple_gpu(apple):
    accelerators.reset_peak(MPS)
    assert apple == ["empty_cache", "synchronize"]
    assert accelerators.peak_bytes(MPS) == 3 * 2**30
    assert accelerators.free_bytes(MPS) == 8 * 2**30
    assert accelerators.device_name(MPS) == "mps"


def test_the_memory_of_a_card(monkeypatch):
    reset = []
    monkeypatch.setattr(torch.cuda, "synchronize", reset.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    accelerators.reset_peak(CUDA)
    assert reset == [CUDA, CUDA]
    assert accelerators.peak_bytes(CUDA) == 7
    # what torch holds and does not use is free too
    assert accelerators.free_bytes(CUDA) == 130
    assert accelerators.device_name(CUDA) == "NVIDIA X"


def test_a_cpu_has_no_memory_of_its_own():
    accelerators.reset_peak(CPU)
    assert (accelerators.peak_bytes(CPU), accelerators.free_bytes(CPU)) == (0, 0)
    assert accelerators.device_name(CPU) == "cpu"
    assert accelerators.accelerators_of([torch.zeros(1), torch.zeros(1, device="meta")]) == []


def test_the_generators_of_the_cpu_and_of_an_apple_gpu_are_kept(monkeypatch):
    gpu = torch.Generator().manual_seed(1)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device="mps": gpu.get_state())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device="mps": gpu.set_state(state))
    for device, count in ((CPU, 1), (MPS, 2)):
        before = generator_states([device])
        assert len(before) == count
        with fork_generators([device]):
            torch.rand(1)
            torch.rand(1, generator=gpu)
            assert not torch.equal(generator_states([MPS])[1], before[-1])
        assert all(map(torch.equal, generator_states([device]), before))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_on_an_apple_gpu(dtype):
    with compute_in(dtype, "mps"):
        assert torch.is_autocast_enabled("mps")
        assert torch.get_autocast_dtype("mps") == getattr(torch, dtype)
        assert not torch.is_autocast_enabled("cpu")
    assert build_scaler(dtype, MPS).is_enabled() == (dtype == "float16")


def test_a_full_apple_gpu_is_out_of_memory():
    text = "MPS backend out of memory (MPS allocated: 9.00 GiB, other allocations: 1.00 MiB, max allowed: 9.07 GiB)"
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("MPS: unsupported operation"))
