"""Confidence intervals, paired comparisons and multiple-comparison corrections over test examples and training seeds.

A single run's accuracy is a plain proportion and gets a Wilson interval; its difference from another single run gets
McNemar's exact test. Everything with several runs, or with clusters of examples, comes from the bootstrap of
``pipeline.evaluate.bootstrap``.
numpy, scipy and statsmodels are imported on first use, since the score stage needs none of them.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NotRequired, TypedDict

from pipeline.evaluate.bootstrap import bootstrap_mean, bootstrap_share, task_weights
from pipeline.evaluate.pooling import SeedPool, pool_methods
from pipeline.evaluate.power import detectable_errors
from pipeline.evaluate.tables import Clusters, Runs, Sample, as_table, number_clusters

LEVEL = 0.95
DRAWS = 10_000
# The largest family in which the bootstrap's smallest p-value is still significant after Holm's correction.
RESOLVED = int((1 - LEVEL) * DRAWS)
# With fewer draws beyond the estimate than this, a share of draws is a poor p-value for a large family.
TAIL_DRAWS = 10
POWER = 0.8


class Estimate(TypedDict):
    """An accuracy or a difference of accuracies with its interval; "n" is the number of examples."""

    estimate: float
    low: float
    high: float
    n: int
    seeds: int


class Difference(Estimate):
    """A difference of accuracies, in [-1, 1].

    "p_value" is two-sided; "error" is the standard error, "freedom" its degrees of freedom; "null_error" is the standard
    error if there were no difference. "continuity" is Edwards' correction, one example, where the p-value is McNemar's.
    """

    p_value: float
    error: float
    null_error: float
    freedom: float
    continuity: NotRequired[float]


class AdjustedDifference(Difference):
    """A difference within a family of comparisons: "holm" is the corrected p-value.

    In a family of more than ``RESOLVED`` comparisons "p_value" is exact or a closed form where the bootstrap's is at its limit.
    "detectable" is the smallest true difference that the family would have shown (``detectable_difference``).
    """

    holm: float
    detectable: float


class Share(TypedDict):
    """The average of one side as a share of the other's, with its interval; "first" and "second" are the two averages."""

    estimate: float
    low: float
    high: float
    n: int
    first: float
    second: float


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


def estimate_accuracy(
    runs: Runs,
    *,
    clusters: Clusters | None = None,
    pool: SeedPool | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return a method's accuracy on a task with its interval: Wilson's for one run, else the bootstrap's.

    Args:
        runs: (seeds, examples) of right (1, True) and wrong (0, False).
        clusters: for each example the key of its cluster; None: examples are independent.
        pool: of the variance between seeds (``pool_seeds``); None: that of these seeds alone.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.
    """
    return estimate_mean_accuracy([runs], clusters=[clusters], pool=pool, level=level, draws=draws, seed=seed)


def estimate_mean_accuracy(
    tasks: Sequence[Runs],
    *,
    micro: bool = False,
    clusters: Sequence[Clusters | None] | None = None,
    pool: SeedPool | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return the average of a method's accuracies over tasks with its interval; "n" is the sum of the tasks' examples.

    Args:
        tasks: a table (seeds, examples) for each task.
        micro: weight every example equally, so a task by its size; otherwise (macro) weight every task equally.
        clusters: for each task as in ``estimate_accuracy``; None: examples are independent.
        pool: as in ``estimate_accuracy``, of the same average.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: the tasks have different numbers of seeds, or the clusters are not those of the examples.
    """
    samples = _make_samples([(runs, None) for runs in tasks], clusters)
    mean = bootstrap_mean(
        samples,
        weights=task_weights(samples, micro=micro),
        level=level,
        draws=draws,
        seed=seed,
        pools=(pool, None),
    )
    low, high = mean.low, mean.high
    # the bootstrap is for several runs, tasks or clusters: one run on one task is a plain proportion
    if len(tasks) == len(tasks[0]) == 1 and samples[0].clusters is None:
        correct, n = round(sum(tasks[0][0])), len(tasks[0][0])
        low, high = wilson_interval(correct, n, level=level)
    return {"estimate": mean.estimate, "low": low, "high": high, "n": mean.n, "seeds": mean.seeds}


def estimate_difference(
    first: Runs,
    second: Runs,
    *,
    clusters: Clusters | None = None,
    pools: tuple[SeedPool | None, SeedPool | None] = (None, None),
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Return how much more accurate ``first`` is than ``second`` on the same examples.

    The p-value is McNemar's exact one where both sides are a single run on independent examples. Otherwise it is the
    bootstrap's: the share of draws that are further from the estimate than zero is, at least 1 / (draws + 1).

    Args:
        first: (seeds, examples) of right and wrong.
        second: the same for the second method; a bare base is a single run.
        clusters: as in ``estimate_accuracy``.
        pools: of either side, as in ``estimate_accuracy``.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: the two sides have different numbers of examples.
    """
    difference = estimate_mean_difference(
        [(first, second)], clusters=[clusters], pools=pools, level=level, draws=draws, seed=seed
    )
    if len(first) == len(second) == 1 and number_clusters(clusters, len(first[0])) is None:
        # exact where it applies; the bootstrap's own p-value is an approximation
        difference["p_value"] = mcnemar_p_value(first[0], second[0])
        difference["continuity"] = 1 / len(first[0])
    return difference


def estimate_mean_difference(
    tasks: Sequence[tuple[Runs, Runs]],
    *,
    micro: bool = False,
    clusters: Sequence[Clusters | None] | None = None,
    pools: tuple[SeedPool | None, SeedPool | None] = (None, None),
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Return the average of the differences over tasks; arguments as in ``estimate_mean_accuracy``.

    Raises:
        ValueError: two sides have different numbers of examples, or tasks have different numbers of seeds.
    """
    samples = _make_samples(tasks, clusters)
    mean = bootstrap_mean(
        samples,
        weights=task_weights(samples, micro=micro),
        level=level,
        draws=draws,
        seed=seed,
        pools=pools,
    )
    return {
        "estimate": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "p_value": mean.p_value,
        "error": mean.error,
        "null_error": mean.null_error,
        "freedom": mean.freedom,
        "n": mean.n,
        "seeds": mean.seeds,
    }


def estimate_share(
    tasks: Sequence[tuple[Runs, Runs]],
    *,
    clusters: Sequence[Clusters | None] | None = None,
    pools: tuple[SeedPool | None, SeedPool | None] = (None, None),
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Share:
    """Return the macro average of the first side as a share of the second's, on the same examples.

    Arguments as in ``estimate_mean_difference``. Without a right answer on the second side the share is infinite.
    """
    samples = _make_samples(tasks, clusters)
    weights = task_weights(samples, micro=False)
    low, high = bootstrap_share(samples, weights=weights, level=level, draws=draws, seed=seed, pools=pools)
    first, second = (
        sum(weight * float(table.mean()) for weight, table in zip(weights, side, strict=True))
        for side in zip(*((as_table(first), as_table(second)) for first, second in tasks), strict=True)
    )
    estimate = first / second if second else math.inf
    return {
        "estimate": estimate,
        # pseudo-examples may shift a narrow interval past its own estimate
        "low": min(low, estimate),
        "high": max(high, estimate),
        "n": sum(sample.first.shape[1] for sample in samples),
        "first": first,
        "second": second,
    }


def _make_samples(
    tasks: Sequence[tuple[Runs, Runs | None]], clusters: Sequence[Clusters | None] | None
) -> list[Sample]:
    keys = clusters or [None] * len(tasks)
    samples = []
    for (first, second), task_keys in zip(tasks, keys, strict=True):
        table = as_table(first)
        samples.append(
            Sample(
                table,
                None if second is None else as_table(second),
                number_clusters(task_keys, table.shape[1]),
            )
        )
    return samples


def pool_seeds(
    methods: Sequence[Sequence[Runs]],
    *,
    micro: bool = False,
    clusters: Sequence[Clusters | None] | None = None,
) -> list[SeedPool | None]:
    """Return for each method of a model the variance between seeds that it shares with the others; None without others.

    Args:
        methods: for each method a table (seeds, examples) for each task.
        micro: as in ``estimate_mean_accuracy``.
        clusters: as in ``estimate_mean_accuracy``.
    """
    if not methods:
        return []
    tables = [_make_samples([(runs, None) for runs in tasks], clusters) for tasks in methods]
    return pool_methods(
        [[sample.first for sample in samples] for samples in tables],
        clusters=[sample.clusters for sample in tables[0]],
        weights=task_weights(tables[0], micro=micro),
    )


def adjust_differences(differences: Sequence[Difference]) -> list[AdjustedDifference]:
    """Return the differences of one family of comparisons, with Holm's p-values and the detectable differences."""
    p_values = [_resolve_p_value(difference, comparisons=len(differences)) for difference in differences]
    return [
        {
            **difference,
            "p_value": p_value,
            "holm": holm,
            "detectable": detectable_difference(difference, comparisons=len(differences)),
        }
        for difference, p_value, holm in zip(differences, p_values, adjust_p_values(p_values), strict=True)
    ]


def _resolve_p_value(difference: Difference, *, comparisons: int) -> float:
    """Return a p-value that a family of this size can star.

    A bootstrap's p-value is at least 1 / (draws + 1), and 501 comparisons times that exceed 5 %.
    """
    p_value = difference["p_value"]
    is_exact = "continuity" in difference
    if comparisons <= RESOLVED or is_exact or p_value > TAIL_DRAWS / (DRAWS + 1):
        return p_value
    return tail_p_value(difference)


def bound_p_values(differences: Sequence[Difference], *, comparisons: int) -> list[float]:
    """Return p-values that are corrected for a family of which only some comparisons are made: Bonferroni's bound.

    It holds whichever of them were picked, also after a look at the results.

    Args:
        differences: the comparisons that are made.
        comparisons: number of all comparisons that could have been picked.
    """
    p_values = [_resolve_p_value(difference, comparisons=comparisons) for difference in differences]
    return [min(1.0, comparisons * p_value) for p_value in p_values]


def tail_p_value(difference: Difference) -> float:
    """Return the two-sided p-value from the tail of Student's t, which needs no draws.

    The statistic is the estimate in standard errors under no difference, as in McNemar's chi-square: an error from the
    observed difference would make the tail far too small where almost all answers differ.
    """
    from scipy.stats import norm, t

    statistic = abs(difference["estimate"]) / difference["null_error"]
    freedom = difference["freedom"]
    return float(2 * (norm.sf(statistic) if freedom == math.inf else t.sf(statistic, freedom)))


def detectable_difference(
    difference: Difference, *, alpha: float = 1 - LEVEL, power: float = POWER, comparisons: int = 1
) -> float:
    """Return the smallest true difference that a repetition of the study finds significant with probability ``power``.

    It is a multiple of the standard error (``detectable_errors``). With one run on each side the factor is
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
    factor = detectable_errors(difference["freedom"], alpha=alpha / comparisons, power=power)
    return factor * difference["error"] + difference.get("continuity", 0.0)


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
