"""The metrics of a scored task. The report's tables, metrics.json and MLflow show every metric of ``METRICS``.

To add a metric, add it to ``METRICS`` and test it in tests/unit/evaluate/test_metrics.py; nothing else changes. Score
files hold accuracy only. All other metrics are computed from score files and stored answers wherever they are shown, so
a new metric makes no result stale.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.rows import LikelihoodAnswer
from pipeline.evaluate.scoring.choices import scaled_loglikelihoods
from pipeline.evaluate.scoring.rows import JudgedItem, TaskScore
from pipeline.evaluate.stats import wilson_interval

BINS = 10


class ScoredTask(NamedTuple):
    """A task's score and the JSONL file of the answers that it judges."""

    score: TaskScore
    answers: Path


@dataclass(frozen=True)
class Metric:
    """A number in [0, 1] that describes a model's answers to a task.

    Attributes:
        name: in keys of metrics.json and MLflow and in file names.
        title: in captions.
        description: how it is computed, as a sentence for captions.
        better: which direction is better.
        item_value: for a metric that is a proportion: 1 or 0 for each item. Tables give it a 95 % interval, Wilson's for
            one run and the bootstrap's for several.
        task_value: for any other metric: its value for the whole task; nan where it is undefined. It has no interval.
        needs_likelihoods: whether it applies to likelihood protocols only.
    """

    name: str
    title: str
    description: str
    better: Literal["higher", "lower"]
    item_value: Callable[[JudgedItem], float] | None = None
    task_value: Callable[[ScoredTask], float] | None = None
    needs_likelihoods: bool = False

    def __post_init__(self) -> None:
        """Refuse a metric without a value, or with two."""
        if (self.item_value is None) == (self.task_value is None):
            raise ValueError(f"metric {self.name}: must have either item_value or task_value")

    @property
    def is_proportion(self) -> bool:
        """Whether the metric is a share of items, so that it has an interval."""
        return self.item_value is not None

    def applies_to(self, score: TaskScore) -> bool:
        """Return whether the metric is defined for a task under its protocol."""
        return "headline" in score or not self.needs_likelihoods

    def values(self, task: ScoredTask) -> list[float]:
        """Return numbers whose mean is the metric: one per item for a proportion, else the single value of the task."""
        if self.item_value is not None:
            return [self.item_value(item) for item in task.score["items"]]
        # __post_init__ ensures it; this is for the type checker
        assert self.task_value is not None
        return [self.task_value(task)]

    def value(self, task: ScoredTask) -> float:
        """Return the metric of a task; nan where it is undefined."""
        values = self.values(task)
        return sum(values) / len(values)

    def interval(self, task: ScoredTask) -> tuple[float, float] | None:
        """Return the 95 % Wilson interval of a proportion; None for any other metric."""
        if self.item_value is None:
            return None
        values = self.values(task)
        return wilson_interval(round(sum(values)), len(values))


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the expected calibration error with ten bins of equal width, in [0, 1].

    The mean over answers of |accuracy - mean confidence| of the answer's bin; bin m holds confidences in
    ((m - 1) / 10, m / 10].

    Args:
        confidences: probability of each answer, in (0, 1].
        correct: whether each answer is right.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    edges = [number / BINS for number in range(1, BINS)]
    totals = [0.0] * BINS
    for confidence, right in zip(confidences, correct, strict=True):
        # a bin's share times its gap is |sum of (right - confidence)| / n, so no counts are needed
        totals[bisect_left(edges, confidence)] += right - confidence
    return sum(abs(total) for total in totals) / len(confidences)


def _likelihood_calibration_error(task: ScoredTask) -> float:
    """Return the calibration error of the most likely choices; answers without finite log-likelihoods do not count."""
    confidences, correct = [], []
    rows = cast(list[LikelihoodAnswer], read_jsonl(task.answers))
    for row, item in zip(rows, task.score["items"], strict=True):
        lengths = row["characters"] if task.score["headline"] == "normalised" else [1] * len(row["choices"])
        logits = scaled_loglikelihoods(row, lengths)
        if logits is not None:
            # softmax of the largest logit; the shift avoids overflow
            confidences.append(1 / sum(math.exp(logit - max(logits)) for logit in logits))
            correct.append(item["correct"])
    return calibration_error(confidences, correct) if confidences else math.nan


ACCURACY = Metric(
    name="accuracy",
    title="Accuracy",
    description="Share of answers that equal the gold answer.",
    better="higher",
    item_value=lambda item: float(item["correct"]),
)
# not in METRICS: the report has it beside accuracy, in the table of unread answers
BOUND = Metric(
    name="bound",
    title="Accuracy if all unread answers were right",
    description="Share of answers that equal the gold answer or that the parser does not read.",
    better="higher",
    item_value=lambda item: float(item["correct"] or item["parsed"] is None),
)
CALIBRATION = Metric(
    name="ece",
    title="Expected calibration error",
    description=(
        "The confidence of an answer is the softmax of the log-likelihoods over the choices, normalised as the protocol's "
        "accuracy is; the error is the mean distance of confidence and accuracy in ten bins of equal width (Guo et al. "
        "2017, arXiv:1706.04599)."
    ),
    better="lower",
    task_value=_likelihood_calibration_error,
    needs_likelihoods=True,
)

# Accuracy first: it is the metric of the main tables.
METRICS = (ACCURACY, CALIBRATION)


def metrics_key(metric: Metric, protocol: str) -> str:
    """Return the first key of a metric in metrics.json: "likelihood" for accuracy, "likelihood ece" for another metric."""
    return protocol if metric is ACCURACY else f"{protocol} {metric.name}"


def task_key(task: str, arm: str, arms: Mapping[str, Sequence[str]]) -> str:
    """Return the last key of a task in metrics.json: TASK, or "TASK in ARM" where several arms have the task.

    Args:
        task: the dataset.
        arm: whose adapters were scored.
        arms: arm -> its tasks.
    """
    return f"{task} in {arm}" if sum(task in tasks for tasks in arms.values()) > 1 else task


def parse_metrics_key(key: str) -> tuple[str, Metric] | None:
    """Return the protocol and the metric of a first key in metrics.json; None if it is no such key."""
    protocol, _, name = key.partition(" ")
    return next(((protocol, metric) for metric in METRICS if metric.name == (name or ACCURACY.name)), None)
