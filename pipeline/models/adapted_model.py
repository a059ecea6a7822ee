"""A base with its adapter before the first step, and the training examples that some adapters start from."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor

from pipeline.adapters import InitialBatches, MethodFields, add_adapter, methods, precision
from pipeline.adapters.compiling import compile_layers
from pipeline.adapters.initial_weights import Batch, is_data_driven
from pipeline.core.errors import UserError
from pipeline.models.base import count_positions
from pipeline.models.bases import sharding
from pipeline.models.bases.placement import is_spread, move_to_first_card
from pipeline.models.batches import Example, collate, iterate_steps, pass_overhead, split_into_micro_batches
from pipeline.models.loss import batch_loss, pass_loss
from pipeline.models.training_job import TrainingJob
from pipeline.params.base import Training


def positions_of_example(model: Any, method: MethodFields) -> int | None:
    """Return how many tokens an example may have, by the model and the virtual tokens of the method; None: any number.

    Raises:
        UserError: the virtual tokens leave no room.
    """
    positions, virtual = count_positions(model.config), methods.count_virtual_tokens(method)
    if positions is not None and positions - virtual < 2:
        raise UserError(
            f"num_virtual_tokens: {virtual} leaves no room for an example in the model's {positions} positions"
        )
    return None if positions is None else positions - virtual


def choose_initial_batches(
    method: MethodFields,
    examples: Sequence[Example],
    settings: Training,
    *,
    seed: int,
    pad: int,
    device: torch.device,
) -> InitialBatches | None:
    """Return the first ``init_batches`` batches of the training, in its order; None for a method that reads none.

    Every process gets all of them, in the micro-batches of a single process.
    """
    if not is_data_driven(method):
        return None
    steps = [
        _collate_step([examples[index] for index in indices], settings, pad=pad, device=device)
        for _, indices in iterate_steps(
            len(examples), batch_size=settings.batch_size, seed=seed, start=0, stop=method["init_batches"]
        )
    ]

    def loss(model: Any, batch: Batch) -> Tensor:
        return batch_loss(
            model, batch["input_ids"], batch["attention_mask"], batch["labels"], dtype=settings.dtype
        )

    return InitialBatches(steps, loss)


def _collate_step(
    batch: Sequence[Example], settings: Training, *, pad: int, device: torch.device
) -> list[Batch]:
    micro_batches = split_into_micro_batches(
        [len(example.ids) for example in batch],
        budget=settings.micro_batch_tokens,
        overhead=pass_overhead(device),
    )
    names = ("input_ids", "attention_mask", "labels")
    return [
        dict(
            zip(
                names,
                (tensor.to(device) for tensor in collate([batch[index] for index in indices], pad=pad)),
                strict=True,
            )
        )
        for indices in micro_batches
    ]


def adapt_model(
    model: Any,
    method: MethodFields,
    training: Training,
    *,
    steps: int,
    seed: int,
    group: PartialState,
    initial_batches: InitialBatches | None,
    is_sharded: bool = False,
) -> Any:
    """Return the model with its adapter, on its device and in training mode; sharded, its base may be on the host."""
    # AdaLoRA's schedule depends on the number of steps
    scheduled = methods.fill_schedule(method, steps=steps)
    if training.gradient_checkpointing:
        # before the adapter, because peft then refuses the methods that checkpointing would break
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    architecture = model.config.model_type
    shared_out = sharding.layer_weights(model) if is_sharded else set()
    adapted = add_adapter(
        model, scheduled, architecture=architecture, seed=seed, initial_batches=initial_batches
    )
    if training.dtype != "float32":
        precision.avoid_casts(adapted)
        if method["kind"] == "full":
            gib = precision.training_memory_gib(adapted.parameters())
            print(
                f"full fine-tuning with dtype {training.dtype} keeps weights, gradients and AdamW's moments in float32: {gib:.3g} GiB, "
                "as with dtype float32; only activations need less memory",
                file=sys.stderr,
            )
    if is_sharded:
        sharding.shard_layers(model, shared_out, group)
        sharding.move_whole_tensors(adapted, group.device)
    elif is_spread(model):
        move_to_first_card(adapted)
    else:
        adapted.to(group.device)
    if initial_batches is not None:
        _share_initial_weights(adapted, group)
    return adapted.train()


def save_initial_weights(model: Any, folder: Path, group: PartialState) -> Path | None:
    """Write the adapter before the first step, for a method that needs it when the trained one is saved."""
    if not methods.takes_weights_from_base(model):
        return None
    if group.is_main_process:
        methods.save_trained(model, folder, tokenizer=None, initial_weights=None)
    return folder


def _share_initial_weights(model: Any, group: PartialState) -> None:
    """Give every process the weights of the first, base included: on a GPU equal computations may round differently."""
    if group.num_processes > 1:
        for parameter in model.parameters():
            parameter.data = broadcast(parameter.data, from_process=0)


def compile_decoder(job: TrainingJob) -> TrainingJob:
    """Return a training with compiled decoder layers. Where that is not possible, a line on stderr says why."""
    # two examples, since torch compiles a separate graph for a single one
    refusal = compile_layers(job.model, partial(pass_loss, job, job.examples[:2]))
    if refusal and job.group.is_main_process:
        print(f"compile: the layers run uncompiled: {refusal}", file=sys.stderr)
    return replace(job, compiled=refusal is None)
