"""The tables of follow-ups: published rows beside ours with the protocol's part of each difference, and the procedures."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.evaluate.stats import Difference, Estimate
from pipeline.params.published.cards import Measurement, PublishedRow, PublishedTable
from pipeline.report.data import Cell, ReportData, list_sections, score_key
from pipeline.report.followups.points import ProtocolPoints, measure_points
from pipeline.report.tables import Table, format_interval
from pipeline.study.description import ArmDescription, TaskDescription
from pipeline.study.followups.match import FollowupDescription

_POINTS = (
    "in points: a part of the parser (the stored answers under the first protocol, parsed by the second's parser, less their own "
    "accuracy) and a part of prompt and decoding (what remains). Intervals: 95 % bootstrap over examples, of the mean over seeds. "
    "Empty: one of the two compares likelihoods and parses no text, so the parts cannot be told apart"
)


class _Row(NamedTuple):
    """A published row, its publication and table, and the method of ours that repeats it, if any does."""

    followup: FollowupDescription
    table: PublishedTable
    row: PublishedRow
    method: str | None

    @property
    def measurement(self) -> Measurement:
        return self.followup.published.measurements[self.row.measurement or self.table.measurement]


def build_followup_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of follow-ups and of the points between protocols, by file name."""
    tables: dict[str, Table] = {}
    for arm in data.study.arms:
        if rows := list(_list_rows(data, arm)):
            tables[f"followups-{arm.name}"] = _build_row_table(data, arm, rows)
        if (points := _build_point_table(data, arm)) is not None:
            tables[f"protocol-points-{arm.name}"] = points
    if procedures := list(_list_procedures(data)):
        caption = (
            "Procedures of the publications, step by step, as far as their repositories or texts state them, with the place of each. "
            "A step that is missing is not stated."
        )
        tables["followup-procedures"] = Table(caption, pd.DataFrame(procedures))
    return tables


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
                    rows += [_Row(followup, table, row, method) for method in methods]
    order = {name: number for number, name in enumerate(models)}
    others = {
        name: len(order) + number for number, name in enumerate(dict.fromkeys(r.row.model for r in rows))
    }
    yield from sorted(rows, key=lambda row: order.get(row.row.model, others[row.row.model]))


def _build_row_table(data: ReportData, arm: ArmDescription, rows: Sequence[_Row]) -> Table:
    ours = _own_protocol(data)
    titles = {model.name: model.title for model in data.study.models}
    cells, anchors = [], []
    for row in rows:
        cell = Cell(row.row.model, row.method, arm.name) if row.method else None
        model = titles.get(row.row.model) or row.followup.titles.get(row.row.model, row.row.model)
        method = row.row.label or row.followup.titles[row.row.method or ""]
        cells.append(
            {"Model": model, "Method": method, "Publication": row.followup.published.title}
            | _compare(data, arm, row, cell, ours=ours)
        )
        anchors.append(cell.anchor if cell else "")
    caption = (
        f"Published figures of follow-ups beside ours, trained on {arm.training_set}, macro average of the tasks in percent. "
        f"Ours: protocol {ours}. Difference: ours less published = rest + parser + prompt and decoding (both: the points of the protocol), "
        f"{_POINTS}. Their protocol: the protocol here that follows the published procedure, but for what the table of procedures "
        "says; none: no protocol here does, so no part is computed. Rest: our accuracy under their protocol less the published figure; "
        "it holds the training, the seeds, and what their procedure does otherwise. Its interval is that of our accuracy. Not trained: "
        "the study has no run with this base, method and these settings."
    )
    return Table(caption, pd.DataFrame(cells).fillna(""), anchors)


def _compare(
    data: ReportData, arm: ArmDescription, row: _Row, cell: Cell | None, *, ours: str
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
    points = measure_points(data, cell, tasks, first=theirs, second=ours)
    return result | _format_parts(points) | {"Rest": _format_rest(points.first, average)}


def _build_point_table(data: ReportData, arm: ArmDescription) -> Table | None:
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
                points = measure_points(data, cell, tasks, first=protocol, second=ours)
                row = {"Model": model.title, "Method": title, "Protocol": protocol, "tasks": str(len(tasks))}
                row |= {"Accuracy": format_interval(points.first)} | _format_parts(points)
                rows.append(row | {f"Ours ({ours})": format_interval(points.second)})
                anchors.append(cell.anchor)
    if not rows:
        return None
    caption = (
        f"Points between protocols, {arm.name}, macro average in percent: the accuracy of the same runs under each protocol, and how it "
        f"becomes that under {ours}, {_POINTS}. Tasks: those that both protocols cover."
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
    low, high = (f"{100 * difference[end]:+.1f}" for end in ("low", "high"))
    return f"{100 * difference['estimate']:+.1f} [{low}, {high}]"


def _format_rest(ours: Estimate, published: float) -> str:
    """Format our accuracy less a published figure in percent, which has no interval of its own."""
    low, high = (f"{100 * ours[end] - published:+.1f}" for end in ("low", "high"))
    return f"{100 * ours['estimate'] - published:+.1f} [{low}, {high}]"


def _list_procedures(data: ReportData) -> Iterator[dict[str, str]]:
    for followup in data.study.followups:
        card = followup.published
        for name, measurement in card.measurements.items():
            first = {"Publication": card.title, "Figures": name}
            differences = f", but {measurement.differences}" if measurement.differences else ""
            yield first | {
                "Step": "protocol here",
                "Stated": f"{measurement.protocol or 'none'}{differences}",
                "Source": "",
            }
            for step, fact in measurement.procedure.items():
                stated = {"Step": step.replace("_", " "), "Stated": fact.value}
                yield first | stated | {"Source": card.locate(fact.source)}
