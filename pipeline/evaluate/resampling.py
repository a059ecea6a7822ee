"""Means of resampled examples or clusters of examples, of one or two methods at once, and their average over tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.evaluate.tables import Sample, cluster_sums

if TYPE_CHECKING:
    import numpy as np

    from pipeline.evaluate.tables import Array


class TaskMeans(NamedTuple):
    """The average over tasks of one row of values, and the draws of it.

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


def draw_task_means(
    values: "Sequence[Array]",
    pseudo: Sequence[Sequence[Sequence[float]]],
    samples: Sequence[Sample],
    weights: Sequence[float],
    draws: int,
    generator: "np.random.Generator",
) -> list[TaskMeans]:
    """Return for each row of values the average over tasks, and how resampling the examples of each task changes it.

    Args:
        values: for each task (rows, examples).
        pseudo: for each task the values of its pseudo-examples, (rows, pseudo-examples).
        samples: the tasks, for their clusters.
        weights: of the tasks.
        draws: number of draws.
        generator: of the draws.
    """
    import numpy as np

    tasks = [
        _draw_examples(
            task_values, np.array(task_pseudo, dtype=float), sample.clusters, weight, draws, generator
        )
        for task_values, task_pseudo, sample, weight in zip(values, pseudo, samples, weights, strict=True)
    ]
    means = []
    for row in range(len(values[0])):
        estimate, centre, variance, inflated, uncertainty, removed = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        drawn = np.zeros(draws)
        for task, task_values, sample, weight in zip(tasks, values, samples, weights, strict=True):
            # The draws vary around ``centre``, which the pseudo-examples shift; the estimate is the plain mean.
            task_estimate = float(task_values[row].mean())
            task_variance = weight**2 * float(task.variances[row])
            estimate += weight * task_estimate
            centre += weight * float(task.centres[row])
            variance += task_variance
            drawn += weight * task.means[row]
            removed += weight**2 * task_estimate**2 / task.units
            if sample.clusters is None:
                inflated += task_variance
            else:
                corrected = task_variance * task.units / (task.units - 1)
                inflated += corrected
                uncertainty += corrected**2 / (task.units - 1)
        means.append(TaskMeans(estimate, centre, variance, inflated / variance, uncertainty, removed, drawn))
    return means


class _ExampleDraws(NamedTuple):
    """Means of resampled examples for each row of values.

    Attributes:
        means: (rows, draws).
        centres: (rows,) the values that they vary around.
        variances: (rows,) of the means.
        units: number of examples or clusters.
    """

    means: "Array"
    centres: "Array"
    variances: "Array"
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
        deviations = distinct - centres[:, None]
    else:
        sizes = drawn @ distinct[-1]
        means = np.stack([drawn @ row / sizes for row in distinct[:-1]])
        average = float(shares @ distinct[-1])
        centres = np.array([float(shares @ row) / average for row in distinct[:-1]])
        # of a ratio of sums, to first order
        deviations = (distinct[:-1] - centres[:, None] * distinct[-1]) / average
    variances = np.array([float(shares @ row**2) / n for row in deviations])
    return _ExampleDraws(means, centres, variances, number)
