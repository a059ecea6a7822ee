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
is that of two such rates, drawn together and subtracted: against a rate that is known well it is the first rate's own,
shifted. Its p-value comes from draws of the differences themselves. Intervals are percentiles of the draws; equal inputs
give equal results. docs/statistics.md reports their coverage.

Examples that belong together are drawn together: the unit is then the cluster, and a mean of k clusters has k - 1 degrees
of freedom. The variance between seeds may come from a pool of methods (pipeline.evaluate.pooling) instead of a method's own
few seeds.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.evaluate.tables import Sample, answer_noise, cluster_sums, probit_slope, shrink_rate

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
    means = _draw_task_means(samples, weights, draws, generator)
    sides = [[sample.first for sample in samples]]
    sides += [[sample.second for sample in samples if sample.second is not None]]
    clusters = [sample.clusters for sample in samples]
    spreads = [
        _draw_seeds(side, clusters, weights, pool, draws, generator)
        for side, pool in zip(sides, pools, strict=True)
        if side
    ]
    # In the draws the noise of single answers is part of the examples' variance. The stated error has it in the
    # variance between seeds instead, whose degrees of freedom are known.
    drawn_variance = means.variance + sum(spread.between for spread in spreads)
    variance = max(means.variance * means.inflation - sum(spread.noise for spread in spreads), 0.0)
    variance += sum(spread.floored for spread in spreads)
    freedom = _degrees_of_freedom(variance, spreads, means.uncertainty)
    stretch = math.sqrt(variance / drawn_variance) * (
        1 if freedom == math.inf else np.sqrt(freedom / generator.chisquare(freedom, size=draws))
    )
    if sides[1]:
        shifts = sum(spread.draws * sign for spread, sign in zip(spreads, (1, -1), strict=False))
        deviations = stretch * (means.draws - means.centre + shifts)
        further = int((np.abs(deviations) >= abs(means.estimate)).sum())
        drawn = _draw_rate_differences(samples, weights, spreads, stretch, draws, seed)
    else:
        drawn = _stretch_log_odds(means.draws, means.centre, spreads[0].draws, stretch)
        further = int((np.abs(drawn - means.centre) >= abs(means.estimate)).sum())
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapMean(
        estimate=means.estimate,
        # pseudo-examples may shift a narrow interval past its own estimate
        low=min(float(low), means.estimate),
        high=max(float(high), means.estimate),
        # never 0: the observed result counts as one of the draws
        p_value=(1 + further) / (draws + 1),
        error=math.sqrt(variance),
        null_error=math.sqrt(variance + means.removed),
        freedom=freedom,
        n=sum(sample.first.shape[1] for sample in samples),
        seeds=len(samples[0].first),
    )


class _TaskMeans(NamedTuple):
    """The average over tasks and the draws of it.

    Attributes:
        estimate: the plain average.
        centre: the value that the draws vary around; pseudo-examples shift it.
        variance: of the draws.
        inflation: variance of the average relative to that of the draws: above 1 for a few clusters.
        uncertainty: half the variance of the estimated variance; 0 without clusters.
        removed: what the variance would be larger by if the true average were zero.
        draws: (draws,).
    """

    estimate: float
    centre: float
    variance: float
    inflation: float
    uncertainty: float
    removed: float
    draws: "Array"


def _draw_task_means(
    samples: Sequence[Sample], weights: Sequence[float], draws: int, generator: "np.random.Generator"
) -> _TaskMeans:
    """Return the average over tasks, and how resampling the examples of each task changes it."""
    import numpy as np

    estimate, centre, variance, inflated, uncertainty, removed = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    means = np.zeros(draws)
    for sample, weight in zip(samples, weights, strict=True):
        first, second = sample.first, sample.second
        if second is not None and first.shape[1] != second.shape[1]:
            raise ValueError(f"{first.shape[1]} examples against {second.shape[1]}")
        values = first.mean(axis=0) - (0 if second is None else second.mean(axis=0))
        pseudo = np.array([_pseudo_examples(first, second)], dtype=float)
        task = _draw_examples(values[None], pseudo, sample.clusters, weight, draws, generator)
        # The draws vary around ``centre``, which the pseudo-examples shift; the estimate is the plain mean.
        task_estimate, task_variance = float(values.mean()), weight**2 * task.variance
        estimate += weight * task_estimate
        centre += weight * float(task.centres[0])
        variance += task_variance
        means += weight * task.means[0]
        removed += weight**2 * task_estimate**2 / task.units
        if sample.clusters is None:
            inflated += task_variance
        else:
            corrected = task_variance * task.units / (task.units - 1)
            inflated += corrected
            uncertainty += corrected**2 / (task.units - 1)
    return _TaskMeans(estimate, centre, variance, inflated / variance, uncertainty, removed, means)


def _pseudo_examples(first: "Array", second: "Array | None") -> list[float]:
    """Return the pseudo-examples' values: as far apart as answers averaged over the seeds can be."""
    if second is None:
        return [0, 0, 1, 1]
    # the variance of an answer, averaged over the seeds, shrinks with their number
    reach = math.sqrt((1 / len(first) + 1 / len(second)) / 2)
    return [-reach, reach]


def _draw_rate_differences(
    samples: Sequence[Sample],
    weights: Sequence[float],
    spreads: "Sequence[_SeedSpread]",
    stretch: "Array | float",
    draws: int,
    seed: int,
) -> "Array":
    """Return draws (draws,) of the difference of two averages, each drawn in log-odds as an accuracy is.

    Both sides share the drawn examples. Their four pseudo-examples leave either side with two right and two wrong, as an
    accuracy has (for pairs: Agresti and Min 2005, Statistics in Medicine 24, 729-740).
    """
    import numpy as np

    # a stream of its own: the p-value's draws stay what they are without the interval
    generator = np.random.default_rng([seed, 1])
    rates, centres = np.zeros((2, draws)), np.zeros(2)
    pseudo = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], dtype=float)
    for sample, weight in zip(samples, weights, strict=True):
        assert sample.second is not None
        values = np.stack([sample.first.mean(axis=0), sample.second.mean(axis=0)])
        task = _draw_examples(values, pseudo, sample.clusters, weight, draws, generator)
        rates += weight * task.means
        centres += weight * task.centres
    first, second = (
        _stretch_log_odds(side, float(centre), spread.draws, stretch)
        for side, centre, spread in zip(rates, centres, spreads, strict=True)
    )
    return first - second


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


class _ExampleDraws(NamedTuple):
    """Means of resampled examples for each row of values.

    Attributes:
        means: (rows, draws).
        centres: (rows,) the values that they vary around.
        variance: of the means of the first row.
        units: number of examples or clusters.
    """

    means: "Array"
    centres: "Array"
    variance: float
    units: int


def _draw_examples(
    values: "Array",
    pseudo: "Array",
    clusters: "Array | None",
    weight: float,
    draws: int,
    generator: "np.random.Generator",
) -> _ExampleDraws:
    """Return means of examples drawn with replacement; each pseudo-example counts as ``weight`` of an example.

    Values repeat (k seeds give at most k + 1 distinct ones), so it is faster to draw how often each value occurs. A
    cluster is drawn as a whole, with the sum of its values and its size; a pseudo-example stands for an average cluster.

    Args:
        values: (rows, examples).
        pseudo: (rows, pseudo-examples).
        clusters: (examples,) the number of each example's cluster; None: each is its own.
        weight: of a pseudo-example.
        draws: number of draws.
        generator: of the draws.
    """
    import numpy as np

    units, size = values, 1.0
    if clusters is not None:
        sums = cluster_sums(np.vstack([values, np.ones(values.shape[1])]), clusters)
        size = float(sums[-1].mean())
        units, pseudo = sums, np.vstack([size * pseudo, np.full(pseudo.shape[1], size)])
    number = units.shape[1]
    distinct, indices = np.unique(np.hstack([units, pseudo]), axis=1, return_inverse=True)
    counts = np.bincount(indices.ravel(), weights=[1.0] * number + [weight] * pseudo.shape[1])
    n = number + round(weight * pseudo.shape[1])
    shares = counts / counts.sum()
    drawn = generator.multinomial(n, shares, size=draws)
    if clusters is None:
        # one row at a time: the sums of a single row stay what a vector product makes of them
        means = np.stack([drawn @ row / n for row in distinct])
        centres = np.array([float(shares @ row) for row in distinct])
        variance = float(shares @ (distinct[0] - centres[0]) ** 2) / n
    else:
        sizes = drawn @ distinct[-1]
        means = np.stack([drawn @ row / sizes for row in distinct[:-1]])
        average = float(shares @ distinct[-1])
        centres = np.array([float(shares @ row) / average for row in distinct[:-1]])
        # of a ratio of sums, to first order
        deviations = (distinct[0] - centres[0] * distinct[-1]) / average
        variance = float(shares @ deviations**2) / n
    return _ExampleDraws(means, centres, variance, number)


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
