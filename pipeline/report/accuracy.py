"""The main tables of a report (accuracies, then other metrics), the same numbers as rows to plot, and metrics.json."""

from collections.abc import Collection, Sequence
from math import isnan
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.audit.rows import AuditFile
from pipeline.core.text import format_percent
from pipeline.evaluate.scoring.metrics import ACCURACY, METRICS, Metric, metrics_key, task_key
from pipeline.evaluate.scoring.rows import TaskScore
from pipeline.report.data import Cell, ReportData, Section, Selection, list_sections, score_key
from pipeline.report.published import find_published_averages
from pipeline.report.tables import MACRO, MICRO, Table, format_interval
from pipeline.study.description import FigureDescription

# marks a task whose questions occur in the training set, by audit method, the strongest evidence first
MARKS = {"exact": " †", "number-masked": " ‡", "8-gram": " §"}
# strategies that ignore the question, with their titles
_STRATEGIES: dict[Literal["chance", "majority"], str] = {"chance": "chance", "majority": "majority class"}
_MARK_MEANINGS = ("verbatim", "apart from their numbers", "in large part")


def build_accuracy_tables(data: ReportData) -> dict[str, Table]:
    """Build a table of accuracies for every section, by file name."""
    return {f"accuracy-{section.name}": build_accuracy_table(data, section) for section in data.sections}


def build_accuracy_table(data: ReportData, section: Section) -> Table:
    """Build the accuracies of a section: a row for each model and method, a column for each task and average."""
    marks = _mark_contaminated_tasks(data.find_own_audits(section.arm.name).values())
    columns = [task.title + marks.get(task.name, "") for task in section.tasks]
    averages = data.list_averages(section)
    # the keys and the kind of average behind each column
    sources = {title: (section.keys, micro) for title, micro in averages.items()}
    sources |= {column: ([key], False) for column, key in zip(columns, section.keys, strict=True)}
    rows, anchors, hints = [], [], []
    for model in data.study.models:
        for method, title in data.method_titles(model.name).items():
            cell = Cell(model.name, method, section.arm.name)
            row = {"Model": model.title, "Method": title}
            for column, (keys, micro) in sources.items():
                accuracy = data.estimate(cell, Selection(tuple(keys), micro))
                row[column] = format_interval(accuracy)
            rows.append(row)
            anchors.append(cell.anchor)
            hints.append(
                {
                    column: data.describe_seeds(cell, keys, micro=micro)
                    for column, (keys, micro) in sources.items()
                }
            )
    # chance, majority class and number of examples are those of the prompts, so equal for all runs
    scores = [data.get_first_score(section, key) for key in section.keys]
    for strategy in _STRATEGIES:
        rows.append(_build_reference_row(strategy, columns, scores, averages))
    caption = _write_accuracy_caption(data, section, [score["n"] for score in scores])
    if marks:
        meanings = zip(MARKS.values(), _MARK_MEANINGS, strict=True)
        legend = ", ".join(f"{mark.strip()} {meaning}" for mark, meaning in meanings)
        caption += f" A mark means that test questions of the task occur in the training set: {legend}."
    return Table(caption, pd.DataFrame(rows), [*anchors, "", ""], [*hints, {}, {}])


def build_metric_tables(data: ReportData) -> dict[str, Table]:
    """Build a table for every metric other than accuracy and every section that has it, by file name."""
    return {
        f"{metric.name}-{section.name}": build_metric_table(data, metric, section)
        for metric in METRICS
        if metric is not ACCURACY
        for section in data.sections
        if data.has_metric(metric, section)
    }


def build_metric_table(data: ReportData, metric: Metric, section: Section) -> Table:
    """Build a metric's values in a section: a row for each model and method, a column for each task and their average.

    Tasks to which the metric does not apply have no column.
    """
    measured = [
        (task, key)
        for task, key in zip(section.tasks, section.keys, strict=True)
        if metric.applies_to(data.get_first_score(section, key))
    ]
    tasks, keys = [task for task, _ in measured], [key for _, key in measured]
    rows, anchors = [], []
    for model in data.study.models:
        for method, title in data.method_titles(model.name).items():
            cell = Cell(model.name, method, section.arm.name)
            if metric.is_proportion:
                selections = [Selection((key,), metric=metric) for key in keys]
                selections.append(Selection(tuple(keys), metric=metric))
                *cells, average = [
                    format_interval(data.estimate(cell, selection)) for selection in selections
                ]
            else:
                task_values = [data.get_metric_values(metric, cell, key) for key in keys]
                means = [float(np.mean(values)) for values in task_values]
                cells = [_format_defined(mean) for mean in means]
                average = _format_defined(float(np.mean(means)))
            row = {"Model": model.title, "Method": title}
            if len(tasks) > 1:
                row[MACRO] = average
            rows.append(row | {task.title: text for task, text in zip(tasks, cells, strict=True)})
            anchors.append(cell.anchor)
    caption = (
        f"{metric.title} in percent, {section.arm.name}, protocol {section.protocol}; "
        f"{_describe_metric_seeds(data, metric)}; {metric.better} is better. {metric.description}"
    )
    if len(tasks) > 1:
        caption += " Macro average: every task of the table counts the same."
    return Table(caption, pd.DataFrame(rows), anchors)


def _describe_metric_seeds(data: ReportData, metric: Metric) -> str:
    seeds = ", ".join(map(str, data.study.seeds))
    if data.has_one_seed:
        interval = ", with a 95 % interval over examples" if metric.is_proportion else ""
        return f"seed {seeds}{interval}, about this run alone"
    interval = ", with a 95 % interval" if metric.is_proportion else ""
    if data.trains_nothing:
        return f"one run of each model{interval}"
    return f"mean over seeds {seeds}{interval}"


def _format_defined(value: float) -> str:
    return "n/a" if isnan(value) else format_percent(value)


def _write_accuracy_caption(data: ReportData, section: Section, sizes: Sequence[int]) -> str:
    arm = section.arm
    examples = ", ".join(f"{task.title} {n}" for task, n in zip(section.tasks, sizes, strict=True))
    trained = f"trained on {arm.training_set}" if arm.training_set else "models as they are"
    if any(run.combined_sets for run in data.study.runs if run.arm == arm.name):
        trained += " (a combination: its members on their own sets)"
    return (
        f"Accuracy in percent, {arm.name}, protocol {section.protocol}, {trained}; "
        f"{_describe_seeds(data, section)}{_describe_clusters(data, section)} Chance: a guess "
        "among the choices (0 for numbers, which have none). Majority class: always the most frequent gold label of these examples. "
        f"Examples: {examples}."
    )


def _describe_seeds(data: ReportData, section: Section) -> str:
    seeds = ", ".join(map(str, data.study.seeds))
    averages = "Macro average: every task counts the same. Micro average: every example counts the same."
    if MICRO not in data.list_averages(section):
        averages = "Macro average: every task counts the same; all tasks have the same number of examples."
    if data.trains_nothing:
        return (
            "one run of each model, with a 95 % interval over examples: Wilson's for a task, a bootstrap interval for an average. "
            f"{averages}"
        )
    if data.has_one_seed:
        return (
            f"seed {seeds}, with a 95 % interval over examples: Wilson's for a task, a bootstrap interval for an average. A "
            f"number from one seed is about this run alone: another seed may differ by an unknown amount. {averages}"
        )
    return (
        f"mean over seeds {seeds}, with a 95 % interval: Wilson's for a task with a single run, such as a bare base's (no "
        f"adapter); otherwise a bootstrap interval over examples and seeds. {averages} {_describe_seed_variance(data, section)}"
    )


def _describe_seed_variance(data: ReportData, section: Section) -> str:
    """Return the part of a caption that says where the variance between seeds comes from, and where that is doubtful."""
    columns = [(task.title, Selection((key,))) for task, key in zip(section.tasks, section.keys, strict=True)]
    columns.append((MACRO, Selection(tuple(section.keys))))
    freedoms, outlying = set(), []
    for model in data.study.models:
        for method in data.methods_of(model.name):
            cell = Cell(model.name, method.name, section.arm.name)
            pools = [(title, data.find_pool(cell, selection)) for title, selection in columns]
            freedoms |= {pool.freedom for _, pool in pools if pool}
            titles = [title for title, pool in pools if pool and pool.is_outlying]
            if titles:
                outlying.append(f"{method.title} on {model.title} ({', '.join(titles)})")
    if not freedoms:
        return "Where a few seeds differ, the interval is wide, because they say little about other seeds."
    freedom = " to ".join(map(str, sorted({min(freedoms), max(freedoms)})))
    text = (
        f"The variance between seeds is pooled over the methods of a model ({freedom} degrees of freedom), which "
        "assumes that all of them vary equally; seed_variance: own in the study's card uses each method's own variance."
    )
    if outlying:
        text += (
            " The seeds of these methods vary far more than those of the others (F test), so their intervals are too narrow, "
            f"and the pools of the other methods exclude them: {'; '.join(outlying)}."
        )
    return text


def _describe_clusters(data: ReportData, section: Section) -> str:
    """Return the part of a caption that says which examples belong together."""
    parts = []
    for task, key in zip(section.tasks, section.keys, strict=True):
        clusters = data.find_clusters(key)
        if clusters:
            parts.append(f"{task.title} {len(set(clusters.values()))} clusters")
    if not parts:
        return ""
    return f" The bootstrap draws clusters of examples that belong together, also for a single run: {', '.join(parts)}."


def _build_reference_row(
    strategy: Literal["chance", "majority"],
    columns: Sequence[str],
    scores: Sequence[TaskScore],
    averages: Collection[str],
) -> dict[str, str]:
    """Build the row of a strategy that ignores the question."""
    sizes = np.array([score["n"] for score in scores])
    accuracies = np.array([score[strategy] for score in scores])
    means = {MACRO: accuracies.mean(), MICRO: accuracies @ sizes / sizes.sum()}
    row = {"Model": _STRATEGIES[strategy], "Method": ""}
    row |= {title: format_percent(means[title]) for title in averages}
    return row | {column: format_percent(value) for column, value in zip(columns, accuracies, strict=True)}


def _mark_contaminated_tasks(audits: Collection[AuditFile]) -> dict[str, str]:
    """Return by task the mark of the strongest audit method that finds its questions in a training set."""
    marks: dict[str, str] = {}
    for method, mark in reversed(MARKS.items()):
        for audit in audits:
            marks |= {task: mark for task, test in audit["tests"].items() if test["methods"][method]["n"]}
    return marks


def list_accuracies(data: ReportData) -> pd.DataFrame:
    """Return a row for each run and task of its arm: model, method, arm, training_set, seed, task, accuracy."""
    keys = {
        arm.name: {score_key(task, protocol) for task in arm.tasks for protocol in task.protocols}
        for arm in data.study.arms
    }
    rows = []
    for run in data.study.runs:
        for key, score in data.scores[run.scores]["tasks"].items():
            # the file has the tasks of all arms that share the adapter
            if run.arm and key not in keys[run.arm]:
                continue
            rows.append(
                {
                    "model": run.model,
                    "method": run.method,
                    "arm": run.arm,
                    "training_set": run.training_set,
                    "seed": run.seed,
                    "task": key,
                    "accuracy": score["accuracy"],
                }
            )
    # a bare base has no seed; Int64 keeps the seeds of the other runs integers
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def list_settings(data: ReportData, figure: FigureDescription) -> pd.DataFrame:
    """Return a row for each section, model and point of the study's figure, with its average accuracy in [0, 1].

    Rows keep the study's order of entries, which orders words on an axis. A study with a card of published figures has a
    column ``published``, the published average in [0, 1] of each point that has one.
    """
    rows = []
    for section in data.sections:
        published = find_published_averages(data, figure, section)
        for model in data.study.models:
            for point in figure.points:
                cell = Cell(model.name, point.method, section.arm.name)
                if not data.find_runs(*cell):
                    continue
                rows.append(
                    {
                        "arm": section.arm.name,
                        "protocol": section.protocol,
                        "model": model.name,
                        "line": point.line,
                        "field": point.field,
                        "setting": point.setting,
                        "method": point.method,
                        **data.average_accuracy(cell, section.keys),
                        "published": published.get(cell),
                    }
                )
    # dtype object keeps a rank of 4 an integer beside a rate of 0.1
    settings = pd.Series([row["setting"] for row in rows], dtype=object)
    frame = pd.DataFrame(rows).assign(setting=settings)
    return frame if data.study.published else frame.drop(columns="published")


def collect_metrics(data: ReportData) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return every metric for ``dvc metrics``, by protocol, model and method: of each task, and of each arm's average.

    The first key of accuracy is the protocol, that of other metrics "PROTOCOL METRIC". The last key is the task, "TASK in
    ARM" if several arms have it, or "average ARM".
    """
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for metric in METRICS:
        for section in list_sections(data.study, data.study.protocols):
            if not data.has_metric(metric, section):
                continue
            protocol_metrics = metrics.setdefault(metrics_key(metric, section.protocol), {})
            for model in data.study.models:
                model_metrics = protocol_metrics.setdefault(model.name, {})
                for method in data.method_titles(model.name):
                    values = _average_metric(
                        data, metric, section, Cell(model.name, method, section.arm.name)
                    )
                    model_metrics.setdefault(method, {}).update(values)
    return metrics


def _average_metric(data: ReportData, metric: Metric, section: Section, cell: Cell) -> dict[str, float]:
    """Return a metric's mean over seeds by task, and its macro average; without undefined values."""
    means = [float(np.mean(data.get_metric_values(metric, cell, key))) for key in section.keys]
    arms = {arm.name: [task.name for task in arm.tasks] for arm in data.study.arms}
    keys = [task_key(task.name, section.arm.name, arms) for task in section.tasks]
    values = dict(zip(keys, means, strict=True))
    values[f"average {section.arm.name}"] = float(np.mean(means))
    # JSON has no nan
    return {name: round(value, 6) for name, value in values.items() if not isnan(value)}
