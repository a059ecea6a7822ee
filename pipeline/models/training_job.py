"""A training job: what does not change while it runs, how far it is, and what its log files and records say."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from accelerate import PartialState
from torch import Tensor

from pipeline.adapters import methods
from pipeline.adapters.initial_weights import InitialWeights
from pipeline.core.environment import RunDetails, RunInfo, peak_memory_gib, run_info
from pipeline.core.errors import UserError
from pipeline.core.hardware.accelerators import device_name, peak_bytes
from pipeline.core.io import write_json, write_jsonl
from pipeline.models.bases.placement import devices_of
from pipeline.models.batches import Example, TrainingExamples
from pipeline.params.base import Training
from pipeline.params.machine import MachineSettings
from pipeline.prompts.encode import hash_tokenizer


class StepRow(TypedDict):
    """A row of history.jsonl: the training loss since the last such row."""

    # optimizer steps so far
    step: int
    epoch: float
    # mean loss per supervised token
    loss: float
    # of the last step
    learning_rate: float
    # of the last step that was not skipped, before clipping
    grad_norm: float
    # tokens so far, prompts included
    tokens: int
    # in float16: steps so far that were skipped because a gradient overflowed
    skipped: NotRequired[int]


class ValidationRow(TypedDict):
    """A row of history.jsonl: the mean loss per supervised token of the held-out examples."""

    step: int
    epoch: float
    val_loss: float


HistoryRow = StepRow | ValidationRow


class TimingRow(TypedDict):
    """A row of timing.jsonl, written with each ``StepRow``. Kept apart, since it differs between equal runs."""

    step: int
    # of the whole run, including the time before it was killed and resumed
    seconds: float
    # since the last row
    tokens_per_s: float
    # peak so far
    memory_gib: float


class AdapterCounts(TypedDict):
    """What training adds to the manifest.json of an adapter."""

    trainable_parameters: int
    all_parameters: int
    steps: int
    examples: int
    # examples without a token that bears loss
    examples_skipped: int
    # examples that are cut to the model's positions, which are fewer than cutoff_len
    examples_cut: NotRequired[int]
    # examples with an empty response
    responses_empty: NotRequired[int]
    tokens: int
    # hash of the tokenizer; see ``hash_tokenizer``
    tokenizer: str
    # only for a method whose initial weights are computed from examples
    initial_weights: NotRequired[InitialWeights]
    # with ``keep: best``: the step whose weights are saved
    best_step: NotRequired[int]
    # of a trial: the step whose loss was not finite; its weights are those before it
    diverged: NotRequired[int]


class LossNotFinite(UserError):
    """The loss or the gradient of a step is not finite, or all steps overflowed; ``step`` is counted from 1."""

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class TrainingJob:
    """What a training run works on.

    Attributes:
        model: the base with its adapter.
        parameters: the trainable parameters of the model.
        examples: the training examples.
        held_out: the examples to measure the validation loss on; may be empty.
        examples_per_epoch: usable examples of the training set; more than ``examples`` if few steps need few of them.
        settings: how the adapter is trained.
        total_steps: optimizer steps.
        seed: of the order of the examples and of dropout.
        pad: id of the pad token.
        group: the processes that share each step.
        parts: micro-batches that each step is split into at least; one where a pass draws random numbers, since the split
            decides which examples share a draw and must not depend on the number of processes.
        checkpoint: file of the last checkpoint.
        identity: tells the checkpoints of this training from those of any other.
        packing: whether the examples of a micro-batch share one row.
        compiled: whether the decoder layers are compiled.
        is_sharded: whether the processes share the weights of the base, so that all must take equal numbers of passes.
        chosen_budget: padded tokens of a pass that the user set for this machine; None: the job decides.
        is_trial: whether a loss that is not finite is a result, and no failure.
    """

    model: Any
    parameters: list[Tensor]
    examples: Sequence[Example]
    held_out: Sequence[Example]
    examples_per_epoch: int
    settings: Training
    total_steps: int
    seed: int
    pad: int
    group: PartialState
    parts: int
    checkpoint: Path
    identity: str
    packing: bool = False
    compiled: bool = False
    is_sharded: bool = False
    chosen_budget: int | None = None
    is_trial: bool = False


@dataclass
class LogWindow:
    """Sums over the steps since the last ``StepRow``."""

    loss: float = 0.0
    supervised: int = 0
    tokens: int = 0


@dataclass
class TrainingState:
    """How far a training is; a checkpoint stores it as JSON."""

    # optimizer steps so far
    step: int = 0
    # tokens so far, prompts included
    tokens: int = 0
    # seconds of the killed runs that this one resumed
    earlier: float = 0.0
    # the step that this run started from
    resumed_at: int = 0
    # steps that were skipped because a gradient overflowed
    skipped: int = 0
    # of the last step that was not skipped
    grad_norm: float = 0.0
    # tokens of a pass, padding included; less than the settings say once memory was too small
    budget: int = 0
    # the lowest validation loss, its step, and the computations since; None: nothing was computed yet
    best_loss: float | None = None
    best_step: int = 0
    computations_since_best: int = 0
    # the step, counted from 1, whose loss or gradient was not finite, which ended a trial
    diverged: int | None = None
    history: list[HistoryRow] = field(default_factory=list)
    timing: list[TimingRow] = field(default_factory=list)
    window: LogWindow = field(default_factory=LogWindow)

    def add_step(self, *, loss: float, supervised: int, tokens: int) -> None:
        """Count an optimizer step: its summed loss, its supervised tokens and all its tokens.

        A loss that overflowed is left out of the mean of the window.
        """
        self.step += 1
        self.tokens += tokens
        self.window.tokens += tokens
        if math.isfinite(loss):
            self.window.loss += loss
            self.window.supervised += supervised


class Clock:
    """Wall time since the start of this run's steps and since the last log row, in seconds."""

    def __init__(self) -> None:
        self.started = self.last_row = time.perf_counter()

    def run_seconds(self) -> float:
        """Return the time since the start."""
        return time.perf_counter() - self.started

    def row_seconds(self) -> float:
        """Return the time since the last call, or since the start."""
        now = time.perf_counter()
        seconds, self.last_row = now - self.last_row, now
        return seconds


def describe_adapter(
    job: TrainingJob, state: TrainingState, examples: TrainingExamples, *, tokenizer: Any
) -> AdapterCounts:
    """Return what a finished training adds to its adapter's manifest."""
    trainable, total = methods.count_parameters(job.model)
    counts: AdapterCounts = {
        "trainable_parameters": trainable,
        "all_parameters": total,
        # fewer than planned where the training stopped early
        "steps": state.step,
        "examples": len(job.examples),
        "examples_skipped": examples.skipped,
        "tokens": state.tokens,
        "tokenizer": hash_tokenizer(tokenizer),
    }
    # only where there are any, so that the manifests of earlier adapters keep their bytes
    if examples.cut:
        counts["examples_cut"] = examples.cut
    if job.settings.keep == "best":
        counts["best_step"] = state.best_step
    if state.diverged is not None:
        counts["diverged"] = state.diverged
    if examples.empty:
        counts["responses_empty"] = examples.empty
    return counts


def describe_training(
    job: TrainingJob, state: TrainingState, started: float, machine: MachineSettings
) -> RunInfo:
    """Return the content of run.json; ``started`` is the ``time.time()`` of this process' start."""
    details: RunDetails = {
        "resumed_at": state.resumed_at,
        "machine": machine.chosen(),
        "micro_batch_tokens": state.budget,
    }
    if machine.packing is not None:
        details["packing"] = job.packing
    if machine.compile is not None:
        details["compiled"] = job.compiled
    if job.settings.dtype == "float16":
        details["skipped_steps"] = state.skipped
    return run_info(
        started=started,
        device=_device_name(job.group),
        seconds=state.earlier + time.time() - started,
        peak_gib=memory_gib(devices_of(job.model, job.group.device)),
        **details,
    )


def memory_gib(gpus: Sequence[torch.device]) -> float:
    """Return the peak so far: summed over GPUs, or, without any, of this process."""
    return round(sum(map(peak_bytes, gpus)) / 2**30 if gpus else peak_memory_gib(), 4)


def _device_name(group: PartialState) -> str:
    name = device_name(group.device)
    return name if group.num_processes == 1 else f"{group.num_processes} x {name}"


def write_records(
    folder: Path, manifest: Mapping[str, object], *, info: RunInfo, state: TrainingState
) -> None:
    """Write the history, the timing, the manifest and the record of a finished training into its folder."""
    # a trial may diverge before it logs anything
    if state.history:
        write_jsonl(folder / "history.jsonl", state.history)
    if state.timing:
        write_jsonl(folder / "timing.jsonl", state.timing)
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "run.json", info)
