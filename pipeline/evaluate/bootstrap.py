"""The hierarchical bootstrap behind every interval of several runs: it resamples test examples and training seeds.

A method's results on a task are a table of right (1) and wrong (0), seeds x examples; every seed answers the same
examples. Two things vary by chance: which examples were drawn, and which seeds were trained. The bootstrap resamples both:

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
Deviations of a proportion are added on the log-odds scale, which keeps every draw in [0, 1]. The interval of a difference
is that of two such rates, drawn together and subtracted: against a rate with a narrow interval it is the first rate's
own, shifted. Its p-value comes from draws of the differences themselves. Intervals are percentiles of the draws; equal inputs
give equal results. docs/statistics.md reports their coverage.

Examples that belong together are drawn together: the unit is then the cluster, and a mean of k clusters has k - 1 degrees
of freedom. The variance between seeds may come from a pool of methods (pipeline.evaluate.pooling) instead of a method's own
few seeds.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.evaluate.resampling import TaskMeans, draw_task_means
from pipeline.evaluate.tables import Sample, answer_noise, probit_slope, shrink_rate

if TYPE_CHECKING:
    import numpy as np

    from pipeline.evaluate.pooling import SeedPool
    from pipeline.evaluate.tables import Array

# From this many degrees of freedom on, Student's t counts as the normal distribution.
MANY = 10_000


class BootstrapMean(NamedTuple):
    """An average over tasks of accuracies or of differences, with the bootstrap's interval and p-value.

    Attributes:
        estimate: the average; the interval is [low, high].
        low: lower end.
        high: upper end.
        p_value: two-sided, of a true average of zero.
        error: standard error.
        null_error: standard error if the true average were zero.
        freedom: degrees of freedom of the error.
        n: number of examples of all tasks.
        seeds: number of runs of the first side.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    error: float
    null_error: float
    freedom: float
    n: int
    seeds: int


def task_weights(samples: Sequence[Sample], *, micro: bool) -> list[float]:
    """Return the weight of each task in an average; they sum to 1."""
    sizes = [sample.first.shape[1] if micro else 1 for sample in samples]
    return [size / sum(sizes) for size in sizes]


def bootstrap_mean(
    samples: Sequence[Sample],
    *,
    weights: Sequence[float],
    level: float,
    draws: int,
    seed: int,
    pools: "tuple[SeedPool | None, SeedPool | None]" = (None, None),
) -> BootstrapMean:
    """Return the average over tasks of (first - second); where second is None, of the accuracy of first.

    Args:
        samples: the answers of either side to each task.
        weights: of the tasks; they sum to 1.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.
        pools: for either side the variance between seeds of a pool of methods; None: the side's own.

    Raises:
        ValueError: two sides have different numbers of examples, or tasks have different numbers of seeds.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    pseudo = [_pseudo_examples(sample.first, sample.second) for sample in samples]
    (means,) = draw_task_means(
        [_average_seeds(sample) for sample in samples], pseudo, samples, weights, draws, generator
    )
    spreads = _draw_sides(samples, weights, pools, draws, generator)
    stretch = _stretch(means, spreads, draws, generator)
    if len(spreads) > 1:
        shifts = sum(spread.draws * sign for spread, sign in zip(spreads, (1, -1), strict=False))
        deviations = stretch.factors * (means.draws - means.centre + shifts)
        first, second = _draw_rates(samples, weights, spreads, draws, seed)
        drawn = first - second
    else:
        drawn = _stretch_log_odds(means.draws, means.centre, spreads[0].draws, stretch.factors)
        deviations = drawn - means.centre
    further = int((np.abs(deviations) >= abs(means.estimate)).sum())
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapMean(
        estimate=means.estimate,
        # pseudo-examples may shift a narrow interval past its own estimate
        low=min(float(low), means.estimate),
        high=max(float(high), means.estimate),
        # never 0: the observed result counts as one of the draws
        p_value=(1 + further) / (draws + 1),
        error=math.sqrt(stretch.variance),
        null_error=math.sqrt(stretch.variance + means.removed),
        freedom=stretch.freedom,
        n=sum(sample.first.shape[1] for sample in samples),
        seeds=len(samples[0].first),
    )


def _draw_sides(
    samples: Sequence[Sample],
    weights: Sequence[float],
    pools: "tuple[SeedPool | None, SeedPool | None]",
    draws: int,
    generator: "np.random.Generator",
) -> list["_SeedSpread"]:
    """Return the draws of seeds for either side; a mean without a second side has the first alone."""
    sides = [[sample.first for sample in samples]]
    sides += [[sample.second for sample in samples if sample.second is not None]]
    clusters = [sample.clusters for sample in samples]
    return [
        _draw_seeds(side, clusters, weights, pool, draws, generator)
        for side, pool in zip(sides, pools, strict=True)
        if side
    ]


def _average_seeds(sample: Sample) -> "Array":
    """Return each example's answer averaged over seeds, (1, examples); of two methods, their difference."""
    first, second = sample.first, sample.second
    average: Array = first.mean(axis=0)[None]
    if second is None:
        return average
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} examples against {second.shape[1]}")
    difference: Array = average - second.mean(axis=0)
    return difference


def _pseudo_examples(first: "Array", second: "Array | None") -> list[list[float]]:
    """Return the pseudo-examples' values: as far apart as answers averaged over the seeds can be."""
    if second is None:
        return [[0, 0, 1, 1]]
    # the variance of an answer, averaged over the seeds, shrinks with their number
    reach = math.sqrt((1 / len(first) + 1 / len(second)) / 2)
    return [[-reach, reach]]


class _Stretch(NamedTuple):
    """The variance of an average with its degrees of freedom, and the factors (draws,) that give the draws its spread."""

    variance: float
    freedom: float
    factors: "Array | float"


def _stretch(
    means: TaskMeans, spreads: "Sequence[_SeedSpread]", draws: int, generator: "np.random.Generator"
) -> _Stretch:
    """Return how far the draws of an average, with those of its seeds, are to be stretched."""
    import numpy as np

    # In the draws the noise of single answers is part of the examples' variance. The stated error has it in the
    # variance between seeds instead, whose degrees of freedom are known.
    drawn_variance = means.variance + sum(spread.between for spread in spreads)
    variance = max(means.variance * means.inflation - sum(spread.noise for spread in spreads), 0.0)
    variance += sum(spread.floored for spread in spreads)
    freedom = _degrees_of_freedom(variance, spreads, means.uncertainty)
    factors = math.sqrt(variance / drawn_variance) * (
        1 if freedom == math.inf else np.sqrt(freedom / generator.chisquare(freedom, size=draws))
    )
    return _Stretch(variance, freedom, factors)


def _draw_rates(
    samples: Sequence[Sample],
    weights: Sequence[float],
    spreads: "Sequence[_SeedSpread]",
    draws: int,
    seed: int,
) -> "tuple[Array, Array]":
    """Return draws (draws,) of two averages, each drawn in log-odds as an accuracy is.

    Both sides share the drawn examples. Their four pseudo-examples leave either side with two right and two wrong, as an
    accuracy has (for pairs: Agresti and Min 2005, Statistics in Medicine 24, 729-740). Each side is stretched by its own
    variance, so that a precise base stays precise beside two seeds that differ.
    """
    import numpy as np

    # a separate random stream, so that the interval does not change the p-value's draws
    generator = np.random.default_rng([seed, 1])
    values = [
        np.stack([sample.first.mean(axis=0), sample.second.mean(axis=0)])
        for sample in samples
        if sample.second is not None
    ]
    pseudo = [[[0.0, 0, 1, 1], [0.0, 1, 0, 1]]] * len(samples)
    sides = draw_task_means(values, pseudo, samples, weights, draws, generator)
    first, second = (
        _stretch_log_odds(
            side.draws, side.centre, spread.draws, _stretch(side, [spread], draws, generator).factors
        )
        for side, spread in zip(sides, spreads, strict=True)
    )
    return first, second


def bootstrap_share(
    samples: Sequence[Sample],
    *,
    weights: Sequence[float],
    level: float,
    draws: int,
    seed: int,
    pools: "tuple[SeedPool | None, SeedPool | None]" = (None, None),
) -> tuple[float, float]:
    """Return the interval of the average of first as a share of the average of second; arguments as in ``bootstrap_mean``.

    Both averages are drawn together, as the interval of their difference is.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    sides = (
        [sample.first for sample in samples],
        [sample.second for sample in samples if sample.second is not None],
    )
    clusters = [sample.clusters for sample in samples]
    spreads = [
        _draw_seeds(side, clusters, weights, pool, draws, generator)
        for side, pool in zip(sides, pools, strict=True)
    ]
    first, second = _draw_rates(samples, weights, spreads, draws, seed)
    # where the second side has no right answer, its draws may underflow
    low, high = np.quantile(
        first / np.maximum(second, np.finfo(float).tiny), [(1 - level) / 2, (1 + level) / 2]
    )
    return float(low), float(high)


def _stretch_log_odds(
    sample: "Array", centre: float, shifts: "Array | int", stretch: "Array | float"
) -> "Array":
    """Return drawn rates, stretched around ``centre`` and shifted by the seeds' deviations, both in log-odds."""
    import numpy as np

    # A drawn rate of 0 or 1 has infinite odds, which turn into 0 or 1 again.
    with np.errstate(divide="ignore", over="ignore"):
        odds = np.log(sample / (1 - sample))
        # dividing by centre * (1 - centre) turns a deviation of a rate into one of its log-odds
        middle = math.log(centre / (1 - centre))
        rates: Array = 1 / (
            1 + np.exp(-(middle + stretch * (odds - middle + shifts / (centre * (1 - centre)))))
        )
        return rates


def _degrees_of_freedom(variance: float, spreads: "Sequence[_SeedSpread]", uncertainty: float) -> float:
    """Return Satterthwaite's degrees of freedom of a variance whose parts are estimated from few seeds or clusters."""
    own = sum(spread.own_error**2 for spread in spreads)
    # both sides take the same pool, so that their errors add up
    pooled = sum(spread.pooled_error for spread in spreads) ** 2
    uncertain = own + pooled + uncertainty
    freedom = variance**2 / uncertain if uncertain else math.inf
    return freedom if freedom < MANY else math.inf


class _SeedSpread(NamedTuple):
    """How the average over tasks of one side varies between seeds; variances are of the mean over seeds.

    Attributes:
        noise: the part of the variance between seeds that comes from single answers.
        floored: the variance between seeds, but at least halfway to the noise that it must contain.
        between: what remains without the noise.
        own_error: standard error of an estimate from the side's own seeds, over the square root of 2.
        pooled_error: the same of an estimate from a pool.
        draws: (draws,) deviations from resampling seeds, scaled to ``between``.
    """

    noise: float
    floored: float
    between: float
    own_error: float
    pooled_error: float
    draws: "Array"


def _draw_seeds(
    tables: "Sequence[Array]",
    clusters: "Sequence[Array | None]",
    weights: Sequence[float],
    pool: "SeedPool | None",
    draws: int,
    generator: "np.random.Generator",
) -> _SeedSpread:
    """Return how resampling seeds changes one side's average over tasks."""
    import numpy as np

    seeds = len(tables[0])
    if any(len(table) != seeds for table in tables):
        raise ValueError("tasks have different numbers of seeds")
    if seeds == 1:
        return _SeedSpread(0.0, 0.0, 0.0, 0.0, 0.0, draws=np.zeros(draws))
    means = [weight * table.mean(axis=1) for weight, table in zip(weights, tables, strict=True)]
    accuracies: Array = np.asarray(sum(means))
    noise = answer_noise(tables, clusters, weights) / seeds
    if pool is not None:
        # turns a variance of probits into one of the mean accuracy
        scale = probit_slope(shrink_rate(tables, weights)) ** 2 / seeds
        between = scale * pool.variance
        return _SeedSpread(
            noise=noise,
            floored=noise + between,
            between=between,
            own_error=0.0,
            pooled_error=scale * pool.error / math.sqrt(2),
            draws=math.sqrt(between) * generator.standard_normal(draws),
        )
    measured = float(accuracies.var(ddof=1)) / seeds
    between = max(measured - noise, 0.0)
    scale = math.sqrt(between / measured * seeds / (seeds - 1)) if between else 0.0
    deviations = accuracies - accuracies.mean()
    return _SeedSpread(
        noise=noise,
        floored=measured + max(noise - measured, 0.0) / 2,
        between=between,
        own_error=measured / math.sqrt(seeds - 1),
        pooled_error=0.0,
        draws=scale * deviations[generator.integers(seeds, size=(draws, seeds))].mean(axis=1),
    )
