"""The training stage: an adapter on a frozen base. On a machine's CPU, every run writes the same bytes."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from pipeline.adapters import MethodFields, methods
from pipeline.adapters.compiling import check_compiler
from pipeline.adapters.initial_weights import describe_initial_weights
from pipeline.core.errors import UserError
from pipeline.core.hardware.devices import configure_torch
from pipeline.core.io import atomic_directory, canonical_json
from pipeline.core.processes import catching_stop
from pipeline.core.progress import progress_bar
from pipeline.core.work_folder import work_folder
from pipeline.models.adapted_model import (
    adapt_model,
    choose_initial_batches,
    compile_decoder,
    positions_of_example,
    save_initial_weights,
)
from pipeline.models.base import load_base
from pipeline.models.bases import placement
from pipeline.models.batches import (
    Example,
    choose_examples,
    count_steps,
    iterate_steps,
    report_examples,
)
from pipeline.models.checkpoints import restore_checkpoint, save_checkpoint
from pipeline.models.loss import (
    accumulate_gradients,
    choose_packing,
    parts_of_step,
    pass_loss,
)
from pipeline.models.memory import choose_budget, out_of_memory_explained, run_within_memory
from pipeline.models.optimizer import build_optimizer, build_scaler, learning_rate_at
from pipeline.models.training_job import (
    Clock,
    HistoryRow,
    LogWindow,
    LossNotFinite,
    StepRow,
    TimingRow,
    TrainingJob,
    TrainingState,
    describe_adapter,
    describe_training,
    memory_gib,
    write_records,
)
from pipeline.models.validation.best import (
    BestWeights,
    epoch_of,
    has_stalled,
    measure_validation,
    note_divergence,
)
from pipeline.params.base import Quantization, Training
from pipeline.params.machine import MachineSettings, override_training

DEFAULTS = MachineSettings()
DEFAULT_BUDGET: int = Training.model_fields["micro_batch_tokens"].default


@out_of_memory_explained()
def train(
    base: Path,
    prompts: Path,
    *,
    method: MethodFields,
    training: Training,
    seed: int,
    output: Path,
    validation: Path | None,
    manifest: Mapping[str, object],
    device: str,
    machine: MachineSettings = DEFAULTS,
    on_log: Callable[[HistoryRow], None] | None = None,
    is_trial: bool = False,
) -> None:
    """Train an adapter and write its directory; resume a killed run from its last checkpoint.

    Args:
        base: directory of the base model.
        prompts: prompts file of the training examples.
        method: resolved fields of the method card, as for ``pipeline.adapters.add_adapter``.
        training: how the adapter is trained.
        seed: of the initial weights, the order of the examples and dropout.
        output: directory to write: the adapter in peft's format, history.jsonl, timing.jsonl, manifest.json, run.json.
        validation: prompts file for the validation loss; None holds out ``val_set_size`` training examples.
        manifest: identity of the adapter; counts are added to it.
        device: "cpu", "cuda" or "mps". Processes started by torch.distributed.run share each step.
        machine: settings of this machine, which win over those of ``training``.
        on_log: called with each row of the history.
        is_trial: a loss that is not finite ends it with the weights before that step, and "diverged" in the manifest.

    Raises:
        UserError: no example, no token that bears loss, a loss that is not finite (in float16: although its gradient is
            not scaled, or in every step), ``compile`` without a compiler, or SIGTERM, after a checkpoint was written.
    """
    started = time.time()
    settings = override_training(training, machine)
    # a fully trained model is float32 throughout, so its start is not rounded either
    weights = "float32" if method["kind"] == "full" else training.dtype
    group, model, tokenizer = _load(base, weights, device, machine, training.quantization)
    positions = positions_of_example(model, method)
    examples = choose_examples(prompts, validation, tokenizer, training, seed=seed, positions=positions)
    if group.is_main_process:
        report_examples(examples, prompts, positions)
    total_steps = count_steps(len(examples.train), training)
    pad = tokenizer.pad_token_id
    # Of the cards' micro-batches, since some initial weights depend on the split by more than rounding.
    initial_batches = choose_initial_batches(
        method, examples.train, training, seed=seed, pad=pad, device=group.device
    )
    is_sharded = bool(machine.shard) and group.num_processes > 1
    model = adapt_model(
        model,
        method,
        settings,
        steps=total_steps,
        seed=seed,
        group=group,
        initial_batches=initial_batches,
        is_sharded=is_sharded,
    )
    work = work_folder(output)
    initial_weights = save_initial_weights(model, work / "first", group)
    # the cards' settings: a training may resume with other settings of the machine
    identity = [manifest, method, training.model_dump(), seed, len(examples.train)]
    if initial_batches:
        # another kind of device may compute other initial weights, which the checkpoint does not hold
        identity.append(group.device.type)
    job = TrainingJob(
        model=model,
        parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        examples=examples.train,
        held_out=examples.held_out,
        examples_per_epoch=examples.usable,
        settings=settings,
        total_steps=total_steps,
        seed=seed,
        pad=pad,
        group=group,
        parts=parts_of_step(model, examples.train[0], group, pad=pad, dtype=training.dtype),
        checkpoint=work / "checkpoint.pt",
        identity=canonical_json(identity),
        packing=choose_packing(model, machine.packing, group),
        chosen_budget=machine.micro_batch_tokens,
        is_sharded=is_sharded,
        is_trial=is_trial,
    )
    if machine.compile:
        job = compile_decoder(job)
    state = _run_steps(job, on_log or (lambda row: None))
    counts = describe_adapter(job, state, examples, tokenizer=tokenizer)
    if initial_batches is not None:
        counts["initial_weights"] = describe_initial_weights(method, initial_batches)
    if group.is_main_process:
        info = describe_training(job, state, started, machine)
        with atomic_directory(output) as folder:
            methods.save_trained(model, folder, tokenizer=tokenizer, initial_weights=initial_weights)
            write_records(folder, {**manifest, **counts}, info=info, state=state)
        shutil.rmtree(work, ignore_errors=True)
    group.wait_for_everyone()


def _load(
    base: Path, dtype: str, device: str, machine: MachineSettings, quantization: Quantization | None
) -> tuple[PartialState, Any, Any]:
    """Return the group of the processes that share each step, and the base and its tokenizer.

    The base is on the process' device, or on the host if it is going to be sharded.
    """
    configure_torch(device, threads=machine.threads, deterministic=machine.deterministic)
    group = PartialState(cpu=device == "cpu")
    if machine.compile:
        check_compiler(group.device)
    model, tokenizer = load_base(
        base,
        dtype=dtype,
        device="cpu" if machine.shard else str(group.device),
        quantization=quantization,
        cards=placement.list_cards(device, machine.gpus_per_job or 1),
    )
    return group, model, tokenizer


def _first_budget(job: TrainingJob) -> int:
    """Return the padded tokens of a pass: on a GPU what its free memory allows, unless the user or a card sets them."""
    settings = job.settings
    is_set = job.chosen_budget is not None or settings.micro_batch_tokens != DEFAULT_BUDGET
    if is_set or job.group.device.type == "cpu":
        return settings.micro_batch_tokens
    return choose_budget(
        partial(pass_loss, job),
        parameters=job.parameters,
        examples=job.examples,
        batch_size=settings.batch_size,
        group=job.group,
        devices=placement.devices_of(job.model, job.group.device),
        default=DEFAULT_BUDGET,
        can_repeat=not job.is_sharded,
    )


def _resumed_budget(job: TrainingJob, kept: int) -> int:
    """Return the padded tokens of a pass of a resumed training: as before, so that it adds the same sums."""
    if job.chosen_budget is not None:
        return job.chosen_budget
    # the checkpoint may come from a GPU with more memory than this CPU has
    return min(kept, job.settings.micro_batch_tokens) if job.group.device.type == "cpu" else kept


def _run_steps(job: TrainingJob, on_log: Callable[[HistoryRow], None]) -> TrainingState:
    """Take all remaining steps, with their logs, validations and checkpoints."""
    settings, total, is_main = job.settings, job.total_steps, job.group.is_main_process
    optimizer = build_optimizer(job.parameters, settings)
    scaler, best = build_scaler(settings.dtype, job.group.device), BestWeights()
    state = _initial_state(job, optimizer, scaler, best)
    remaining = iterate_steps(
        len(job.examples), batch_size=settings.batch_size, seed=job.seed, start=state.step, stop=total
    )
    clock = Clock()
    with (
        progress_bar(total, label="training", unit="steps", initial=state.step, enabled=is_main) as bar,
        catching_stop() as is_stopping,
    ):
        for _, indices in remaining:
            try:
                rate = _take_step(job, state, optimizer, scaler, [job.examples[index] for index in indices])
            except LossNotFinite as error:
                state.diverged = note_divergence(job, error)
                break
            is_logged = state.step % settings.logging_steps == 0 or state.step == total
            # if no loss is finite, the window keeps growing
            if is_logged and state.window.supervised:
                on_log(row := _log_step(job, state, clock, learning_rate=rate))
                bar.set_postfix(loss=row["loss"], refresh=False)
            if job.held_out and (state.step % settings.eval_steps == 0 or state.step == total):
                on_log(measure_validation(job, state, best))
            bar.update()
            if has_stalled(settings, state):
                break
            # no checkpoint after the last step: the adapter is written instead
            if state.step == total or not is_main:
                continue
            # the other processes of a training end with the main one
            stopping = is_stopping()
            if stopping or state.step % settings.save_steps == 0:
                _save_state(job, state, clock, optimizer, scaler, best)
            if stopping:
                raise UserError(
                    f"stopped by SIGTERM after step {state.step} of {total}; the next run resumes there"
                )
    if state.step and state.skipped == state.step:
        overflow = LossNotFinite(
            f"dtype: every step overflowed in float16 and was skipped ({total}); use bfloat16 or float32, or more steps",
            step=total,
        )
        state.diverged = note_divergence(job, overflow)
    best.put_back(job)
    return state


def _initial_state(
    job: TrainingJob, optimizer: torch.optim.Optimizer, scaler: GradScaler, best: BestWeights
) -> TrainingState:
    """Return the state of the last checkpoint, whose weights are put back, or a fresh one."""
    restored = restore_checkpoint(
        job.checkpoint,
        job.parameters,
        optimizer,
        scaler=scaler,
        identity=job.identity,
    )
    if restored is None:
        return TrainingState(budget=_first_budget(job))
    state = restored.state
    methods.restore_method_state(job.model, restored.method_state)
    best.resume(restored.best)
    print(f"resuming from step {state.step}", file=sys.stderr)
    state.resumed_at = state.step
    # checkpoints from before it was kept have none
    state.budget = _resumed_budget(job, state.budget) if state.budget else _first_budget(job)
    return state


def _take_step(
    job: TrainingJob,
    state: TrainingState,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    batch: list[Example],
) -> float:
    """Take an optimizer step, or skip it if its scaled gradient overflows; count it and return its learning rate."""
    settings, step = job.settings, state.step
    rate = learning_rate_at(step, total_steps=job.total_steps, settings=settings)
    for parameter_group in optimizer.param_groups:
        parameter_group["lr"] = rate
    scale = float(scaler.scale(torch.ones((), device=job.group.device)))
    (loss, supervised), state.budget = run_within_memory(
        lambda budget: accumulate_gradients(job, batch, step=step, scale=scale, budget=budget),
        state.budget,
        parameters=job.parameters,
        examples=job.examples,
        group=job.group,
    )
    scaler.unscale_(optimizer)
    norm = float(clip_grad_norm_(job.parameters, settings.max_grad_norm))
    if math.isfinite(norm) or scale <= 1:
        # before the optimizer step, so that no checkpoint has weights that are not finite
        _check_finite(loss, norm, step=step + 1, settings=settings)
        optimizer.step()
        state.grad_norm = norm
    else:
        # all processes skip it, since they have the same sum of gradients
        state.skipped += 1
        # a method's schedule continues, and its averages must stay finite
        for parameter in job.parameters:
            parameter.grad = torch.zeros_like(parameter)
    scaler.update()
    methods.finish_step(job.model, step + 1)
    optimizer.zero_grad()
    state.add_step(loss=loss, supervised=supervised, tokens=sum(len(example.ids) for example in batch))
    return rate


def _check_finite(loss: float, norm: float, *, step: int, settings: Training) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        hint = "use dtype bfloat16 or float32, or" if settings.dtype == "float16" else "use"
        raise LossNotFinite(
            f"step {step}: the loss or the gradient is not finite; {hint} a learning_rate below "
            f"{settings.learning_rate} or more warmup_steps",
            step=step,
        )


def _log_step(job: TrainingJob, state: TrainingState, clock: Clock, *, learning_rate: float) -> StepRow:
    """Add a row to the history and one to the timing, and start a new window."""
    window, run_seconds = state.window, clock.run_seconds()
    row: StepRow = {
        "step": state.step,
        "epoch": epoch_of(job, state.step),
        "loss": round(window.loss / window.supervised, 6),
        "learning_rate": learning_rate,
        "grad_norm": round(state.grad_norm, 6),
        "tokens": state.tokens,
    }
    if job.settings.dtype == "float16":
        row["skipped"] = state.skipped
    timing: TimingRow = {
        "step": state.step,
        "seconds": round(state.earlier + run_seconds, 3),
        "tokens_per_s": round(window.tokens / clock.row_seconds(), 1),
        "memory_gib": memory_gib(placement.devices_of(job.model, job.group.device)),
    }
    state.history.append(row)
    state.timing.append(timing)
    state.window = LogWindow()
    return row


def _save_state(
    job: TrainingJob,
    state: TrainingState,
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    best: BestWeights,
) -> None:
    """Write a checkpoint, in which the time of this run counts as earlier time."""
    save_checkpoint(
        job.checkpoint,
        job.parameters,
        optimizer,
        scaler=scaler,
        identity=job.identity,
        state=replace(state, earlier=state.earlier + clock.run_seconds()),
        method_state=methods.method_state(job.model),
        best=best.content(),
    )
