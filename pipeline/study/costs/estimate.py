"""What the runs of a study on real models need, from the footprints of their models: nothing here is measured.

The memory is that of the longest example alone, the least that a pass can have: on a GPU, the number of tokens of a pass
follows from the memory that is free. Hours are upper bounds: every training example has ``cutoff_len`` tokens, and every
answer is as long as allowed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.params.models import HubModel
from pipeline.params.protocols import rows_per_prompt
from pipeline.params.reading import read_card
from pipeline.params.resolve import resolve_precision
from pipeline.study.costs.footprints import (
    RESERVED,
    MethodFootprint,
    ModelFootprint,
    find_footprint,
    read_footprints,
)
from pipeline.study.costs.generation import generation_speed
from pipeline.study.grid import Study
from pipeline.study.run import Run

# A method without a count of its own is counted as this one, which keeps the most for the backward pass.
STAND_IN = "lora"
# A training set whose card states no number of rows, since its file could not be obtained: the number in its name.
UNSTATED_ROWS = {"math_10k": 10_000}
# Memory of common GPUs, in GB.
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141)
BYTES_PER_CARD_GB = 1e9
# Tokens of a pass at which the speeds were counted, and the most that are assumed to fit.
PASS_TOKENS = 4096


class ModelEstimate(NamedTuple):
    """What the runs of a study on one model need.

    Attributes:
        model: its card.
        download: bytes of its weights, at two bytes for each.
        memory: bytes of the training or evaluation that needs the most, the process included, without gradient checkpointing.
        memory_with_checkpointing: the same with it.
        method: of that training or evaluation.
        device: the smallest counted device that fits it, without checkpointing if one does; None: none does.
        training_hours: an estimate on that device, all runs together; None: unknown.
        generation_hours: the same, of all answers.
    """

    model: str
    download: float
    memory: float
    memory_with_checkpointing: float
    method: str
    device: str | None
    training_hours: float | None
    generation_hours: float | None


def estimate_study(study: Study) -> tuple[list[ModelEstimate], list[str]]:
    """Return the estimates of the hub models that a study evaluates, and those of them that were not counted."""
    estimates, uncounted = [], []
    for model in study.card.models:
        card = read_card("models", model)
        runs = [run for run in study.evaluated_runs if run.model == model]
        # a model without a method and without its bare base is never loaded
        if card.kind != "hub" or not runs:
            continue
        footprint = find_footprint(card.repo_id)
        if footprint is None:
            uncounted.append(model)
        else:
            estimates.append(_estimate_model(study, model, runs, footprint))
    return estimates, uncounted


def smallest_card(memory: float) -> int | None:
    """Return the memory in GB of the smallest common GPU that holds ``memory`` bytes; None: none does."""
    return next((size for size in CARDS if memory <= size * BYTES_PER_CARD_GB), None)


def count_parameters(card: HubModel) -> int | None:
    """Return the number of a hub model's parameters: that of its footprint, else its card's; None: unknown."""
    footprint = find_footprint(card.repo_id)
    return footprint["parameters"] if footprint else card.parameters


def _estimate_model(
    study: Study, model: str, runs: Sequence[Run], footprint: ModelFootprint
) -> ModelEstimate:
    # a combination trains nothing
    trained = [run for run in runs if run.adapter and not run.members]
    trials = [trial.run for trial in study.trials if trial.run.model == model]
    needs = [(*_training_memory(run, footprint), run.method) for run in trained]
    needs += [
        (memory, memory, run.method if run.entry else "no adapter")
        for run in runs
        for memory in [_evaluation_memory(study, run, footprint)]
    ]
    plain, checkpointing, method = max(needs)
    devices = read_footprints()["devices"]
    device = next(
        (name for need in (plain, checkpointing) for name, gpu in devices.items() if need <= gpu["memory"]),
        None,
    )
    return ModelEstimate(
        model,
        download=2.0 * footprint["parameters"],
        memory=plain,
        memory_with_checkpointing=checkpointing,
        method=method,
        device=device,
        training_hours=_sum_hours(_training_seconds(run, footprint, device) for run in (*trained, *trials)),
        generation_hours=_sum_hours(_generation_seconds(study, run, footprint, device) for run in runs),
    )


def _method_footprint(run: Run, footprint: ModelFootprint) -> MethodFootprint:
    methods = footprint["methods"]
    return methods.get(run.entry.method if run.entry else STAND_IN, methods[STAND_IN])


def _training_settings(run: Run) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = run.training_params["training"] if run.training_params else {}
    return settings


def _weight_bytes(footprint: ModelFootprint, quantization: str | None, dtype: str) -> float:
    """Return the bytes of a base's weights, as they are stored."""
    if quantization:
        return footprint["weights"][quantization]
    return footprint["weights"]["bf16"] * _dtype_factor(dtype)


def _dtype_factor(dtype: str) -> float:
    # in float32, weights and activations have twice the bytes
    return 2.0 if dtype == "float32" else 1.0


def _training_memory(run: Run, footprint: ModelFootprint) -> tuple[float, float]:
    """Return the bytes of a training with the longest example alone, without and with gradient checkpointing."""
    settings, method = _training_settings(run), _method_footprint(run, footprint)
    tokens = settings["cutoff_len"]
    logits = footprint["logits"] * tokens
    if footprint["logits_at_most"] is not None:
        logits = min(logits, footprint["logits_at_most"])
    factor = _dtype_factor(settings["dtype"])
    weights = _weight_bytes(footprint, settings.get("quantization"), settings["dtype"])
    plain, checkpointing = (
        weights + method["trained"] + logits + RESERVED + factor * tokens * kept
        for kept in (method["kept"], method["kept_with_checkpointing"])
    )
    return plain, checkpointing


def _evaluation_memory(study: Study, run: Run, footprint: ModelFootprint) -> float:
    """Return the bytes of an evaluation: those of the base as it is loaded for it, with or without an adapter."""
    precision = resolve_precision(study.card, run.training_params, where=study.where)
    dtype = precision.get("weights", "float32")
    return _weight_bytes(footprint, precision.get("quantization"), dtype) + RESERVED


def count_rows(dataset: str, split: str, limit: int | None) -> int | None:
    """Return the rows of a dataset's split that a limit leaves, as far as cards state them; None: unknown."""
    card = read_card("datasets", dataset)
    parts = getattr(card, "parts", None) or [dataset]
    counts = [
        UNSTATED_ROWS.get(name) or getattr(read_card("datasets", name).splits.get(split), "rows", None)
        for name in parts
    ]
    if None in counts:
        return limit
    total = sum(count for count in counts if count)
    return min(total, limit) if limit else total


def _training_seconds(run: Run, footprint: ModelFootprint, device: str | None) -> float | None:
    settings, method = _training_settings(run), _method_footprint(run, footprint)
    # no device's speed in float32 was counted
    if device is None or settings["dtype"] == "float32":
        return None
    arm, length = run.arms[0], settings["cutoff_len"]
    if settings["max_steps"]:
        examples = settings["max_steps"] * settings["batch_size"]
    elif rows := count_rows(arm.training_set, "train", arm.limit):
        examples = rows * settings["epochs"]
    else:
        return None
    seconds = method["seconds"][device]
    if quantization := settings.get("quantization"):
        gpu, weights = read_footprints()["devices"][device], footprint["weights"]
        free = gpu["memory"] - _training_memory(run, footprint)[0]
        tokens = min(PASS_TOKENS, length + max(0.0, free) / method["kept"])
        # the forward and the backward pass write the weights in 16 bits before they read them
        seconds += 2 * (weights[quantization] + weights["bf16"]) / gpu["bandwidth"] / tokens
    return float(examples * length * seconds)


def _generation_seconds(
    study: Study, run: Run, footprint: ModelFootprint, device: str | None
) -> float | None:
    if device is None:
        return None
    tokens = 0
    for task in study.tasks(run):
        rows = count_rows(task.task, study.card.split, study.card.limit)
        if rows is None:
            return None
        # a likelihood protocol generates nothing
        tokens += rows * rows_per_prompt(task.decoding) * task.decoding.get("max_new_tokens", 0)
    if not tokens:
        return 0.0
    # also that of a bare base, which is loaded as for a training with the study's settings
    precision = resolve_precision(study.card, run.training_params, where=study.where)
    # as for trainings
    if precision.get("weights", "float32") == "float32":
        return None
    weights, quantization = footprint["weights"], precision.get("quantization")
    speed = generation_speed(
        read_footprints()["devices"][device],
        weights["bf16"],
        footprint["cache"],
        stored=weights[quantization] if quantization else None,
    )
    return tokens / speed if speed else None


def _sum_hours(seconds: Iterator[float | None]) -> float | None:
    total = 0.0
    for part in seconds:
        if part is None:
            return None
        total += part
    return total / 3600
