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
Deviations of a proportion are added on the log-odds scale, which keeps every draw in [0, 1]. Intervals are percentiles of
the draws; equal inputs give equal results. docs/statistics.md reports their coverage.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Shape (seeds, examples): right (1) or wrong (0).
Runs = Sequence[Sequence[float]]

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
        freedom: degrees of freedom of the error.
        n: number of examples of all tasks.
        seeds: number of runs of the first side.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    error: float
    freedom: float
    n: int
    seeds: int


def as_table(runs: Runs) -> "Array":
    """Return runs as an array (seeds, examples)."""
    import numpy as np

    if not len(runs) or len({len(run) for run in runs}) != 1 or not len(runs[0]):
        raise ValueError(
            "runs must be a table (seeds, examples) with rows of equal length and at least one value"
        )
    return np.asarray(runs, dtype=float)


def task_weights(pairs: "Sequence[tuple[Array, Array | None]]", *, micro: bool) -> list[float]:
    """Return the weight of each task in an average; they sum to 1."""
    sizes = [first.shape[1] if micro else 1 for first, _ in pairs]
    return [size / sum(sizes) for size in sizes]


def bootstrap_mean(
    pairs: "Sequence[tuple[Array, Array | None]]",
    *,
    weights: Sequence[float],
    level: float,
    draws: int,
    seed: int,
) -> BootstrapMean:
    """Return the average over tasks of (first - second); where second is None, of the accuracy of first.

    Args:
        pairs: for each task a table (seeds, examples) of either side.
        weights: of the tasks; they sum to 1.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: two sides have different numbers of examples, or tasks have different numbers of seeds.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    estimate, centre, variance, sample = _draw_task_means(pairs, weights, draws, generator)
    sides = [[first for first, _ in pairs], [second for _, second in pairs if second is not None]]
    spreads = [_draw_seeds(side, weights, draws, generator) for side in sides if side]
    # In the draws the noise of single answers is part of the examples' variance. The stated error has it in the
    # variance between seeds instead, whose degrees of freedom are known.
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
    return BootstrapMean(
        estimate=estimate,
        # pseudo-examples may shift a narrow interval past its own estimate
        low=min(float(low), estimate),
        high=max(float(high), estimate),
        # never 0: the observed result counts as one of the draws
        p_value=(1 + further) / (draws + 1),
        error=math.sqrt(variance),
        freedom=freedom,
        n=sum(first.shape[1] for first, _ in pairs),
        seeds=len(pairs[0][0]),
    )


class _TaskMeans(NamedTuple):
    """The average over tasks, the value that its draws vary around, their variance, and the draws (draws,)."""

    estimate: float
    centre: float
    variance: float
    draws: "Array"


def _draw_task_means(
    pairs: "Sequence[tuple[Array, Array | None]]",
    weights: Sequence[float],
    draws: int,
    generator: "np.random.Generator",
) -> _TaskMeans:
    """Return the average over tasks, and how resampling the examples of each task changes it."""
    import numpy as np

    estimate, centre, variance, sample = 0.0, 0.0, 0.0, np.zeros(draws)
    for (first, second), weight in zip(pairs, weights, strict=True):
        if second is not None and first.shape[1] != second.shape[1]:
            raise ValueError(f"{first.shape[1]} examples against {second.shape[1]}")
        values = first.mean(axis=0) - (0 if second is None else second.mean(axis=0))
        task = _draw_examples(values, _pseudo_examples(first, second), weight, draws, generator)
        # The draws vary around ``centre``, which the pseudo-examples shift; the estimate is the plain mean.
        estimate += weight * float(values.mean())
        centre += weight * task.centre
        variance += weight**2 * task.variance
        sample += weight * task.means
    return _TaskMeans(estimate, centre, variance, sample)


def _pseudo_examples(first: "Array", second: "Array | None") -> list[float]:
    """Return the pseudo-examples' values: as far apart as answers averaged over the seeds can be."""
    if second is None:
        return [0, 0, 1, 1]
    # the variance of an answer, averaged over the seeds, shrinks with their number
    reach = math.sqrt((1 / len(first) + 1 / len(second)) / 2)
    return [-reach, reach]


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
