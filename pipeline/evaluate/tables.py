"""Tables of right and wrong answers: their shape, their clusters of examples, and the noise of single answers."""

from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NORMAL = NormalDist()
# Shape (seeds, examples): right (1) or wrong (0).
Runs = Sequence[Sequence[float]]
# For each example the key of its cluster.
Clusters = Sequence[Hashable]


class Sample(NamedTuple):
    """The answers to a task: tables (seeds, examples) of one or two methods, and the clusters of the examples.

    Attributes:
        first: of the first method.
        second: of the second; None where one method stands for itself.
        clusters: (examples,) the number of each example's cluster, from 0; None: examples are independent.
    """

    first: "Array"
    second: "Array | None"
    clusters: "Array | None"


def as_table(runs: Runs) -> "Array":
    """Return runs as an array (seeds, examples)."""
    import numpy as np

    if not len(runs) or len({len(run) for run in runs}) != 1 or not len(runs[0]):
        raise ValueError(
            "runs must be a table (seeds, examples) with rows of equal length and at least one value"
        )
    return np.asarray(runs, dtype=float)


def number_clusters(clusters: Clusters | None, n: int) -> "Array | None":
    """Return the number of each example's cluster; None where no two examples share one.

    None also where all share one: a single cluster cannot be resampled. A card's rule that does so is refused
    (``pipeline.evaluate.clusters``), but a few of a task's examples may be such.

    Args:
        clusters: a key for each example.
        n: number of examples.

    Raises:
        ValueError: there are not as many keys as examples.
    """
    import numpy as np

    if clusters is None:
        return None
    numbers: dict[Hashable, int] = {}
    indices = [numbers.setdefault(key, len(numbers)) for key in clusters]
    if len(indices) != n:
        raise ValueError(f"{len(indices)} cluster keys for {n} examples")
    if len(numbers) in (1, n):
        return None
    return np.asarray(indices, dtype=float)


def cluster_sums(values: "Array", clusters: "Array") -> "Array":
    """Return the sums (rows, clusters) of values (rows, examples) within each cluster."""
    import numpy as np

    indices = clusters.astype(int)
    return np.stack([np.bincount(indices, weights=row) for row in values])


def shrink_rate(tables: "Sequence[Array]", weights: Sequence[float]) -> float:
    """Return the average accuracy over tasks, in (0, 1): with two right and two wrong pseudo-examples."""
    rate = 0.0
    for table, weight in zip(tables, weights, strict=True):
        n = table.shape[1]
        rate += weight * (float(table.mean()) * n + 2 * weight) / (n + 4 * weight)
    return rate


def probit_slope(rate: float) -> float:
    """Return the derivative of a rate in (0, 1) with respect to its probit: the normal density there."""
    return NORMAL.pdf(NORMAL.inv_cdf(rate))


def answer_noise(
    tables: "Sequence[Array]", clusters: "Sequence[Array | None]", weights: Sequence[float]
) -> float:
    """Return the variance of a seed's average over tasks that comes from unsure answers."""
    parts = zip(tables, clusters, weights, strict=True)
    return sum(weight**2 * _task_noise(table, task_clusters) for table, task_clusters, weight in parts)


def _task_noise(table: "Array", clusters: "Array | None") -> float:
    """Return the variance of a seed's accuracy that comes from unsure answers: the residual of seeds + examples."""
    seeds, n = table.shape
    if n == 1:
        return 0.0
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    if clusters is None:
        return float((residual**2).sum() / (seeds - 1) / (n - 1) / n)
    sums = cluster_sums(residual, clusters)
    units = sums.shape[1]
    return float((sums**2).sum() / (seeds - 1) / (units - 1) * units / n**2)
