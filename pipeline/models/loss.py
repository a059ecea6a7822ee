"""The loss of a step and its gradients, in micro-batches that several processes can share."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.adapters import methods
from pipeline.adapters.precision import compute_in
from pipeline.models.batches import Example, collate, split_into_micro_batches
from pipeline.models.training_job import TrainingJob
from pipeline.prompts.encode import IGNORED


def accumulate_gradients(
    job: TrainingJob, batch: Sequence[Example], *, step: int, scale: float = 1.0
) -> tuple[float, int]:
    """Add the gradient of a step's mean loss per supervised token, and of the method's penalty, to the parameters.

    Args:
        job: the training; all processes of its group call this with the same arguments.
        batch: the examples of the step.
        step: number of the step, counted from 0. With the seed it decides dropout, so a resumed run draws the same.
        scale: factor of the gradients, so that those of single tokens do not underflow in float16.

    Returns:
        Summed loss (without the penalty) and number of supervised tokens, over all processes.
    """
    group, settings = job.group, job.settings
    supervised = sum(example.supervised for example in batch)
    micro_batches = split_into_micro_batches(
        [len(example.ids) for example in batch],
        budget=settings.micro_batch_tokens,
        parts=job.parts,
    )
    summed = torch.zeros((), device=group.device)
    for number, indices in enumerate(micro_batches):
        if number % group.num_processes != group.process_index:
            continue
        # the hash of a tuple of integers is the same in every process
        torch.manual_seed(hash((job.seed, step, number)) % 2**63)
        loss = summed_loss(
            job.model,
            [batch[index] for index in indices],
            pad=job.pad,
            device=group.device,
            dtype=settings.dtype,
        )
        # divided by the tokens of the whole step, so that gradients do not depend on the split
        torch.autograd.backward(loss * (scale / supervised))
        summed += loss.detach()
    # by a single process, because gradients are summed over processes
    penalty = methods.loss_penalty(job.model) if group.is_main_process else None
    if penalty is not None:
        torch.autograd.backward(penalty * scale)
    if group.num_processes > 1:
        _sum_gradients(job.parameters)
        summed = reduce(summed, "sum")
    return float(summed), supervised


def summed_loss(
    model: Any, examples: Sequence[Example], *, pad: int, device: torch.device, dtype: str = "float32"
) -> Tensor:
    """Return the cross entropy summed over the supervised tokens of ``examples``, a scalar in float32.

    The model computes in ``dtype``.
    """
    ids, mask, labels = (tensor.to(device) for tensor in collate(examples, pad=pad))
    return batch_loss(model, ids, mask, labels, dtype=dtype)


def batch_loss(model: Any, ids: Tensor, mask: Tensor, labels: Tensor, *, dtype: str) -> Tensor:
    """Return the cross entropy summed over the supervised tokens of a padded batch, a scalar in float32.

    Logits are computed at the positions of those tokens only.

    Args:
        model: a causal language model, with or without an adapter.
        ids: (examples, tokens), int64.
        mask: the same shape; 0 at the padding.
        labels: the same shape; IGNORED where a token bears no loss.
        dtype: that the model computes in.
    """
    targets = labels.new_full(labels.shape, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    supervised = targets != IGNORED

    def select_supervised(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        # a soft prompt precedes the tokens
        return (inputs[0][:, -ids.shape[1] :][supervised],)

    # with a large vocabulary, logits of all tokens would need more memory than the rest of the pass
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    hook = base.get_output_embeddings().register_forward_pre_hook(select_supervised)
    try:
        with compute_in(dtype, ids.device):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        hook.remove()
    return cross_entropy(logits.float(), targets[supervised], reduction="sum")


def parts_of_step(model: Any, example: Example, group: PartialState, *, pad: int, dtype: str) -> int:
    """Return how many micro-batches a step needs at least: one for each process, unless the split would change results.

    Dropout is drawn for a micro-batch. Where a model has it, the split is that of a single process, so that any number of
    processes trains the same adapter; processes beyond the number of micro-batches then wait.
    """
    processes = int(group.num_processes)
    if processes > 1 and draws_random_numbers(model, example, pad=pad, device=group.device, dtype=dtype):
        return 1
    return processes


def draws_random_numbers(
    model: Any, example: Example, *, pad: int, device: torch.device, dtype: str = "float32"
) -> bool:
    """Return whether a pass in training mode draws random numbers, as dropout does.

    Whatever draws them (dropout of the adapter or of the base, or noise), torch's generators show it, so no list of
    settings can go out of date. They are left as they were.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        before = _generator_states(device)
        summed_loss(model, [example], pad=pad, device=device, dtype=dtype)
        after = _generator_states(device)
    return any(not torch.equal(state, later) for state, later in zip(before, after, strict=True))


def _generator_states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum gradients over the processes, in one transfer. A number that is not finite in one process is so in all."""
    flat = torch.cat(
        [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in parameters
        ]
    )
    flat = reduce(flat, "sum")
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
