"""The curves of a training in MLflow, thinned: the files of the result keep every row.

MLflow stores a row of its database for each point. Importing this module does not load mlflow.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pipeline.core.io import read_jsonl
from pipeline.results.mlflow.entry import RunFiles
from pipeline.results.mlflow.values import MetricValue

# points of a curve that MLflow gets, evenly over the steps; the last value is always among them
MAX_POINTS = 500
FIRST_USEFUL_EPOCH = 0.01


class Curves:
    """Selects the points of curves as the rows of a training arrive: the first in each of MAX_POINTS equal ranges of steps.

    Args:
        logged: curve -> steps that MLflow has already.
        total_steps: of the training, for ``logged``.
    """

    def __init__(self, logged: Mapping[str, Collection[int]] | None = None, total_steps: int = 0) -> None:
        self._filled = {
            (key, _range_of(step, total_steps)) for key, steps in (logged or {}).items() for step in steps
        }

    def thin(self, rows: Sequence[Mapping[str, Any]], *, total_steps: int) -> list[MetricValue]:
        """Return the points of rows of history or timing whose range has no point yet."""
        points = []
        for point in _list_points(rows):
            slot = point.key, _range_of(point.step, total_steps)
            if slot not in self._filled:
                self._filled.add(slot)
                points.append(point)
        return points


def _range_of(step: int, total_steps: int) -> int:
    return step if total_steps < MAX_POINTS else step * (MAX_POINTS - 1) // total_steps


def _list_points(rows: Sequence[Mapping[str, Any]]) -> Iterator[MetricValue]:
    for row in rows:
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                yield MetricValue(key, float(value), int(row["step"]))


def planned_steps(row: Mapping[str, Any], training: Mapping[str, Any]) -> int:
    """Return the number of steps of a training, from a row of its history and its settings; 0: too early to say."""
    if training.get("max_steps"):
        return int(training["max_steps"])
    # its four digits say too little before
    if row["epoch"] < FIRST_USEFUL_EPOCH:
        return 0
    steps: float = training["epochs"] * row["step"] / row["epoch"]
    return math.ceil(steps)


def list_curves(files: RunFiles, *, logged: Mapping[str, Collection[int]]) -> list[MetricValue]:
    """Return the points of a training's curves.

    Args:
        files: of the run.
        logged: curve -> steps that MLflow has already.
    """
    rows = [row for path in (files.history, files.timing) if path for row in read_jsonl(path)]
    if not rows:
        return []
    total_steps = max(row["step"] for row in rows)
    points = Curves(logged, total_steps).thin(rows, total_steps=total_steps)
    # what MLflow's tables show: the last point of each curve, wherever it lies in its range
    last = {point.key: point for point in _list_points(rows)}
    present = {(point.key, point.step) for point in points}
    return points + [
        point
        for key, point in last.items()
        if (key, point.step) not in present and point.step not in logged.get(key, ())
    ]
