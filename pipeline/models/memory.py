"""How many tokens a pass of a training may have: by the free memory of a GPU, and less once memory was too small."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.hardware.accelerators import empty_caches, free_bytes, peak_bytes, reset_peak
from pipeline.models.batches import Example

T = TypeVar("T")

# Of the memory that is free after the probe, this share is planned with: fragments and longer sums take the rest.
PLANNED_SHARE = 0.8
# AdamW's two moments and the gradient, float32, of each trained number.
BYTES_PER_TRAINED = 3 * 4
OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
ADVICE = (
    "use --config gradient_checkpointing=true, or set quantization: nf4, a lower cutoff_len or a 16-bit dtype in the "
    "study's training"
)


class PassTooLarge(Exception):
    """A pass did not fit into the memory of a process of the group; every process of the group raises it."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too small; torch has no error class for that on a CPU or an Apple GPU, only a text."""
    typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return typed or any(text in str(error) for text in OUT_OF_MEMORY)


@contextmanager
def shared_memory_check(group: PartialState, *, can_repeat: bool = True) -> Iterator[None]:
    """Run a block of passes; if a process of the group lacks memory in it, all give up.

    Args:
        group: the processes that run the block.
        can_repeat: whether the block waits for no other process. Otherwise a process without memory leaves the others waiting
            in a pass, and can only end the training.

    Raises:
        PassTooLarge: the block did not fit into the memory of some process.
        UserError: the same, where it cannot be repeated.
    """
    lacking = False
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        lacking = True
    if lacking and not can_repeat:
        raise UserError(
            f"out of memory in a pass, which cannot be repeated with shard=true; use a lower --config micro_batch_tokens, or {ADVICE}"
        )
    if lacking:
        empty_caches()
    if group.num_processes > 1:
        lacking = bool(reduce(torch.tensor(float(lacking), device=group.device), "sum"))
    if lacking:
        raise PassTooLarge


def run_within_memory(
    run: Callable[[int], T],
    budget: int,
    *,
    parameters: Sequence[Tensor],
    examples: Sequence[Example],
    group: PartialState,
) -> tuple[T, int]:
    """Run something with a budget of padded tokens a pass; where memory is too small, again with half of it.

    Args:
        run: takes the budget; it raises ``PassTooLarge`` in all processes or in none.
        budget: the first.
        parameters: whose gradients are dropped before another attempt, so that nothing counts twice.
        examples: that ``run`` may pass; the longest is the smallest budget.
        group: the processes that take part, with equal arguments.

    Returns:
        What ``run`` returns, and the budget that it fitted with.

    Raises:
        UserError: the longest example alone does not fit.
    """
    while True:
        try:
            return run(budget), budget
        except PassTooLarge:
            # not here: the exception still holds the tensors of the pass
            pass
        for parameter in parameters:
            parameter.grad = None
        smaller = halve_budget(budget, longest=max(len(example.ids) for example in examples))
        if group.is_main_process:
            print(
                f"out of memory with {budget} tokens per pass; trying again with {smaller} (docs/machine.md)",
                file=sys.stderr,
            )
        budget = smaller


def halve_budget(budget: int, *, longest: int) -> int:
    """Return half of a budget, and no less than the longest example has.

    Raises:
        UserError: the budget allows no more than that already.
    """
    if budget <= longest:
        raise UserError(f"out of memory with single examples, of up to {longest} tokens; {ADVICE}")
    return max(budget // 2, longest)


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turn an exhausted memory outside the passes, such as that of loading the base, into one line.

    Raises:
        UserError: in place of the allocator's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory outside the passes of a step; {ADVICE}") from None


def choose_budget(
    loss_of: Callable[[Sequence[Example]], Tensor],
    *,
    parameters: Sequence[Tensor],
    examples: Sequence[Example],
    batch_size: int,
    group: PartialState,
    devices: Sequence[torch.device],
    default: int,
    can_repeat: bool = True,
) -> int:
    """Return the budget of padded tokens of a pass on GPUs, from their free memory and the peak of one pass.

    All processes of the group get the smallest of their budgets. On several GPUs, the one with the least memory decides.

    Args:
        loss_of: passes some examples forward.
        parameters: the trainable ones; their gradients are dropped.
        examples: of the training; the probe passes the longest.
        batch_size: examples in a step.
        group: the processes that take part.
        devices: the GPUs that hold the model of this process.
        default: the budget of the probe, and of a training whose probe does not fit.
        can_repeat: as for ``shared_memory_check``.
    """
    budget = default
    longest_first = sorted(examples, key=lambda example: len(example.ids), reverse=True)
    longest = len(longest_first[0].ids)
    probe = longest_first[: max(1, default // longest)]
    for device in devices:
        reset_peak(device)
    before = [peak_bytes(device) for device in devices]
    try:
        torch.autograd.backward(loss_of(probe))
        peaks = [peak_bytes(device) - start for device, start in zip(devices, before, strict=True)]
        empty_caches()
        budget = min(
            budget_for_memory(
                free_bytes(device),
                peak=peak,
                probe_tokens=len(probe) * longest,
                trained=sum(
                    parameter.numel()
                    for parameter in parameters
                    if len(devices) == 1 or parameter.device == device
                ),
                longest=longest,
                most=batch_size * longest,
            )
            for device, peak in zip(devices, peaks, strict=True)
        )
    except (MemoryError, RuntimeError) as error:
        if not (is_out_of_memory(error) and can_repeat):
            raise
    for parameter in parameters:
        parameter.grad = None
    empty_caches()
    if group.num_processes > 1:
        budget = int(gather(torch.tensor([budget], device=group.device)).min())
    return budget


def budget_for_memory(
    free: int, *, peak: int, probe_tokens: int, trained: int, longest: int, most: int
) -> int:
    """Return how many padded tokens a pass may have.

    The probe passes the longest examples, whose tokens cost the most, so that the estimate errs to the safe side.

    Args:
        free: bytes that are free beside the model.
        peak: bytes that the probe took beside the model.
        probe_tokens: padded tokens of the probe.
        trained: trained numbers, whose gradients and moments need memory too.
        longest: tokens of the longest example, the least that a pass needs.
        most: padded tokens that a step can have.
    """
    planned = PLANNED_SHARE * free - BYTES_PER_TRAINED * trained
    tokens = int(planned * probe_tokens / max(1, peak))
    return max(longest, min(tokens, most))
