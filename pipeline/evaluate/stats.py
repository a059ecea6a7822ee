"""Confidence intervals, paired comparisons and multiple-comparison corrections over test examples and training seeds.

A single run's accuracy is a plain proportion and gets a Wilson interval; its difference from another single run gets
McNemar's exact test. Everything with several runs comes from the bootstrap of ``pipeline.evaluate.bootstrap``.
numpy, scipy and statsmodels are imported on first use, since the score stage needs none of them.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NotRequired, TypedDict

from pipeline.evaluate.bootstrap import Runs, as_table, bootstrap_mean, task_weights

LEVEL = 0.95
DRAWS = 10_000
POWER = 0.8
# Values of a standard error over which power is averaged.
ERRORS = 100


class Estimate(TypedDict):
    """An accuracy or a difference of accuracies with its interval; "n" is the number of examples."""

    estimate: float
    low: float
    high: float
    n: int
    seeds: int


class Difference(Estimate):
    """A difference of accuracies, in [-1, 1].

    "p_value" is two-sided; "error" is the standard error, "freedom" its degrees of freedom. "continuity" is Edwards'
    correction, one example, where the p-value is McNemar's.
    """

    p_value: float
    error: float
    freedom: float
    continuity: NotRequired[float]


class AdjustedDifference(Difference):
    """A difference within a family of comparisons: "holm" is the corrected p-value.

    "detectable" is the smallest true difference that the family would have shown (``detectable_difference``).
    """

    holm: float
    detectable: float


def wilson_interval(correct: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, in [0, 1].

    Written out because the score stage runs once per model and importing statsmodels takes a second; a test compares it
    with ``statsmodels.stats.proportion.proportion_confint(method="wilson")``.

    Raises:
        ValueError: not 0 <= correct <= n, or n is 0.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} right of {n} examples")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, shrink = correct / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    return (0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half)


def estimate_accuracy(runs: Runs, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Return a method's accuracy on a task with its interval: Wilson's for one run, else the bootstrap's.

    Args:
        runs: (seeds, examples) of right (1, True) and wrong (0, False).
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.
    """
    return estimate_mean_accuracy([runs], level=level, draws=draws, seed=seed)


def estimate_mean_accuracy(
    tasks: Sequence[Runs], *, micro: bool = False, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Return the average of a method's accuracies over tasks with its interval; "n" is the sum of the tasks' examples.

    Args:
        tasks: a table (seeds, examples) for each task.
        micro: weight every example equally, so a task by its size; otherwise (macro) weight every task equally.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: the tasks have different numbers of seeds.
    """
    pairs = [(as_table(runs), None) for runs in tasks]
    mean = bootstrap_mean(
        pairs, weights=task_weights(pairs, micro=micro), level=level, draws=draws, seed=seed
    )
    low, high = mean.low, mean.high
    # the bootstrap is for several runs or tasks: one run on one task is a plain proportion
    if len(tasks) == len(tasks[0]) == 1:
        correct, n = round(sum(tasks[0][0])), len(tasks[0][0])
        low, high = wilson_interval(correct, n, level=level)
    return {"estimate": mean.estimate, "low": low, "high": high, "n": mean.n, "seeds": mean.seeds}


def estimate_difference(
    first: Runs, second: Runs, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Return how much more accurate ``first`` is than ``second`` on the same examples.

    The p-value is McNemar's exact one where both sides are a single run. Otherwise it is the bootstrap's: the share of
    draws that are further from the estimate than zero is, at least 1 / (draws + 1).

    Args:
        first: (seeds, examples) of right and wrong.
        second: the same for the second method; a bare base is a single run.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: the two sides have different numbers of examples.
    """
    difference = estimate_mean_difference([(first, second)], level=level, draws=draws, seed=seed)
    if len(first) == len(second) == 1:
        # exact where it applies; the bootstrap's own p-value is an approximation
        difference["p_value"] = mcnemar_p_value(first[0], second[0])
        difference["continuity"] = 1 / len(first[0])
    return difference


def estimate_mean_difference(
    tasks: Sequence[tuple[Runs, Runs]],
    *,
    micro: bool = False,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Return the average of the differences over tasks, macro or ``micro`` as in ``estimate_mean_accuracy``.

    Raises:
        ValueError: two sides have different numbers of examples, or tasks have different numbers of seeds.
    """
    pairs = [(as_table(first), as_table(second)) for first, second in tasks]
    mean = bootstrap_mean(
        pairs, weights=task_weights(pairs, micro=micro), level=level, draws=draws, seed=seed
    )
    return {
        "estimate": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "p_value": mean.p_value,
        "error": mean.error,
        "freedom": mean.freedom,
        "n": mean.n,
        "seeds": mean.seeds,
    }


def adjust_differences(differences: Sequence[Difference]) -> list[AdjustedDifference]:
    """Return the differences of one family of comparisons, with Holm's p-values and the detectable differences."""
    p_values = adjust_p_values([difference["p_value"] for difference in differences])
    return [
        {
            **difference,
            "holm": p_value,
            "detectable": detectable_difference(difference, comparisons=len(differences)),
        }
        for difference, p_value in zip(differences, p_values, strict=True)
    ]


def detectable_difference(
    difference: Difference, *, alpha: float = 1 - LEVEL, power: float = POWER, comparisons: int = 1
) -> float:
    """Return the smallest true difference that a repetition of the study finds significant with probability ``power``.

    It is a multiple of the standard error (``_detectable_errors``). With one run on each side the factor is
    z[1 - alpha/2] + z[power]. With few seeds it is larger, since this study's error and the repetition's are both
    estimated from them. McNemar's exact test needs about one example more (Edwards' continuity correction).

    Args:
        difference: from ``estimate_difference`` or ``estimate_mean_difference``.
        alpha: of the two-sided test.
        power: probability of a significant result if the true difference is that large.
        comparisons: size of the family; alpha is divided by it, the first step of Holm's correction.

    Returns:
        A difference in [0, inf); above 1 no difference would have been shown.

    Source: Bloom 1995, Evaluation Review 19, 547-556; Edwards 1948, Psychometrika 13, 185-187; for averaging power over
    unknown quantities, Spiegelhalter and Freedman 1986, Statistics in Medicine 5, 1-13.
    """
    factor = _detectable_errors(difference["freedom"], alpha=alpha / comparisons, power=power)
    return factor * difference["error"] + difference.get("continuity", 0.0)


@cache
def _detectable_errors(freedom: float, *, alpha: float, power: float) -> float:
    """Return how many of its estimated standard errors a difference must be for a repetition to find it.

    The repetition estimates its own error, so its test statistic follows a noncentral t distribution. The noncentrality
    is known only through this study's estimate, so the power is averaged over both errors, each a scaled chi variable
    with ``freedom`` degrees of freedom.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi2, norm, t

    if freedom == math.inf:
        return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    # midpoints of equally likely parts of the error's distribution
    quantiles = (np.arange(ERRORS) + 0.5) / ERRORS
    errors = np.sqrt(chi2.ppf(quantiles, freedom) / freedom)
    limits = t.ppf(1 - alpha / 2, freedom) * errors

    def excess_power(factor: float) -> float:
        return float(ndtr(factor * errors[:, None] - limits).mean() - power)

    upper = 1.0
    while excess_power(upper) < 0:
        upper *= 2
    return float(brentq(excess_power, 0, upper, rtol=1e-6))


def mcnemar_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of McNemar's exact test on two runs over the same examples."""
    from statsmodels.stats.contingency_tables import mcnemar

    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    table = [[pairs.count((a, b)) for b in (True, False)] for a in (True, False)]
    return float(mcnemar(table, exact=True).pvalue)


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of one family of comparisons, corrected by Holm's step-down method."""
    if not len(p_values):
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]]
