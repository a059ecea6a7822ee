"""Confidence intervals, paired comparisons and multiple-comparison corrections over test examples and training seeds.

A method's results on a task are a table of right (1) and wrong (0), seeds x examples; every seed answers the same
examples. Two things vary by chance: which examples were drawn, and which seeds were trained. A single run is a plain
proportion and gets a Wilson interval. Several runs get a hierarchical bootstrap that resamples both:

- examples with replacement, each with the answers of all seeds (a second seed's answer to the same example is no
  independent evidence);
- seeds with replacement, jointly for all tasks of a mean (one adapter answers them all). Seeds also differ because each
  is unsure of single examples, which the first draw already contains. So the deviations between seeds are scaled to the
  variance that remains without this noise (a two-way analysis of variance).

A few seeds estimate their own variance poorly. So each draw is stretched as Student's t is relative to the normal, with
Satterthwaite's degrees of freedom: as many as examples where the seeds agree, seeds - 1 where only seeds vary
(Satterthwaite 1946, Biometrics Bulletin 2, 110-114; for crossed tables Hillis 2007, Statistics in Medicine 26, 596-619).

A table that is all right or all wrong would give an interval of zero width. So the draws, never the estimate, include
pseudo-examples: two right and two wrong for a proportion (Agresti and Coull 1998), one on each side for a difference
(Bonett and Price 2012; smaller for several seeds, since their answers are averaged), shared between the tasks of a mean.
Deviations of a proportion are added on the log-odds scale, which keeps every draw in [0, 1]. Intervals are percentiles of
the draws; equal inputs give equal results. docs/statistics.md reports their coverage. numpy, scipy and statsmodels are
imported on first use, since the score stage needs none of them.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Shape (seeds, examples): right (1) or wrong (0).
Runs = Sequence[Sequence[float]]

LEVEL = 0.95
DRAWS = 10_000
POWER = 0.8
# Values of a standard error over which power is averaged.
ERRORS = 100
# From this many degrees of freedom on, Student's t counts as the normal distribution.
MANY = 10_000


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
    pairs = [(_as_table(runs), None) for runs in tasks]
    mean = _bootstrap(pairs, weights=_task_weights(pairs, micro=micro), level=level, draws=draws, seed=seed)
    low, high = mean["low"], mean["high"]
    if len(tasks) == len(tasks[0]) == 1:
        correct, n = round(sum(tasks[0][0])), len(tasks[0][0])
        low, high = wilson_interval(correct, n, level=level)
    return {
        "estimate": mean["estimate"],
        "low": low,
        "high": high,
        "n": mean["n"],
        "seeds": mean["seeds"],
    }


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
    pairs = [(_as_table(first), _as_table(second)) for first, second in tasks]
    return _bootstrap(pairs, weights=_task_weights(pairs, micro=micro), level=level, draws=draws, seed=seed)


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


def _as_table(runs: Runs) -> "Array":
    """Return runs as an array (seeds, examples)."""
    import numpy as np

    if not len(runs) or len({len(run) for run in runs}) != 1 or not len(runs[0]):
        raise ValueError(
            "runs must be a table (seeds, examples) with rows of equal length and at least one value"
        )
    return np.asarray(runs, dtype=float)


def _task_weights(pairs: "Sequence[tuple[Array, Array | None]]", *, micro: bool) -> list[float]:
    """Return the weight of each task in an average; they sum to 1."""
    sizes = [first.shape[1] if micro else 1 for first, _ in pairs]
    return [size / sum(sizes) for size in sizes]


def _bootstrap(
    pairs: "Sequence[tuple[Array, Array | None]]",
    *,
    weights: Sequence[float],
    level: float,
    draws: int,
    seed: int,
) -> Difference:
    """Return the average over tasks of (first - second); where second is None, of the accuracy of first."""
    import numpy as np

    generator = np.random.default_rng(seed)
    estimate, centre, variance, sample = 0.0, 0.0, 0.0, np.zeros(draws)
    for (first, second), weight in zip(pairs, weights, strict=True):
        if second is not None and first.shape[1] != second.shape[1]:
            raise ValueError(f"{first.shape[1]} examples against {second.shape[1]}")
        values = first.mean(axis=0) - (0 if second is None else second.mean(axis=0))
        task = _draw_examples(values, _pseudo_examples(first, second), weight, draws, generator)
        estimate += weight * float(values.mean())
        centre += weight * task.centre
        variance += weight**2 * task.variance
        sample += weight * task.means
    sides = [[first for first, _ in pairs], [second for _, second in pairs if second is not None]]
    spreads = [_draw_seeds(side, weights, draws, generator) for side in sides if side]
    drawn_variance = variance + sum(spread.between for spread in spreads)
    variance = max(variance - sum(spread.noise for spread in spreads), 0.0)
    variance += sum(spread.floored for spread in spreads)
    freedom = _degrees_of_freedom(variance, spreads)
    stretch = math.sqrt(variance / drawn_variance) * (
        1 if freedom == math.inf else np.sqrt(freedom / generator.chisquare(freedom, size=draws))
    )
    shifts = sum(spread.draws * sign for spread, sign in zip(spreads, (1, -1), strict=False))
    if sides[1]:
        sample = centre + stretch * (sample - centre + shifts)
    else:
        sample = _stretch_log_odds(sample, centre, shifts, stretch)
    low, high = np.clip(np.quantile(sample, [(1 - level) / 2, (1 + level) / 2]), -1 if sides[1] else 0, 1)
    further = int((np.abs(sample - centre) >= abs(estimate)).sum())
    return {
        "estimate": estimate,
        "low": min(float(low), estimate),
        "high": max(float(high), estimate),
        "p_value": (1 + further) / (draws + 1),
        "error": math.sqrt(variance),
        "freedom": freedom,
        "n": sum(first.shape[1] for first, _ in pairs),
        "seeds": len(pairs[0][0]),
    }


def _pseudo_examples(first: "Array", second: "Array | None") -> list[float]:
    """Return the pseudo-examples' values: as far apart as answers averaged over the seeds can be."""
    if second is None:
        return [0, 0, 1, 1]
    reach = math.sqrt((1 / len(first) + 1 / len(second)) / 2)
    return [-reach, reach]


def _stretch_log_odds(
    sample: "Array", centre: float, shifts: "Array | int", stretch: "Array | float"
) -> "Array":
    """Return drawn rates, stretched around ``centre`` and shifted by the seeds' deviations, both in log-odds."""
    import numpy as np

    with np.errstate(divide="ignore", over="ignore"):
        odds = np.log(sample / (1 - sample))
        middle = math.log(centre / (1 - centre))
        rates: Array = 1 / (
            1 + np.exp(-(middle + stretch * (odds - middle + shifts / (centre * (1 - centre)))))
        )
        return rates


def _degrees_of_freedom(variance: float, spreads: "Sequence[_SeedSpread]") -> float:
    """Return Satterthwaite's degrees of freedom of a variance whose parts for the seeds are estimated from few."""
    uncertain = sum(spread.measured**2 / (spread.seeds - 1) for spread in spreads if spread.seeds > 1)
    freedom = variance**2 / uncertain if uncertain else math.inf
    return freedom if freedom < MANY else math.inf


class _ExampleDraws(NamedTuple):
    """Means (draws,) of resampled examples, the value they vary around, and their variance."""

    means: "Array"
    centre: float
    variance: float


def _draw_examples(
    values: "Array",
    pseudo: Sequence[float],
    weight: float,
    draws: int,
    generator: "np.random.Generator",
) -> _ExampleDraws:
    """Return means of examples drawn with replacement; each pseudo-example counts as ``weight`` of an example.

    Values repeat (k seeds give at most k + 1 distinct ones), so it is faster to draw how often each value occurs.
    """
    import numpy as np

    distinct, indices = np.unique(np.concatenate([values, pseudo]), return_inverse=True)
    counts = np.bincount(indices, weights=[1.0] * len(values) + [weight] * len(pseudo))
    n = len(values) + round(weight * len(pseudo))
    shares = counts / counts.sum()
    centre = float(shares @ distinct)
    variance = float(shares @ (distinct - centre) ** 2) / n
    return _ExampleDraws(generator.multinomial(n, shares, size=draws) @ distinct / n, centre, variance)


class _SeedSpread(NamedTuple):
    """How the average over tasks of one side varies between seeds; variances are of the mean over seeds.

    Attributes:
        measured: variance of the seeds' accuracies.
        noise: the part of it that comes from single answers.
        floored: ``measured``, but at least halfway to the noise that it must contain.
        between: what remains without the noise.
        draws: (draws,) deviations from resampling seeds, scaled to ``between``.
        seeds: number of seeds.
    """

    measured: float
    noise: float
    floored: float
    between: float
    draws: "Array"
    seeds: int


def _draw_seeds(
    tables: "Sequence[Array]", weights: Sequence[float], draws: int, generator: "np.random.Generator"
) -> _SeedSpread:
    """Return how resampling seeds changes one side's average over tasks."""
    import numpy as np

    seeds = len(tables[0])
    if any(len(table) != seeds for table in tables):
        raise ValueError("tasks have different numbers of seeds")
    if seeds == 1:
        return _SeedSpread(0.0, 0.0, 0.0, 0.0, draws=np.zeros(draws), seeds=1)
    means = [weight * table.mean(axis=1) for weight, table in zip(weights, tables, strict=True)]
    accuracies: Array = np.asarray(sum(means))
    measured = float(accuracies.var(ddof=1)) / seeds
    noise = (
        sum(weight**2 * _answer_noise(table) for weight, table in zip(weights, tables, strict=True)) / seeds
    )
    between = max(measured - noise, 0.0)
    scale = math.sqrt(between / measured * seeds / (seeds - 1)) if between else 0.0
    deviations = accuracies - accuracies.mean()
    return _SeedSpread(
        measured=measured,
        noise=noise,
        floored=measured + max(noise - measured, 0.0) / 2,
        between=between,
        draws=scale * deviations[generator.integers(seeds, size=(draws, seeds))].mean(axis=1),
        seeds=seeds,
    )


def _answer_noise(table: "Array") -> float:
    """Return the variance of a seed's accuracy that comes from unsure answers: the residual of seeds + examples."""
    seeds, n = table.shape
    if n == 1:
        return 0.0
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((residual**2).sum() / (seeds - 1) / (n - 1) / n)
