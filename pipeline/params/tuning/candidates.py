"""The settings of a method's trials: a plain design that is known before any trial runs.

A sampler that learns from earlier trials (such as TPE) would make each trial wait for the last, and the DAG could not be
planned. A grid or seeded draws need nothing but the card.
"""

import random
from collections.abc import Mapping
from itertools import product

from pipeline.core.errors import UserError
from pipeline.params.base import TrainingOverlay
from pipeline.params.reading import parse_card
from pipeline.params.tuning.cards import Fields, Interval, Setting, Tuning

# digits of a value from an interval: enough for any rate, and readable in tables
DIGITS = 3


def list_candidates(tuning: Tuning, method: str, *, where: str) -> list[dict[str, Setting]]:
    """Return the settings of each trial of a method, by field; all methods have the same number.

    Args:
        tuning: of the study.
        method: its name in the study.
        where: the place of ``tune`` in the study's file, for messages.

    Raises:
        UserError: nothing is chosen for the method, a value is outside a field's bounds, or there are fewer combinations than
            trials.
    """
    fields = tuning.fields_of(method)
    if not fields:
        raise UserError(
            f"{where}: methods.{method}: no field to tune; add a field to fields or to methods.{method}"
        )
    key = f"methods.{method}" if method in tuning.methods else "fields"
    for name, values in fields.items():
        for value in [values.low, values.high] if isinstance(values, Interval) else values:
            parse_card(TrainingOverlay, {name: value}, where=f"{where}: {key}")
    candidates = (_draw_points if tuning.search == "random" else _list_grid)(tuning, fields)
    unique = [point for number, point in enumerate(candidates) if point not in candidates[:number]]
    if len(unique) < tuning.trials and tuning.search == "random":
        raise UserError(
            f"{where}: trials: {tuning.trials} draws for '{method}' have only {len(unique)} different settings; use another seed, "
            "fewer trials, wider intervals or search: grid"
        )
    if len(unique) < tuning.trials:
        raise UserError(
            f"{where}: trials: {tuning.trials} for '{method}' is larger than the number of its settings, {len(unique)}; "
            "use fewer trials or more values"
        )
    return unique


def _list_grid(tuning: Tuning, fields: Fields) -> list[dict[str, Setting]]:
    """Return all combinations in the order of the card, or a seeded draw of them in that order."""
    axes = {
        # integers of a narrow interval repeat
        name: list(
            dict.fromkeys(_space(name, values, tuning.trials) if isinstance(values, Interval) else values)
        )
        for name, values in fields.items()
    }
    points = [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
    if len(points) <= tuning.trials:
        return points
    # of the number of combinations alone, so that methods with equally many get the same cells
    chosen = random.Random(f"trials, seed {tuning.seed}").sample(range(len(points)), tuning.trials)
    return [points[index] for index in sorted(chosen)]


def _draw_points(tuning: Tuning, fields: Fields) -> list[dict[str, Setting]]:
    """Return a draw for each trial; each field has a generator of its own, the same for all methods."""
    draws: dict[str, list[Setting]] = {}
    for name, values in fields.items():
        generator = random.Random(f"trials of {name}, seed {tuning.seed}")
        shares = [generator.random() for _ in range(tuning.trials)]
        draws[name] = [
            _place(name, values, share) if isinstance(values, Interval) else values[int(share * len(values))]
            for share in shares
        ]
    return [{name: draws[name][number] for name in fields} for number in range(tuning.trials)]


def _space(name: str, interval: Interval, count: int) -> list[Setting]:
    return [_place(name, interval, number / (count - 1)) for number in range(count)]


def _place(name: str, interval: Interval, share: float) -> Setting:
    """Return the value at a share in [0, 1] of an interval."""
    low, high = interval.low, interval.high
    value = low * (high / low) ** share if interval.log else low + (high - low) * share
    if TrainingOverlay.model_fields[name].annotation is int:
        return round(value)
    # rounding must not leave the interval
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def describe_values(values: Mapping[str, Setting]) -> str:
    """Return settings in words: "learning_rate 0.01, warmup_steps 20"."""
    texts = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())
