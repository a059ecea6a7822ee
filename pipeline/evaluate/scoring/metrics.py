"""The metrics of a scored task. The report's tables, metrics.json and MLflow show every metric of ``METRICS``.

To add a metric, add it to ``METRICS`` and test it in tests/unit/evaluate/test_metrics.py; nothing else changes. Score
files hold accuracy only. All other metrics are computed from score files and stored answers wherever they are shown, so
a new metric makes no result stale.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.rows import LikelihoodAnswer
from pipeline.evaluate.scoring.confidence import (
    accuracy_at_coverage,
    brier_score,
    calibration_error,
    choice_probabilities,
)
from pipeline.evaluate.scoring.rows import JudgedItem, ParsedAnswer, TaskScore
from pipeline.evaluate.stats import wilson_interval

# share of the answers in accuracy at coverage
COVERAGE = 0.8
# above equal shares, from which on a task's classes count as unequal
UNEQUAL = 0.1


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
        condition: of a task's score, for a metric that does not apply to every task; None: it does.
    """

    name: str
    title: str
    description: str
    better: Literal["higher", "lower"]
    item_value: Callable[[JudgedItem], float] | None = None
    task_value: Callable[[ScoredTask], float] | None = None
    needs_likelihoods: bool = False
    condition: Callable[[TaskScore], bool] | None = None

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
        if self.needs_likelihoods and "headline" not in score:
            return False
        return self.condition is None or self.condition(score)

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


def macro_f1(gold: Sequence[str], predicted: Sequence[ParsedAnswer]) -> float:
    """Return the mean over the gold answers' classes of F1, the harmonic mean of precision and recall, in [0, 1].

    An answer that is unparsed, or that is no gold answer of any example, is a miss of its gold class.

    Args:
        gold: label of each example.
        predicted: label of each answer; None: unparsed.
    """
    scores = []
    # sorted: the order of a sum may change its last digit
    for label in sorted(set(gold)):
        hits = sum(right == answer == label for right, answer in zip(gold, predicted, strict=True))
        # twice the hits over all who are of the class and all who are called so: 2PR / (P + R)
        scores.append(2 * hits / (gold.count(label) + predicted.count(label)))
    return sum(scores) / len(scores)


def has_unequal_classes(score: TaskScore) -> bool:
    """Whether the commonest label of a task is far more frequent than if all its labels were equally frequent."""
    if score["answer_form"] == "number":
        return False
    classes = len({item["gold"] for item in score["items"]})
    return score["majority"] >= 1 / classes + UNEQUAL


def has_samples(score: TaskScore) -> bool:
    """Whether the answers to a task are votes of several samples."""
    return any("right_samples" in item for item in score["items"])


def _sample_accuracy(task: ScoredTask) -> float:
    """Return the share of samples that are right, of all samples of all examples."""
    items = task.score["items"]
    return sum(item["right_samples"] for item in items) / sum(len(item["samples"]) for item in items)


def _confident_answers(task: ScoredTask) -> Iterator[tuple[float, bool]]:
    """Yield confidence and correctness of each answer; an answer without finite log-likelihoods has confidence 0."""
    for probabilities, item in _probable_answers(task):
        yield (max(probabilities) if probabilities else 0.0), item["correct"]


def _probable_answers(task: ScoredTask) -> Iterator[tuple[list[float] | None, JudgedItem]]:
    rows = cast(list[LikelihoodAnswer], read_jsonl(task.answers))
    for row, item in zip(rows, task.score["items"], strict=True):
        yield choice_probabilities(row, task.score["headline"]), item


def _likelihood_calibration_error(task: ScoredTask) -> float:
    """Return the calibration error of the most likely choices; answers without finite log-likelihoods do not count."""
    answers = [(confidence, right) for confidence, right in _confident_answers(task) if confidence]
    return calibration_error(*zip(*answers, strict=True)) if answers else math.nan


def _likelihood_brier_score(task: ScoredTask) -> float:
    """Return the Brier score of the choices; answers without finite log-likelihoods do not count."""
    rows = cast(list[LikelihoodAnswer], read_jsonl(task.answers))
    finite = [
        (probabilities, row["choices"].index(item["gold"]))
        for row, (probabilities, item) in zip(rows, _probable_answers(task), strict=True)
        if probabilities
    ]
    return brier_score(*zip(*finite, strict=True)) if finite else math.nan


def _likelihood_accuracy_at_coverage(task: ScoredTask) -> float:
    answers = list(_confident_answers(task))
    return accuracy_at_coverage(*zip(*answers, strict=True), coverage=COVERAGE)


def _label_macro_f1(task: ScoredTask) -> float:
    items = task.score["items"]
    return macro_f1([item["gold"] for item in items], [item["parsed"] for item in items])


ACCURACY = Metric(
    name="accuracy",
    title="Accuracy",
    description="Share of answers that equal the gold label.",
    better="higher",
    item_value=lambda item: float(item["correct"]),
)
# not in METRICS: the report has it beside accuracy, in the table of unparsed answers
BOUND = Metric(
    name="bound",
    title="Accuracy if all unparsed answers were right",
    description="Share of answers that equal the gold label or are unparsed.",
    better="higher",
    item_value=lambda item: float(item["correct"] or item["parsed"] is None),
)
# not in METRICS: the report has them side by side, in the table of normalisations
NORMALISATIONS = tuple(
    Metric(
        name=name,
        title=f"Accuracy, {title}",
        description=f"Share of examples whose choice of greatest log-likelihood, {title}, is the gold label.",
        better="higher",
        item_value=correct,
        needs_likelihoods=True,
    )
    for name, title, correct in (
        ("raw", "as it is", lambda item: float(item["raw"] == item["gold"])),
        ("characters", "per character", lambda item: float(item["normalised"] == item["gold"])),
        ("bytes", "per UTF-8 byte", lambda item: float(item["by_bytes"] == item["gold"])),
        ("pmi", "less that after a neutral prompt", lambda item: float(item["pmi"] == item["gold"])),
    )
)
# the only one of them that needs a protocol with a neutral prompt
PMI = NORMALISATIONS[-1]
CALIBRATION = Metric(
    name="ece",
    title="Expected calibration error",
    description=(
        "The confidence of an answer is the softmax of the log-likelihoods over the choices, normalised as for the "
        "protocol's accuracy. The error is the mean distance between confidence and accuracy in ten bins of equal width (Guo et al. "
        "2017, arXiv:1706.04599)."
    ),
    better="lower",
    task_value=_likelihood_calibration_error,
    needs_likelihoods=True,
)

BRIER = Metric(
    name="brier",
    title="Brier score",
    description=(
        "Half the squared distance between the probabilities of the choices and the right choice, mean over examples: 0 if "
        "certain and right, 100 if certain and wrong. Unlike the calibration error, it also rewards accuracy."
    ),
    better="lower",
    task_value=_likelihood_brier_score,
    needs_likelihoods=True,
)
SELECTIVE = Metric(
    name="coverage80",
    title="Accuracy at 80 % coverage",
    description=(
        "Accuracy of the 80 % most confident answers (Geifman and El-Yaniv 2017, arXiv:1705.08500): its "
        "difference from accuracy is the gain of abstaining on the least confident fifth."
    ),
    better="higher",
    task_value=_likelihood_accuracy_at_coverage,
    needs_likelihoods=True,
)
MACRO_F1 = Metric(
    name="f1",
    title="Macro-F1",
    description=(
        "F1 of each gold label, mean over labels, for tasks whose most frequent label is at least 10 points above an equal "
        "share: always answering with one label then scores low. An unparsed answer is a miss."
    ),
    better="higher",
    task_value=_label_macro_f1,
    condition=has_unequal_classes,
)
SAMPLE_ACCURACY = Metric(
    name="sample",
    title="Accuracy of a single sample",
    description=(
        "Share of sampled answers that equal the gold label, mean over the samples of each question: its difference from "
        "accuracy is the gain of the vote (Wang et al. 2023, arXiv:2203.11171)."
    ),
    better="higher",
    task_value=_sample_accuracy,
    condition=has_samples,
)

# Accuracy first: it is the metric of the main tables.
METRICS = (ACCURACY, CALIBRATION, BRIER, SELECTIVE, MACRO_F1, SAMPLE_ACCURACY)


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
