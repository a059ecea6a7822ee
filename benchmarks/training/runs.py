"""A training of the same rows by our engine, by transformers' Trainer and by trl's SFTTrainer, each measured alike."""

import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from benchmarks.measure import peak_mib, reset_peak_mib
from benchmarks.training.inputs import Encoded
from pipeline.adapters import add_adapter, precision
from pipeline.models.base import load_base
from pipeline.models.batches import iterate_steps
from pipeline.models.train import train
from pipeline.params.base import Training
from pipeline.params.machine import MachineSettings

LORA = {"kind": "peft", "peft_type": "LORA", "r": 32, "lora_alpha": 64, "lora_dropout": 0.05}
LORA["target_modules"] = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


@dataclass
class Meter:
    """Measures a training from its first pass to its last optimizer step.

    Attributes:
        computed: tokens that the passes read, padding included.
        wall: seconds.
        cpu: seconds of this process.
        memory: peak above the memory before the training, in MiB.
        losses: of each step, per supervised token.
    """

    computed: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0
    losses: list[float] = field(default_factory=list)
    _start: tuple[float, float] | None = None

    def read(self, tokens: int) -> None:
        """Count the tokens that a pass reads; the first starts the clock."""
        if self._start is None:
            self._start = (time.perf_counter(), time.process_time())
        self.computed += tokens

    def end_step(self, loss: float | None) -> None:
        """Note the time at the end of a step, and its loss."""
        if self._start is not None:
            self.wall, self.cpu = (
                now - start
                for now, start in zip((time.perf_counter(), time.process_time()), self._start, strict=True)
            )
        if loss is not None:
            self.losses.append(loss)


@contextmanager
def measured() -> Iterator[Meter]:
    """Measure the training within the context."""
    meter = Meter()

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # the only embedding of the model is that of its tokens
        if isinstance(module, nn.Embedding) and torch.is_grad_enabled():
            meter.read(inputs[0].numel())

    # freed memory of earlier trainings would hide what this one takes
    ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak_mib("cpu")
    hook = register_module_forward_pre_hook(count)
    try:
        yield meter
    finally:
        hook.remove()
    meter.memory = peak_mib("cpu") - before


def run_ours(base: Path, prompts: Path, training: Training, *, packing: bool = False) -> Meter:
    """Train with ``pipeline.models.train``, examples padded or packed."""
    with tempfile.TemporaryDirectory() as folder, measured() as meter:
        train(
            base,
            prompts,
            method=LORA,
            training=training,
            seed=0,
            output=Path(folder) / "adapter",
            validation=None,
            manifest={},
            device="cpu",
            machine=MachineSettings(packing=packing),
            on_log=lambda row: meter.end_step(float(row["loss"])),  # type: ignore[typeddict-item]
        )
    return meter


class Steps(TrainerCallback):  # type: ignore[misc]
    """Tells the meter of each step and of its loss."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.meter.end_step(None)

    def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Note the loss."""
        if "loss" in logs:
            self.meter.losses.append(float(logs["loss"]))


def shared_arguments(training: Training, folder: str) -> dict[str, Any]:
    """Return the settings that the other trainers get; they take the same steps as ours."""
    return {
        "output_dir": folder,
        "max_steps": training.max_steps,
        "learning_rate": training.learning_rate,
        "warmup_steps": training.warmup_steps,
        "max_grad_norm": training.max_grad_norm,
        "lr_scheduler_type": training.lr_scheduler,
        "use_cpu": True,
        "bf16": training.dtype == "bfloat16",
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def load_adapted(base: Path, training: Training) -> tuple[Any, Any]:
    """Return the base with our LoRA, and the tokenizer."""
    model, tokenizer = load_base(base, dtype=training.dtype)
    adapted = add_adapter(model, LORA, architecture="llama", seed=0)
    if training.dtype != "float32":
        precision.avoid_casts(adapted)
    return adapted, tokenizer


def our_order(count: int, training: Training) -> list[int]:
    """Return the examples in the order in which our engine takes them."""
    steps = iterate_steps(
        count, batch_size=training.batch_size, seed=0, start=0, stop=training.max_steps or 0
    )
    return [index for _, indices in steps for index in indices]


def run_trainer(
    base: Path, rows: Sequence[Encoded], training: Training, *, micro: int, sampling: str
) -> Meter:
    """Train with transformers' Trainer.

    Args:
        base: folder of the base.
        rows: the examples; with the sampling "sequential" they are trained on in this order.
        training: settings of our training.
        micro: examples of a micro-batch.
        sampling: its ``train_sampling_strategy``.
    """
    adapted, tokenizer = load_adapted(base, training)
    data = [
        {"input_ids": row.ids, "attention_mask": [1] * len(row.ids), "labels": row.labels} for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder, measured() as meter:
        arguments = TrainingArguments(
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=training.batch_size // micro,
            train_sampling_strategy=sampling,
            **shared_arguments(training, folder),
        )
        Trainer(
            adapted,
            arguments,
            train_dataset=Dataset.from_list(data),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[Steps(meter)],
        ).train()
    return meter


def run_sft(base: Path, rows: Sequence[Encoded], training: Training, *, micro: int, packing: bool) -> Meter:
    """Train with trl's SFTTrainer: examples grouped by length, or packed into sequences of ``cutoff_len`` tokens."""
    from trl import SFTConfig, SFTTrainer

    adapted, tokenizer = load_adapted(base, training)
    # trl's packing counts sequences, not examples; a step gets about as many tokens as ours
    mean = sum(len(row.ids) for row in rows) / len(rows)
    sequences = max(1, round(training.batch_size * mean / training.cutoff_len))
    if not packing:
        sequences = training.batch_size
    size = min(micro, sequences)
    with tempfile.TemporaryDirectory() as folder, measured() as meter:
        settings = {
            **shared_arguments(training, folder),
            # all rows once, in as many steps as the packed sequences give
            **({"max_steps": -1, "num_train_epochs": 1} if packing else {}),
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": max(1, sequences // size),
            "train_sampling_strategy": "random" if packing else "group_by_length",
            "max_length": training.cutoff_len,
            "packing": packing,
            # trl turns it on; ours runs without
            "gradient_checkpointing": False,
        }
        data = Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])
        SFTTrainer(
            adapted,
            SFTConfig(**settings),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Steps(meter)],
        ).train()
    return meter


Run = Callable[[], Meter]
