"""The loss of a step and its gradients, in micro-batches that several processes can share."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from peft import PeftModel, PeftType
from torch import Tensor

from pipeline.adapters import methods
from pipeline.adapters.precision import compute_in
from pipeline.core.hardware.accelerators import fork_generators, generator_states
from pipeline.models import head
from pipeline.models.bases.placement import devices_of
from pipeline.models.batches import (
    Example,
    collate,
    concatenate,
    deal_micro_batches,
    pass_costs,
    pass_overhead,
    split_into_micro_batches,
)
from pipeline.models.memory import shared_memory_check
from pipeline.models.training_job import TrainingJob
from pipeline.prompts.encode import IGNORED

# Architectures whose float32 results without an attention mask have the same bits; a test compares them. GPT-2 is not
# among them: without a mask, transformers looks for padding on the device and warns about it.
UNMASKED = frozenset(
    {
        "llama",
        "bloom",
        "gptj",
        "opt",
        "gpt_neo",
        "gpt_neox",
        "mistral",
        "qwen3",
        "gemma3_text",
        "olmo2",
        "phi3",
    }
)
# Architectures that compute the same for examples in one row as for padded examples, if position ids restart with each
# example; a test compares loss and gradients. From the position ids, transformers makes a mask that keeps the examples
# apart. Not BLOOM and OPT, which take positions from the attention mask; nor GPT-Neo, where a row may not have
# more tokens than the model has positions.
PACKED = frozenset(
    {
        "llama",
        "gptj",
        "gpt2",
        "gpt_neox",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "olmo2",
        "olmo3",
        "phi3",
        "smollm3",
        "granite",
        "cohere",
    }
)


def accumulate_gradients(
    job: TrainingJob, batch: Sequence[Example], *, step: int, scale: float = 1.0, budget: int | None = None
) -> tuple[float, int]:
    """Add the gradient of a step's mean loss per supervised token, and of the method's penalty, to the parameters.

    Args:
        job: the training; all processes of its group call this with the same arguments.
        batch: the examples of the step.
        step: number of the step, counted from 0. With the seed it decides dropout, so a resumed run draws the same.
        scale: factor of the gradients, so that those of single tokens do not underflow in float16.
        budget: tokens of a micro-batch, padding included; None: as the settings say.

    Raises:
        PassTooLarge: memory is too small in some process; gradients are then incomplete in all.

    Returns:
        Summed loss (without the penalty) and number of supervised tokens, over all processes.
    """
    group, settings = job.group, job.settings
    supervised = sum(example.supervised for example in batch)
    budget = budget or settings.micro_batch_tokens
    summed = torch.zeros((), device=group.device)
    with shared_memory_check(group, can_repeat=not job.is_sharded):
        for number, indices, weight in own_passes(job, batch, parts=job.parts, budget=budget):
            # the hash of a tuple of integers is the same in every process
            torch.manual_seed(hash((job.seed, step, number)) % 2**63)
            loss = pass_loss(job, [batch[index] for index in indices])
            # divided by the tokens of the whole step, so that gradients do not depend on the split
            torch.autograd.backward(loss * (weight * scale / supervised))
            summed += weight * loss.detach()
        # by a single process, because gradients are summed over processes
        penalty = methods.loss_penalty(job.model) if group.is_main_process else None
        if penalty is not None:
            torch.autograd.backward(penalty * scale)
    if group.num_processes > 1:
        _sum_gradients(job.parameters)
        summed = reduce(summed, "sum")
    return float(summed), supervised


class Pass(NamedTuple):
    """A pass through the model: the number of its micro-batch, the indices of its examples, and the weight of its loss."""

    number: int
    indices: list[int]
    # 0 for a pass that a process takes only because the others need its share of the weights
    weight: int


def own_passes(job: TrainingJob, batch: Sequence[Example], *, parts: int, budget: int) -> list[Pass]:
    """Return the passes of a batch that this process computes.

    With a sharded base, each layer of a pass waits for all processes. So all take equally many: a process with fewer
    micro-batches adds passes of the shortest example, whose loss has weight 0.
    """
    lengths, overhead = [len(example.ids) for example in batch], pass_overhead(job.group.device)
    width = int(job.model.config.get_text_config().hidden_size) if job.packing else None
    micro_batches = split_into_micro_batches(
        lengths, budget=budget, parts=parts, overhead=overhead, packed_width=width
    )
    costs = pass_costs(lengths, micro_batches, overhead=overhead, packed_width=width)
    dealt = deal_micro_batches(costs, job.group.num_processes)
    own = dealt[job.group.process_index]
    passes = [Pass(number, micro_batches[number], 1) for number in own]
    if job.is_sharded:
        shortest = lengths.index(min(lengths))
        passes += [Pass(0, [shortest], 0)] * (max(map(len, dealt)) - len(own))
    return passes


@torch.no_grad()
def held_out_loss(job: TrainingJob, *, budget: int) -> float:
    """Return the loss summed over the supervised tokens of the held-out examples, over all processes.

    Args:
        job: the training; its model is in evaluation mode.
        budget: tokens of a micro-batch, padding included.

    Raises:
        PassTooLarge: memory is too small in some process.
    """
    group, held_out, batch_size = job.group, job.held_out, job.settings.batch_size
    summed = torch.zeros((), device=group.device)
    with shared_memory_check(group, can_repeat=not job.is_sharded):
        for first in range(0, len(held_out), batch_size):
            batch = held_out[first : first + batch_size]
            for _, indices, weight in own_passes(job, batch, parts=group.num_processes, budget=budget):
                summed += weight * pass_loss(job, [batch[index] for index in indices])
    return float(reduce(summed, "sum"))


def pass_loss(job: TrainingJob, examples: Sequence[Example]) -> Tensor:
    """Return the loss of a micro-batch of a training, summed over its supervised tokens."""
    return summed_loss(
        job.model,
        examples,
        pad=job.pad,
        device=job.group.device,
        dtype=job.settings.dtype,
        packed=job.packing,
    )


def summed_loss(
    model: Any,
    examples: Sequence[Example],
    *,
    pad: int,
    device: torch.device,
    dtype: str = "float32",
    packed: bool = False,
) -> Tensor:
    """Return the cross entropy summed over the supervised tokens of ``examples``, a scalar in float32.

    The model computes in ``dtype``. Nothing here waits for the device: what depends on the labels is known on the host.
    With ``packed``, which not all models allow (``choose_packing``), the examples share one row without padding.
    """
    if packed:
        ids, position_ids, labels = concatenate(examples)
        inputs = {"input_ids": ids, "position_ids": position_ids}
    else:
        ids, mask, labels = collate(examples, pad=pad)
        inputs = {"input_ids": ids}
        # right padding is behind all tokens that bear loss, so causal attention never reads it
        if not ignores_padding(model, device):
            inputs["attention_mask"] = mask
    inputs = {name: _move(tensor, device) for name, tensor in inputs.items()}
    positions, targets = (_move(tensor, device) for tensor in _supervised_tokens(labels))
    return _loss_at(model, inputs, positions, targets, dtype=dtype)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy on a device, without a wait for what the device still computes."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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
    inputs = {"input_ids": ids, "attention_mask": mask}
    return _loss_at(model, inputs, *_supervised_tokens(labels), dtype=dtype)


def _supervised_tokens(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the next token bears loss, as indices into the flattened batch, and those next tokens."""
    targets = labels.new_full(labels.shape, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    targets = targets.flatten()
    positions = (targets != IGNORED).nonzero().flatten()
    return positions, targets[positions]


def _loss_at(
    model: Any, inputs: Mapping[str, Tensor], positions: Tensor, targets: Tensor, *, dtype: str
) -> Tensor:
    ids = inputs["input_ids"]
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    in_pieces = head.needs_pieces(base, len(targets), dtype=dtype)
    hidden: list[Tensor] = []

    def select_supervised(_: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
        # a soft prompt precedes the tokens
        states = arguments[0][:, -ids.shape[1] :].flatten(0, 1)
        # a base over several GPUs begins on the first and ends on the last
        chosen = states.index_select(0, positions.to(states.device))
        hidden.append(chosen)
        # the pass then ends without logits
        return (chosen[:0] if in_pieces else chosen,)

    # with a large vocabulary, logits of all tokens would need more memory than the rest of the pass
    hook = base.get_output_embeddings().register_forward_pre_hook(select_supervised)
    try:
        with compute_in(dtype, ids.device):
            logits = model(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    if not in_pieces:
        return head.loss_of_logits(logits, targets.to(logits.device)).to(ids.device)
    with compute_in(dtype, ids.device, cache=False):
        loss = head.loss_of_hidden(
            base.get_output_embeddings(), hidden[0], targets, words=int(logits.shape[-1])
        )
    return loss.to(ids.device)


def ignores_padding(model: Any, device: torch.device) -> bool:
    """Return whether a model needs no attention mask for right-padded examples: without one it computes the same.

    On a CPU it computes the same bits. torch can then choose its fastest attention, and transformers need not read the mask
    back from the device. A soft prompt has tokens of its own in the mask.
    """
    if _has_soft_prompt(model):
        return False
    config: Any = model.config
    heads = getattr(config, "num_attention_heads", None)
    # where heads share keys, attention without a mask sums the gradients of the keys in another order
    shares_keys = getattr(config, "num_key_value_heads", None) not in (None, heads)
    return config.model_type in UNMASKED and not (shares_keys and device.type == "cpu")


def choose_packing(model: Any, setting: bool | None, group: PartialState) -> bool:
    """Return whether the examples of a micro-batch share one row: if the machine's setting says so and the model allows it.

    Where it does not, a line on stderr says why. Without a setting, examples are padded.
    """
    obstacle = _packing_obstacle(model) if setting else ""
    if obstacle and group.is_main_process:
        print(
            f"packing: not possible with {obstacle}; examples are padded (docs/machine.md)", file=sys.stderr
        )
    return bool(setting) and not obstacle


def _packing_obstacle(model: Any) -> str:
    """Return what keeps a model's examples from sharing a row, such as "model_type bloom"; empty: nothing."""
    method: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    # a soft prompt precedes a row, not each of its examples
    if method and _has_soft_prompt(model):
        return f"peft_type {method.peft_type.value}"
    model_type = model.config.model_type
    return "" if model_type in PACKED else f"model_type {model_type}"


def _has_soft_prompt(model: Any) -> bool:
    """Return whether a method adds virtual tokens, to the input or to the attention of some layers."""
    if not isinstance(model, PeftModel):
        return False
    method: Any = model.active_peft_config
    return bool(method.is_prompt_learning) or method.peft_type == PeftType.ADAPTION_PROMPT


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
    devices = devices_of(model, device)
    with fork_generators(devices), torch.no_grad():
        before = generator_states(devices)
        summed_loss(model, [example], pad=pad, device=device, dtype=dtype)
        after = generator_states(devices)
    return any(not torch.equal(state, later) for state, later in zip(before, after, strict=True))


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
