"""Intervals and tests over examples and seeds: numpy's resampling, statsmodels' closed forms.

Accuracy arrays have the shape (seeds, examples). Seeds are few and examples shared, so the bootstrap draws both, each
with replacement: seeds of the method, and examples in common to all seeds and to the bare base. A model asked once (a
bare base) has one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and for differences the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float = float("nan")


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share (Wilson 1927).

    Raises:
        ValueError: if n is not positive.
    """
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(correct, n, alpha=1 - LEVEL, method="wilson")
    return float(low), float(high)


def accuracy(correct: np.ndarray[Any, Any]) -> Estimate:
    """Return the mean over seeds and examples with its interval; a single seed's interval is Wilson's."""
    if len(correct) == 1:
        low, high = wilson(int(correct.sum()), correct.size)
        return Estimate(float(correct.mean()), low, high)
    return mean_accuracy([correct])


def mean_accuracy(tasks: Sequence[np.ndarray[Any, Any]]) -> Estimate:
    """Return the mean of the tasks' accuracies, every task weighing the same, with its bootstrap interval."""
    drawn = np.mean(_draws(tasks, np.random.default_rng(0)), axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(np.mean([task.mean() for task in tasks])), float(low), float(high))


def difference(tasks: Sequence[np.ndarray[Any, Any]], bare: Sequence[np.ndarray[Any, Any]]) -> Estimate:
    """Return the mean over tasks of accuracy less the bare base's, paired on examples, with interval and p.

    p is the bootstrap's: twice the smaller share of draws on either side of zero, at least 1 / draws.
    """
    apart = [task - base.mean(axis=0) for task, base in zip(tasks, bare, strict=True)]
    drawn = np.mean(_draws(apart, np.random.default_rng(0)), axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p = min(1.0, 2 * max(min(np.mean(drawn <= 0), np.mean(drawn >= 0)), 1 / (2 * DRAWS)))
    return Estimate(float(np.mean([one.mean() for one in apart])), float(low), float(high), float(p))


def _draws(tasks: Sequence[np.ndarray[Any, Any]], rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
    """Return for each task DRAWS means of resampled seeds and examples; the seeds drawn are the same in all tasks."""
    seeds = len(tasks[0])
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    found = []
    for task in tasks:
        n = task.shape[1]
        examples = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
        found.append(np.einsum("ds,se,de->d", weights, task, examples, optimize=True))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]
