"""Which examples of a run's tasks belong together, for intervals and tests outside the report."""

from collections.abc import Hashable, Iterable, Mapping

from pipeline.evaluate.clusters import read_clusters
from pipeline.study import Study
from pipeline.study.description.describe import describe_task
from pipeline.study.run import Run, Task


def find_clusters(study: Study, run: Run) -> dict[str, Mapping[str, Hashable] | None]:
    """Return for each task of a run's score file the cluster of each example by id; None: its examples are independent.

    Raises:
        UserError: a task's card names clusters, and the file of its prompts or rows is missing.
    """
    return find_task_clusters(study, study.results(run).tasks)


def find_task_clusters(study: Study, tasks: Iterable[Task]) -> dict[str, Mapping[str, Hashable] | None]:
    """Return the clusters of some tasks of a study, as ``find_clusters`` does for those of a run."""
    clusters = {}
    for task in tasks:
        description = describe_task(study, task.task)
        clusters[task.name] = read_clusters(
            description.clusters, task=task.task, prompts=task.prompts.path, raw=description.raw
        )
    return clusters
