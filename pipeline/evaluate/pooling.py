"""The variance between seeds, pooled over the methods of one model: what a probit mixed model assumes of them.

Two seeds of one method say almost nothing about how far a third would be. If the probits of the seeds' accuracies have one
variance in all methods of a model, k methods with s seeds each estimate it with k (s - 1) degrees of freedom instead of
s - 1. (On the scale of log-odds, accuracies near 0 or 1 would get less variance; in points, more.)

A method's seeds have accuracies of variance noise + slope^2 v: the noise of single answers, which the answers themselves
show (``answer_noise``), and the variance v of the probits, times the squared normal density at the probit. So each method
gives an estimate of v. The pool is the average of these estimates, weighted by precision, as in the method of moments for a
variance component (Paule and Mandel 1982, Journal of Research of the National Bureau of Standards 87, 377-385).

A method that varies far more between seeds than the others would widen all intervals. The pools of the others exclude it
(F test at 5 % over the methods, largest first). Its own pool is it and the methods that are not excluded, so its own interval
is too narrow: docs/statistics.md has the coverage.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.evaluate.tables import answer_noise, probit_slope, shrink_rate

if TYPE_CHECKING:
    import numpy as np

    from pipeline.evaluate.tables import Array

# Level of the test that excludes a method from the pools of the others.
OUTLYING = 0.05
# The weights depend on the variance that they estimate; a few rounds settle it.
ROUNDS = 20


class SeedPool(NamedTuple):
    """The variance between seeds of a pool of methods.

    Attributes:
        variance: of the probits of the seeds' accuracies.
        error: standard error of that variance.
        methods: number of methods in the pool.
        freedom: degrees of freedom, seeds - 1 for each method.
        is_outlying: whether the pools of the other methods exclude the method that this pool is for.
    """

    variance: float
    error: float
    methods: int
    freedom: int
    is_outlying: bool = False


class _Spread(NamedTuple):
    """How the seeds of a method differ.

    Attributes:
        measured: variance of their accuracies.
        noise: the part of it that comes from single answers.
        sampling: an upper bound of the noise: the variance of an accuracy of independent answers.
        slope: derivative of the accuracy with respect to its probit.
        freedom: seeds - 1.
    """

    measured: float
    noise: float
    sampling: float
    slope: float
    freedom: int

    def expect(self, variance: float) -> float:
        """Return the variance of the accuracies where their probits have this variance."""
        return self.noise + variance * self.slope**2

    def weigh(self, variance: float) -> float:
        """Return the precision of this method's measured variance."""
        return self.freedom / (self.sampling + variance * self.slope**2) ** 2


def pool_methods(
    methods: "Sequence[Sequence[Array]]",
    *,
    clusters: "Sequence[Array | None]",
    weights: Sequence[float],
) -> "list[SeedPool | None]":
    """Return for each method the pool of the variance between its seeds; None where there is nothing to pool.

    Args:
        methods: for each method a table (seeds, examples) for each task.
        clusters: for each task the clusters of its examples.
        weights: of the tasks in the average; they sum to 1.
    """
    spreads = {
        number: _measure_spread(tables, clusters, weights)
        for number, tables in enumerate(methods)
        if len(tables[0]) > 1
    }
    if len(spreads) < 2:
        return [None] * len(methods)
    common = _leave_out_outlying(spreads)
    pools = {
        number: _estimate([*{**common, number: spread}.values()])._replace(is_outlying=number not in common)
        for number, spread in spreads.items()
    }
    return [pools.get(number) for number in range(len(methods))]


def _measure_spread(
    tables: "Sequence[Array]", clusters: "Sequence[Array | None]", weights: Sequence[float]
) -> _Spread:
    accuracies: np.ndarray = sum(
        weight * table.mean(axis=1) for weight, table in zip(weights, tables, strict=True)
    )
    sampling = sum(
        weight**2 * shrink_rate([table], [1.0]) * (1 - shrink_rate([table], [1.0])) / table.shape[1]
        for weight, table in zip(weights, tables, strict=True)
    )
    return _Spread(
        measured=float(accuracies.var(ddof=1)),
        noise=answer_noise(tables, clusters, weights),
        sampling=sampling,
        slope=probit_slope(shrink_rate(tables, weights)),
        freedom=len(accuracies) - 1,
    )


def _leave_out_outlying(spreads: dict[int, _Spread]) -> dict[int, _Spread]:
    """Return the methods without those whose seeds differ far more than the remaining ones'."""
    from scipy.stats import f

    remaining, alpha = dict(spreads), OUTLYING / len(spreads)
    # at least two remain: a single one would be no pool
    while len(remaining) > 2:
        ratios = {}
        for number, spread in remaining.items():
            others = [other for key, other in remaining.items() if key != number]
            expected = spread.expect(_estimate(others).variance)
            # answers without any noise, and others without any variance, leave nothing to compare with
            ratios[number] = spread.measured / max(expected, spread.sampling / 10)
        worst = max(ratios, key=ratios.__getitem__)
        freedom = sum(other.freedom for key, other in remaining.items() if key != worst)
        if f.sf(ratios[worst], remaining[worst].freedom, freedom) > alpha:
            break
        del remaining[worst]
    return remaining


def _estimate(spreads: Sequence[_Spread]) -> SeedPool:
    """Return the pooled variance of the probits, the average of the methods' own weighted by precision."""
    variance = 0.0
    for _ in range(ROUNDS):
        weights = [spread.weigh(variance) * spread.slope**2 for spread in spreads]
        total = sum(weight * spread.slope**2 for weight, spread in zip(weights, spreads, strict=True))
        excess = sum(
            weight * (spread.measured - spread.noise) for weight, spread in zip(weights, spreads, strict=True)
        )
        variance = max(excess / total, 0.0)
    # Cut at zero, the estimate varies less than its parts, and is too large where there is no variance. Half of the noise
    # keeps the tests near their level both there and where seeds vary (docs/statistics.md).
    squares = sum(
        (weight * (spread.noise / 2 + variance * spread.slope**2)) ** 2 * 2 / spread.freedom
        for weight, spread in zip(weights, spreads, strict=True)
    )
    return SeedPool(
        variance=variance,
        error=math.sqrt(squares) / total,
        methods=len(spreads),
        freedom=sum(spread.freedom for spread in spreads),
    )
