"""The tables of follow-ups: published rows beside ours with the protocol's part of each difference, and the procedures."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import pandas as pd

from pipeline.core.text import format_points
from pipeline.evaluate.stats import Difference, Estimate
from pipeline.params.published.cards import Measurement, PublishedRow, PublishedTable
from pipeline.report.data import Cell, ReportData, list_sections, score_key
from pipeline.report.followups.points import ProtocolPoints, measure_points
from pipeline.report.tables import Table, format_interval
from pipeline.study.description import ArmDescription, TaskDescription
from pipeline.study.followups.match import FollowupDescription
from pipeline.study.followups.rows import TableRow

# the columns that both tables have
_PARTS = (
    "Parser: the change in points if the answers that were generated under {other} are read by the parser of {ours}. Prompt and "
    "decoding: the further change if the answers are generated under {ours} too. Both: the sum of the two. Intervals: 95 % bootstrap "
    "over examples, of the mean over seeds. The first two are empty if one of the protocols compares likelihoods, since no parser "
    "reads its answers"
)

# takes the runs, the names of the tasks, their protocol and ours
MeasurePoints = Callable[[Cell, tuple[str, ...], str, str], ProtocolPoints]


class _Row(NamedTuple):
    """A published row, its publication and table, and the method of ours that repeats it, if any does.

    ``is_shared`` says whether other methods of ours repeat it too: then each has a line.
    """

    followup: FollowupDescription
    table: PublishedTable
    row: PublishedRow
    method: str | None
    is_shared: bool

    @property
    def measurement(self) -> Measurement:
        return TableRow(self.followup.published, self.table, self.row).measurement


def build_followup_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of follow-ups and of the points between protocols, by file name."""
    tables: dict[str, Table] = {}
    for arm in data.study.arms:
        measure = _remember_points(data, arm)
        if rows := list(_list_rows(data, arm)):
            tables[f"followups-{arm.name}"] = _build_row_table(data, arm, rows, measure)
        if (points := _build_point_table(data, arm, measure)) is not None:
            tables[f"protocol-points-{arm.name}"] = points
    if procedures := list(_list_procedures(data)):
        caption = (
            "How each publication trains and evaluates, step by step, with the source of each step. A step that is missing is stated "
            "neither in the publication nor in its repository."
        )
        tables["followup-procedures"] = Table(caption, pd.DataFrame(procedures))
    return tables


def _remember_points(data: ReportData, arm: ArmDescription) -> MeasurePoints:
    """Return ``measure_points`` of an arm with a memory: several published rows and the table of points need the same numbers."""
    tasks = {task.name: task for task in arm.tasks}

    @cache
    def measure(cell: Cell, names: tuple[str, ...], first: str, second: str) -> ProtocolPoints:
        return measure_points(data, cell, [tasks[name] for name in names], first=first, second=second)

    return measure


def _list_rows(data: ReportData, arm: ArmDescription) -> Iterator[_Row]:
    """Yield the published rows on an arm's training set and tasks, those of the study's bases first."""
    models = [model.name for model in data.study.models]
    names = {task.name for task in arm.tasks}
    rows = []
    for followup in data.study.followups:
        matches = {
            (match.table, match.row): match.methods for match in followup.matches if match.arm == arm.name
        }
        for table_number, table in enumerate(followup.published.tables):
            if table.training_set != arm.training_set or not names & set(table.tasks):
                continue
            for row_number, row in enumerate(table.rows):
                # without a base or a method of its own it belongs to no follow-up, such as a row of GPT-3
                if row.method or row.label:
                    methods: Sequence[str | None] = matches.get((table_number, row_number), [None])
                    rows += [_Row(followup, table, row, method, len(methods) > 1) for method in methods]
    order = {name: number for number, name in enumerate(models)}
    others = {
        name: len(order) + number for number, name in enumerate(dict.fromkeys(r.row.model for r in rows))
    }
    yield from sorted(rows, key=lambda row: order.get(row.row.model, others[row.row.model]))


def _build_row_table(
    data: ReportData, arm: ArmDescription, rows: Sequence[_Row], measure: MeasurePoints
) -> Table:
    ours = _own_protocol(data)
    titles = {model.name: model.title for model in data.study.models}
    cells, anchors = [], []
    for row in rows:
        cell = Cell(row.row.model, row.method, arm.name) if row.method else None
        model = titles.get(row.row.model) or row.followup.titles.get(row.row.model, row.row.model)
        method = row.row.label or row.followup.titles[row.row.method or ""]
        if row.method and row.is_shared:
            method += f" (ours: {data.method_titles(row.row.model)[row.method]})"
        cells.append(
            {"Model": model, "Method": method, "Publication": row.followup.published.title}
            | _compare(data, arm, row, cell, ours=ours, measure=measure)
        )
        anchors.append(cell.anchor if cell else "")
    caption = (
        f"Published accuracies of follow-ups beside ours, trained on {arm.training_set}: macro average of the tasks in percent. Ours: "
        f"our accuracy under protocol {ours}. Their protocol: our protocol that follows the published procedure; the table of procedures "
        "says where it differs. None: we have no such protocol, and the difference is not divided. Difference: ours minus published, in "
        "points. It is the sum of Rest, Parser, and Prompt and decoding. Rest: our accuracy under their protocol minus the published "
        "accuracy. It is due to the training, the seeds and the differences between their procedure and that protocol; its interval is "
        f"that of our accuracy. {_PARTS.format(other='their protocol', ours=ours)}. Not trained: the study has no run with this base, "
        "this method and these settings."
    )
    return Table(caption, pd.DataFrame(cells).fillna(""), anchors)


def _compare(
    data: ReportData, arm: ArmDescription, row: _Row, cell: Cell | None, *, ours: str, measure: MeasurePoints
) -> dict[str, str]:
    """Format the published average of a row, and the parts of the difference of ours from it."""
    theirs = row.measurement.protocol
    figures = dict(zip(row.table.tasks, row.row.accuracy, strict=True))
    tasks = [task for task in arm.tasks if task.name in figures and ours in task.protocols]
    is_whole = {task.name for task in tasks} == set(figures)
    if not is_whole or row.row.average is None:
        tasks = [task for task in tasks if figures[task.name] is not None]
    known = [value for value in (figures[task.name] for task in tasks) if value is not None]
    average = row.row.average if is_whole else None
    note = ""
    if average is None and known:
        average, note = sum(known) / len(known), f" ({len(known)} of {len(figures)} tasks)"
    result = {
        "Published": "" if average is None else f"{average:.1f}{note}",
        "Their protocol": theirs or "none",
        "Ours": "not trained",
    }
    if cell is None or average is None:
        return result
    total = data.average_accuracy(cell, [score_key(task, ours) for task in tasks])
    result |= {"Ours": format_interval(total), "Difference": _format_rest(total, average)}
    if theirs == ours:
        return result | {"Rest": _format_rest(total, average)}
    if theirs is None or not all(theirs in task.protocols for task in tasks):
        return result
    points = measure(cell, tuple(task.name for task in tasks), theirs, ours)
    return result | _format_parts(points) | {"Rest": _format_rest(points.first, average)}


def _build_point_table(data: ReportData, arm: ArmDescription, measure: MeasurePoints) -> Table | None:
    """Build the points between the study's first protocol and each other, for all runs of an arm; None for a single protocol."""
    ours = _own_protocol(data)
    rows, anchors = [], []
    for protocol in data.study.protocols:
        tasks = _list_common_tasks(data, arm, ours, protocol) if protocol != ours else []
        if not tasks:
            continue
        for model in data.study.models:
            for method, title in data.method_titles(model.name).items():
                cell = Cell(model.name, method, arm.name)
                if not data.find_runs(*cell):
                    continue
                points = measure(cell, tuple(task.name for task in tasks), protocol, ours)
                row = {"Model": model.title, "Method": title, "Protocol": protocol, "tasks": str(len(tasks))}
                row |= {"Accuracy": format_interval(points.first)} | _format_parts(points)
                rows.append(row | {f"Ours ({ours})": format_interval(points.second)})
                anchors.append(cell.anchor)
    if not rows:
        return None
    caption = (
        f"Accuracy of the same runs under two protocols, {arm.name}: macro average in percent, over the tasks that both protocols "
        f"cover. Accuracy: under the protocol of the row. Ours: under {ours}. "
        f"{_PARTS.format(other='the protocol of the row', ours=ours)}."
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _list_common_tasks(data: ReportData, arm: ArmDescription, *protocols: str) -> list[TaskDescription]:
    names = [
        {task.name for task in section.tasks}
        for section in list_sections(data.study, protocols)
        if section.arm.name == arm.name
    ]
    if len(names) < len(protocols):
        return []
    return [task for task in arm.tasks if all(task.name in part for part in names)]


def _own_protocol(data: ReportData) -> str:
    """Return the protocol that the others lead to: the first of the headline tables."""
    return (data.study.headline or data.study.protocols)[0]


def _format_parts(points: ProtocolPoints) -> dict[str, str]:
    return {
        "Parser": _format_points(points.parser),
        "Prompt and decoding": _format_points(points.text),
        "Both": _format_points(points.total),
    }


def _format_points(difference: Difference | None) -> str:
    if difference is None:
        return ""
    low, high = (format_points(difference[end]) for end in ("low", "high"))
    return f"{format_points(difference['estimate'])} [{low}, {high}]"


def _format_rest(ours: Estimate, published: float) -> str:
    """Format our accuracy less a published figure in percent, which has no interval of its own."""
    low, high = (format_points(ours[end] - published / 100) for end in ("low", "high"))
    return f"{format_points(ours['estimate'] - published / 100)} [{low}, {high}]"


def _list_procedures(data: ReportData) -> Iterator[dict[str, str]]:
    for followup in data.study.followups:
        card = followup.published
        for name, measurement in card.measurements.items():
            first = {"Publication": card.title, "Figures": name}
            yield first | {"Step": "protocol here", "Stated": measurement.protocol_here, "Source": ""}
            for step, fact in measurement.procedure.items():
                stated = {"Step": step.replace("_", " "), "Stated": fact.value}
                yield first | stated | {"Source": card.locate(fact.source)}
