"""The training stage: an adapter on a frozen base, the same bytes at every run on one machine's CPU."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from pipeline.adapters import add_adapter, methods
from pipeline.core.environment import RunInfo, peak_memory_gib, run_info
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, canonical_json, write_json, write_jsonl
from pipeline.core.progress import progress_bar
from pipeline.models import checkpoints
from pipeline.models.base import load_base
from pipeline.models.batches import IGNORED, Example, choose, collate, split, steps, steps_per_epoch
from pipeline.prompts.encode import hash_tokenizer

# float16 gradients of single tokens would vanish; a power of two changes no other digit
LOSS_SCALE = {"float16": 4096.0}


def train(
    base: Path,
    prompts: Path,
    *,
    method: dict[str, Any],
    training: dict[str, Any],
    seed: int,
    output: Path,
    validation: Path | None,
    manifest: dict[str, Any],
    device: str,
    on_log: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train an adapter and write its directory; resume a killed run from its last checkpoint.

    Args:
        base: directory of the base model.
        prompts: Parquet file of the training examples.
        method: the adapter's resolved fields, as ``pipeline.adapters.add_adapter`` takes them.
        training: the resolved fields of ``pipeline.params.studies.Training``.
        seed: of the adapter's first weights, the order of the examples and dropout.
        output: directory to write: the adapter in peft's format, history.jsonl, timing.jsonl, manifest.json, run.json.
        validation: Parquet file of other examples to measure val_loss on; None: ``val_set_size`` training examples.
        manifest: what the adapter is; counts are added to it.
        device: "cpu" or "cuda". Started by torch.distributed.run, the processes share each step.
        on_log: called with each row of the history.

    Raises:
        UserError: no example, no token that bears loss, or a loss that is no number.
    """
    started = time.time()
    group = PartialState(cpu=device == "cpu")
    if device == "cpu":
        torch.set_num_threads(1)
    model, tokenizer = load_base(base, dtype=training["dtype"], device=str(group.device))
    chosen = choose(prompts, validation, tokenizer, training, seed=seed)
    examples, skipped = chosen["examples"], chosen.pop("skipped")
    total = _total_steps(len(examples), training)
    model = _adapted(model, methods.scheduled(method, steps=total), training, seed=seed, device=group.device)
    work = output.with_name(f".{output.name}.work")
    first = _first_weights(model, work / "first", group)
    job = {
        "model": model,
        **chosen,
        "training": training,
        "seed": seed,
        "pad": tokenizer.pad_token_id,
        "group": group,
        "total": total,
        "checkpoint": work / "checkpoint.pt",
        "identity": canonical_json([manifest, method, training, seed, len(examples)]),
    }
    done = _optimize(job, on_log or (lambda row: None))
    trainable, everything = methods.counts(model)
    described = {
        **manifest,
        "trainable_parameters": trainable,
        "all_parameters": everything,
        "steps": job["total"],
        "examples": len(examples),
        "examples_skipped": skipped,
        "tokens": done["tokens"],
        "tokenizer": hash_tokenizer(tokenizer),
    }
    if group.is_main_process:
        info = run_info(
            started=started,
            device=_device_name(group),
            seconds=done["earlier"] + time.time() - started,
            peak_gib=_memory_gib(group.device),
            resumed_at=done["resumed_at"],
        )
        with atomic_directory(output) as temporary:
            methods.save(model, temporary, tokenizer=tokenizer, first=first)
            _write_records(temporary, described, info=info, done=done)
        shutil.rmtree(work, ignore_errors=True)
    group.wait_for_everyone()


def _adapted(
    model: Any, method: dict[str, Any], training: dict[str, Any], *, seed: int, device: torch.device
) -> Any:
    if training["gradient_checkpointing"]:  # before the adapter: peft refuses the methods that it would break
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    adapted = add_adapter(model, method, architecture=model.config.model_type, seed=seed)
    return adapted.to(device).train()


def _first_weights(model: Any, folder: Path, group: PartialState) -> Path | None:
    """Write the adapter as it is before the first step, for a method whose saving needs it."""
    if not methods.takes_from_base(model):
        return None
    if group.is_main_process:
        methods.save(model, folder, tokenizer=None, first=None)
    return folder


def _total_steps(examples: int, training: dict[str, Any]) -> int:
    if training["max_steps"] is not None:
        return int(training["max_steps"])
    return math.ceil(float(training["epochs"]) * steps_per_epoch(examples, training["batch_size"]))


def _optimize(job: dict[str, Any], on_log: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Take all steps that are left; return the run's state: counts, history, timing."""
    model, training, group, total = job["model"], job["training"], job["group"], job["total"]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(parameters, training)
    state = _started(job, parameters, optimizer)
    started = clock = time.perf_counter()
    taken = steps(
        len(job["examples"]),
        batch_size=training["batch_size"],
        seed=job["seed"],
        start=state["step"],
        stop=total,
    )
    with progress_bar(
        total, label="training", unit="steps", initial=state["step"], enabled=group.is_main_process
    ) as bar:
        for step, chosen in taken:
            rate = learning_rate(step, total=total, training=training)
            for part in optimizer.param_groups:
                part["lr"] = rate
            batch = [job["examples"][index] for index in chosen]
            loss, supervised = gradients(job, parameters, batch, step=step)
            norm = float(clip_grad_norm_(parameters, training["max_grad_norm"]))
            _check_finite(loss, norm, step=step + 1, training=training)
            optimizer.step()
            methods.after_step(model, step + 1)
            optimizer.zero_grad()
            state["step"] = step + 1
            state["tokens"] += (tokens := sum(len(example.ids) for example in batch))
            window = state["window"]
            window["loss"], window["supervised"] = window["loss"] + loss, window["supervised"] + supervised
            window["tokens"] += tokens
            if state["step"] % training["logging_steps"] == 0 or state["step"] == total:
                now = time.perf_counter()
                noted = {"learning_rate": rate, "grad_norm": norm}
                _log(job, state, noted, seconds=(now - clock, now - started))
                clock = now
                on_log(state["history"][-1])
                bar.set_postfix(loss=state["history"][-1]["loss"], refresh=False)
            if job["held_out"] and (state["step"] % training["eval_steps"] == 0 or state["step"] == total):
                state["history"].append(_validated(job, state["step"]))
                on_log(state["history"][-1])
            if (
                state["step"] % training["save_steps"] == 0
                and state["step"] < total
                and group.is_main_process
            ):
                kept = {**state, "earlier": state["earlier"] + time.perf_counter() - started}
                of = {"identity": job["identity"], "state": kept, "method": methods.state_of(model)}
                checkpoints.save(job["checkpoint"], parameters, optimizer, **of)
            bar.update()
    return state


def _optimizer(parameters: list[Tensor], training: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, scales) do not decay, as in transformers' Trainer."""
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": training["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training["learning_rate"],
        betas=(training["adam_beta1"], training["adam_beta2"]),
        eps=training["adam_epsilon"],
        fused=True,
    )


def learning_rate(step: int, *, total: int, training: Mapping[str, Any]) -> float:
    """Return the learning rate of ``step`` (counted from 0): transformers' schedules, as a function of the step alone.

    ``warmup_steps`` of linear rise from 0, then a straight line to 0 at ``total``, half a cosine, or no change.
    """
    peak, warmup = training["learning_rate"], training["warmup_steps"]
    if step < warmup:
        return float(peak * step / warmup)
    done = (step - warmup) / max(1, total - warmup)
    shapes = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}
    return float(peak * max(0.0, shapes[training["lr_scheduler"]]))


def gradients(
    job: Mapping[str, Any], parameters: Sequence[Tensor], batch: Sequence[Example], *, step: int
) -> tuple[float, int]:
    """Add the gradient of a step's mean loss per supervised token, and of the method's penalty, to ``parameters``.

    Args:
        job: model, pad, seed, group (an accelerate state: the processes that share the step) and training, of which
            micro_batch_tokens and dtype are read.
        parameters: those that are trained.
        batch: the step's examples.
        step: its number; dropout depends on it and the seed, so that a resumed run draws the same.

    Returns:
        Summed loss (without the penalty) and number of supervised tokens, of all processes.
    """
    group, training = job["group"], job["training"]
    supervised = sum(example.supervised for example in batch)
    scale = LOSS_SCALE.get(training["dtype"], 1.0)
    parts = split(
        [len(example.ids) for example in batch],
        budget=training["micro_batch_tokens"],
        parts=group.num_processes,
    )
    summed = torch.zeros((), device=group.device)
    for number, part in enumerate(parts):
        if number % group.num_processes != group.process_index:
            continue
        torch.manual_seed(hash((job["seed"], step, number)) % 2**63)  # integers hash alike in every process
        loss = loss_sum(job["model"], [batch[index] for index in part], pad=job["pad"], device=group.device)
        torch.autograd.backward(loss * (scale / supervised))
        summed += loss.detach()
    added = methods.penalty(job["model"]) if group.is_main_process else None
    if added is not None:
        torch.autograd.backward(added * scale)
    if group.num_processes > 1 or scale != 1:
        _sum_gradients(group, parameters, scale)
        summed = reduce(summed, "sum")
    return float(summed), supervised


def loss_sum(model: Any, examples: Sequence[Example], *, pad: int, device: torch.device) -> Tensor:
    """Return the cross entropy summed over the supervised tokens of ``examples``, a scalar in float32.

    Logits are computed at those tokens alone.
    """
    ids, mask, labels = (tensor.to(device) for tensor in collate(examples, pad=pad))
    targets = labels.new_full(labels.shape, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    wanted = targets != IGNORED

    def keep(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][:, -ids.shape[1] :][wanted],)  # a soft prompt stands ahead of the tokens

    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    hook = whole.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        hook.remove()
    return cross_entropy(logits.float(), targets[wanted], reduction="sum")


def _sum_gradients(group: PartialState, parameters: Sequence[Tensor], scale: float) -> None:
    flat = torch.cat(
        [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in parameters
        ]
    )
    flat = reduce(flat, "sum") / scale
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def _check_finite(loss: float, norm: float, *, step: int, training: dict[str, Any]) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        hint = "use dtype bfloat16 or float32, or" if training["dtype"] == "float16" else "use"
        raise UserError(
            f"step {step}: loss or gradient is no finite number; {hint} a learning_rate below "
            f"{training['learning_rate']} or more warmup_steps"
        )


def _log(
    job: dict[str, Any], state: dict[str, Any], row: dict[str, float], *, seconds: tuple[float, float]
) -> None:
    """Close the window since the last row: results into the history, (window, run) seconds into timing."""
    window, step = state["window"], state["step"]
    passed, run = seconds
    history = {
        "step": step,
        "epoch": _epoch(job, step),
        "loss": round(window["loss"] / window["supervised"], 6),
        "learning_rate": row["learning_rate"],
        "grad_norm": round(row["grad_norm"], 6),
        "tokens": state["tokens"],
    }
    timing = {
        "step": step,
        "seconds": round(state["earlier"] + run, 3),
        "tokens_per_s": round(window["tokens"] / passed, 1),
        "memory_gib": _memory_gib(job["group"].device),
    }
    state["history"].append(history)
    state["timing"].append(timing)
    state["window"] = {"loss": 0.0, "supervised": 0, "tokens": 0}


def _epoch(job: dict[str, Any], step: int) -> float:
    return round(step / steps_per_epoch(job["of"], job["training"]["batch_size"]), 4)


@torch.no_grad()
def _validated(job: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the history's row of the loss per supervised token of the held out examples."""
    model, group, held_out = job["model"], job["group"], job["held_out"]
    budget = job["training"]["micro_batch_tokens"]
    model.eval()
    summed = torch.zeros((), device=group.device)
    at = job["training"]["batch_size"]
    for first in range(0, len(held_out), at):
        batch = held_out[first : first + at]
        parts = split([len(example.ids) for example in batch], budget=budget, parts=group.num_processes)
        for part in parts[group.process_index :: group.num_processes]:
            summed += loss_sum(model, [batch[index] for index in part], pad=job["pad"], device=group.device)
    model.train()
    mean = float(reduce(summed, "sum")) / sum(example.supervised for example in held_out)
    return {"step": step, "epoch": _epoch(job, step), "val_loss": round(mean, 6)}


def _started(
    job: dict[str, Any], parameters: list[Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return the state to go on from: the last checkpoint's or a fresh one."""
    of = {"identity": job["identity"], "device": job["group"].device}
    state = checkpoints.resume(job["checkpoint"], parameters, optimizer, **of)
    if state is None:
        window = {"loss": 0.0, "supervised": 0, "tokens": 0}
        fresh = {"step": 0, "tokens": 0, "earlier": 0.0, "resumed_at": 0, "history": [], "timing": []}
        return {**fresh, "window": window}
    methods.restore(job["model"], state.pop("method"))
    print(f"going on from step {state['step']}", file=sys.stderr)
    return {**state, "resumed_at": state["step"]}


def _write_records(folder: Path, manifest: dict[str, Any], *, info: RunInfo, done: dict[str, Any]) -> None:
    write_jsonl(folder / "history.jsonl", done["history"])
    write_jsonl(folder / "timing.jsonl", done["timing"])
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "run.json", info)


def _memory_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else peak_memory_gib()


def _device_name(group: PartialState) -> str:
    name = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "cpu"
    return name if group.num_processes == 1 else f"{group.num_processes} x {name}"
