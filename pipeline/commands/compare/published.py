"""A run beside a published row: differences without a test, and how the published figures were measured."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypedDict

from pipeline.commands.compare.pairs import MACRO
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.evaluate import stats
from pipeline.evaluate.scoring.rows import ScoreFile, TaskScore
from pipeline.study import Study
from pipeline.study.find import require_results
from pipeline.study.followups.rows import RowReference, TableRow, find_nearest_row
from pipeline.study.run import Run


class PublishedDifference(TypedDict):
    """A run's accuracy less a published one, on a task or as the macro average of the same tasks; all are shares."""

    task: str
    protocol: str
    n: int
    # of the run, with its 95 % interval over examples
    first: float
    low: float
    high: float
    # as published
    second: float
    difference: float


class PublishedComparison(TypedDict):
    """A run beside a published row; ``notes`` are sentences on what can be concluded."""

    first: str
    second: str
    source: str
    comparisons: list[PublishedDifference]
    notes: list[str]


def compare_published(
    study: Study,
    run: Run,
    reference: RowReference,
    *,
    task: str | None = None,
    protocol: str | None = None,
) -> PublishedComparison:
    """Return the accuracies of a run less those of a published row, for the tasks that both have.

    A run that was evaluated under the protocol that follows the publication's procedure is compared under that protocol alone,
    unless ``protocol`` names another.

    Args:
        study: of the run.
        run: to compare.
        reference: the row.
        task: only this task; None: all, and the macro average where both sides have the same tasks.
        protocol: only this protocol; None: see above.

    Raises:
        UserError: the run is not scored yet; or the row is of no task of the run, or was trained on another set.
    """
    row = _find_row(study, run, reference)
    scores: ScoreFile = read_json(require_results(study, run).scores)
    protocols = list(dict.fromkeys(score["protocol"] for score in scores["tasks"].values()))
    if protocol is None and row.measurement.protocol in protocols:
        chosen = [row.measurement.protocol]
    else:
        chosen = [name for name in protocols if protocol in (None, name)]
    comparisons = list(_list_differences(study, run, row, scores["tasks"], protocols=chosen, task=task))
    if not comparisons:
        filters = [f"of task '{task}'" if task else "", f"under '{protocol}'" if protocol else ""]
        selection = " ".join(filter(None, filters)) or "in common"
        raise UserError(
            f"compare: {run.name} and {reference.name} have no figure {selection} ({run.name}: "
            f"{', '.join(scores['tasks'])}; {row.table.name}: {', '.join(row.table.tasks)})"
        )
    return {
        "first": run.name,
        "second": reference.name,
        "source": row.source,
        "comparisons": comparisons,
        "notes": list(_list_notes(study, run, row, [each["protocol"] for each in comparisons])),
    }


def _find_row(study: Study, run: Run, reference: RowReference) -> TableRow:
    """Return the row of the table that is nearest to a run's tasks and has its training set."""
    tasks = {task.task for task in study.tasks(run)}
    row = find_nearest_row(reference, tasks, training_set=run.training_set)
    if row:
        return row
    tables = [each.table for each in reference.rows]
    if any(tasks & set(table.tasks) for table in tables):
        trained = ", ".join(dict.fromkeys(table.training_set for table in tables))
        raise UserError(
            f"compare: {reference.name} was trained on {trained}, {run.name} on {run.training_set}; choose a run that was trained "
            "on the same set"
        )
    listed = ", ".join(dict.fromkeys(task for table in tables for task in table.tasks))
    raise UserError(
        f"compare: {reference.name} has figures for {listed}, and {run.name} was evaluated on {', '.join(sorted(tasks))}: "
        "no task is the same"
    )


def _list_differences(
    study: Study,
    run: Run,
    row: TableRow,
    scores: Mapping[str, TaskScore],
    *,
    protocols: Sequence[str],
    task: str | None,
) -> Iterator[PublishedDifference]:
    # they load the rules that compare questions, which other commands do not need
    from pipeline.evaluate.clusters import accuracy_interval, select_clusters
    from pipeline.results.scores.clusters import find_clusters

    clusters = find_clusters(study, run)
    for protocol in protocols:
        own = {
            score["task"]: (name, score) for name, score in scores.items() if score["protocol"] == protocol
        }
        figures = row.list_figures(own)
        for name, figure in figures.items():
            key, score = own[name]
            if task in (None, name):
                low, high = accuracy_interval(score, clusters.get(key))
                estimate = stats.Estimate(
                    estimate=score["accuracy"], low=low, high=high, n=score["n"], seeds=1
                )
                yield _subtract(name, protocol, estimate, figure)
        for arm in run.arms:
            members = [own[name] for name in arm.tasks if name in own]
            # an average over other tasks cannot be compared
            average = row.average([score["task"] for _, score in members]) if task is None else None
            if average is None or len(members) == 1:
                continue
            values = [[[float(item["correct"]) for item in score["items"]]] for _, score in members]
            keys: list[list[Hashable] | None] = [
                select_clusters(clusters.get(key), [item["id"] for item in score["items"]])
                for key, score in members
            ]
            yield _subtract(MACRO, protocol, stats.estimate_mean_accuracy(values, clusters=keys), average)


def _subtract(task: str, protocol: str, ours: stats.Estimate, theirs: float) -> PublishedDifference:
    return {
        "task": task,
        "protocol": protocol,
        "n": ours["n"],
        "first": ours["estimate"],
        "low": ours["low"],
        "high": ours["high"],
        "second": theirs,
        "difference": ours["estimate"] - theirs,
    }


def _list_notes(study: Study, run: Run, row: TableRow, protocols: Sequence[str]) -> Iterator[str]:
    yield (
        "In percent and percentage points. There is no paired test: the publication has no answers to single questions, so the "
        "interval is that of the run alone, over examples, and another seed may reverse the difference."
    )
    yield f"Published: {row.published.title}, {row.table.name}; {row.source}."
    measured = row.measurement
    others = [name for name in dict.fromkeys(protocols) if name != measured.protocol]
    if others or measured.differences:
        same = f"; that is protocol {measured.protocol_here}" if measured.protocol else ""
        yield (
            f"Measured differently from {' and '.join(others) or measured.protocol}: measured by: {measured.measured_by}; prompting: "
            f"{measured.prompting}; parsing: {measured.parsing}{same}."
        )
    if study.card.limit is not None:
        yield f"The study evaluates {study.card.limit} examples of each task, a sample of the test sets (limit)."
    limits = [arm.limit for arm in run.arms if run.adapter and arm.limit is not None]
    if limits and row.is_trained:
        yield f"The run was trained on {limits[0]} examples of {run.training_set} (limit of its arm), the published one on the set."
    if row.table.notes:
        yield f"Notes: {row.table.notes}."
