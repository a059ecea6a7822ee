"""Published figures beside a study's own: the difference, and whether our interval covers the published figure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pandas as pd

from pipeline.core.text import format_percent, format_points
from pipeline.evaluate.stats import Estimate
from pipeline.params.published.cards import (
    Published,
    PublishedFigure,
    PublishedPoint,
    PublishedRow,
    PublishedTable,
)
from pipeline.report.data import Cell, ReportData, Section, score_key
from pipeline.report.tables import MACRO, Table
from pipeline.study.description import (
    FigureDescription,
    MethodDescription,
    ModelDescription,
    PointDescription,
)
from pipeline.study.followups.rows import find_nearest_table


class _Match(NamedTuple):
    """A published point, the figure that it is of, and the point of ours with the same model, method and setting."""

    figure: PublishedFigure
    published: PublishedPoint
    ours: PointDescription
    cell: Cell


def build_published_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of published figures of every section, by file name: of tables, and of points of a figure."""
    tables: dict[str, Table] = {}
    published = data.study.published
    if published is None:
        return tables
    for section in data.sections:
        published_table = find_nearest_table(
            published.tables,
            [task.name for task in section.arm.tasks],
            training_set=section.arm.training_set,
        )
        if published_table:
            table = _build_published_table(data, section, published, published_table)
            tables[f"published-{section.name}"] = table
        if data.study.figure and list(_match_points(data, data.study.figure, section)):
            table = _build_point_table(data, section, published, data.study.figure)
            tables[f"published-settings-{section.name}"] = table
    return tables


def find_published_averages(
    data: ReportData, figure: FigureDescription, section: Section
) -> dict[Cell, float]:
    """Return the published average, in [0, 1], of each point of the study's figure that has one in a section."""
    return {match.cell: match.published.average / 100 for match in _match_points(data, figure, section)}


def _build_published_table(
    data: ReportData, section: Section, published: Published, table: PublishedTable
) -> Table:
    """Build our accuracies less the published ones where both exist, and the published ones without an adapter."""
    matches = [(row, _find_match(data, row)) for row in table.rows]
    shown = [(row, match) for row, match in matches if match or row.method is None]
    names = [row.measurement or table.measurement for row, _ in shown]
    marks = _mark_measurements(published, names, section.protocol)
    rows, anchors = [], []
    for (row, match), name in zip(shown, names, strict=True):
        if match:
            model, method = match
            cell = Cell(model.name, method.name, section.arm.name)
            titles = {"Model": model.title, "Method": method.title + marks.get(name, "")}
            rows.append(titles | _compare_row(data, section, table, row, cell))
            anchors.append(cell.anchor)
        else:
            titles = {"Model": row.model, "Method": (row.label or "as published") + marks.get(name, "")}
            rows.append(titles | _compare_row(data, section, table, row, None))
            anchors.append("")
    caption = (
        f"Published figures beside ours, {section.arm.name}, protocol {section.protocol}, in percent: "
        f"{_describe_comparison(data)} {published.title}, {table.source}."
    )
    caption += _describe_notes(table) + _explain_marks(published, marks)
    if not any(anchors):
        caption += " The study has no run of a published model and method, so there is no comparison."
    return Table(caption, pd.DataFrame(rows).fillna(""), anchors)


def _find_match(data: ReportData, row: PublishedRow) -> tuple[ModelDescription, MethodDescription] | None:
    """Return the model and method of a published row, if the row and the study have both with the settings of their cards."""
    # rows with settings of their own are compared as follow-ups
    if row.settings:
        return None
    for model in data.study.models:
        for method in data.methods_of(model.name):
            # a method with changed settings is another method than the published one
            if model.name == row.model and method.card == row.method and method.as_card:
                return model, method
    return None


def _compare_row(
    data: ReportData, section: Section, published: PublishedTable, row: PublishedRow, cell: Cell | None
) -> dict[str, str]:
    """Format a published row by column; without a ``cell`` of ours, the published figures alone."""
    figures = dict(zip(published.tasks, row.accuracy, strict=True))
    tasks = [task for task in section.tasks if task.name in figures]
    cells = {}
    marked = not data.has_one_seed
    for task in tasks:
        key = score_key(task, section.protocol)
        ours = data.estimate_accuracy(cell, key) if cell else None
        cells[task.title] = _format_comparison(ours, figures[task.name], marked=marked)
    # an average over other tasks than ours cannot be compared
    if row.average is not None and {task.name for task in section.tasks} == set(figures):
        ours = data.average_accuracy(cell, section.keys) if cell else None
        cells = {MACRO: _format_comparison(ours, row.average, marked=marked)} | cells
    return cells


def _match_points(data: ReportData, figure: FigureDescription, section: Section) -> Iterator[_Match]:
    """Yield the published points of a section's training set and tasks that the study's figure has too."""
    ours = {(point.card, point.field, point.setting): point for point in figure.points}
    models = {model.name for model in data.study.models}
    tasks = {task.name for task in section.tasks}
    for published_figure in data.study.published.figures if data.study.published else ():
        # an average over other tasks than ours cannot be compared
        if published_figure.training_set != section.arm.training_set or set(published_figure.tasks) != tasks:
            continue
        for published in published_figure.points:
            point = ours.get((published.method, published_figure.field, published.setting))
            if point and published.model in models:
                cell = Cell(published.model, point.method, section.arm.name)
                if data.find_runs(*cell):
                    yield _Match(published_figure, published, point, cell)


def _build_point_table(
    data: ReportData, section: Section, published: Published, figure: FigureDescription
) -> Table:
    """Build our averages less the published ones, for each point of the study's figure that was published."""
    matches = list(_match_points(data, figure, section))
    names = [match.published.measurement or match.figure.measurement for match in matches]
    marks = _mark_measurements(published, names, section.protocol)
    titles = {model.name: model.title for model in data.study.models}
    rows = [
        {
            "Model": titles[match.cell.model],
            "Method": match.ours.line + marks.get(name, ""),
            "Setting": f"{figure.x[match.ours.field]} {match.ours.setting}",
            MACRO: _format_comparison(
                data.average_accuracy(match.cell, section.keys),
                match.published.average,
                marked=not data.has_one_seed,
            ),
            "Source": match.published.source,
        }
        for match, name in zip(matches, names, strict=True)
    ]
    caption = (
        f"Published points beside ours, {section.arm.name}, protocol {section.protocol}, macro average in percent: "
        f"{_describe_comparison(data)} {published.title}."
    )
    for name, published_figure in {match.figure.name: match.figure for match in matches}.items():
        caption += f" {name}: {published_figure.source}.{_describe_notes(published_figure)}"
    caption += _explain_marks(published, marks)
    return Table(caption, pd.DataFrame(rows), [match.cell.anchor for match in matches])


def _describe_comparison(data: ReportData) -> str:
    marks = "✓: our 95 % interval covers the published figure, ✗: it does not"
    if data.has_one_seed:
        marks = "our figure has one seed, so a difference is about this run alone and has no mark"
    return f"ours − published = difference; {marks}; empty: not published."


def _describe_notes(part: PublishedTable | PublishedFigure) -> str:
    return f" Notes: {part.notes}." if part.notes else ""


def _mark_measurements(published: Published, names: Iterable[str], protocol: str) -> dict[str, str]:
    """Return a mark for each of the measurements that does not quite follow the protocol of our rows, by name."""
    measurements = published.measurements
    others = [
        name
        for name in dict.fromkeys(names)
        if measurements[name].protocol != protocol or measurements[name].differences
    ]
    return {name: f" [{number}]" for number, name in enumerate(others, start=1)}


def _explain_marks(published: Published, marks: dict[str, str]) -> str:
    """Return the part of a caption that says how the marked figures were measured."""
    text = " Measured differently from our rows:" if marks else ""
    for name, mark in marks.items():
        measurement = published.measurements[name]
        same = f"; that is protocol {measurement.protocol_here}" if measurement.protocol else ""
        text += (
            f"{mark} measured by: {measurement.measured_by}; prompting: {measurement.prompting}; "
            f"parsing: {measurement.parsing}{same}."
        )
    return text


def _format_comparison(ours: Estimate | None, figure: float | None, *, marked: bool) -> str:
    if figure is None:
        return ""
    if ours is None:
        return f"{figure:.1f}"
    mark = " ✓" if ours["low"] <= figure / 100 <= ours["high"] else " ✗"
    difference = f"{format_points(ours['estimate'] - figure / 100)}{mark if marked else ''}"
    return f"{format_percent(ours['estimate'])} − {figure:.1f} = {difference}"
