"""Published figures beside a study's own: the difference, and whether our interval covers the published figure."""

import pandas as pd

from pipeline.evaluate import stats
from pipeline.evaluate.stats import Estimate
from pipeline.params.published import Published, PublishedRow, PublishedTable
from pipeline.report.data import Cell, ReportData, Section, score_key
from pipeline.report.tables import MACRO, Table, format_percent
from pipeline.study.description import ArmDescription, MethodDescription, ModelDescription


def build_published_tables(data: ReportData) -> dict[str, Table]:
    """Build a table for each section with published figures for its training set and tasks, by file name."""
    tables: dict[str, Table] = {}
    published = data.study.published
    if published is None:
        return tables
    for section in data.sections:
        published_table = _find_nearest_table(published, section.arm)
        if published_table:
            table = _build_published_table(data, section, published.title, published_table)
            tables[f"published-{section.name}"] = table
    return tables


def _find_nearest_table(published: Published, arm: ArmDescription) -> PublishedTable | None:
    """Return the table of an arm's training set with most of the arm's tasks, and fewest others if several have."""
    names = {task.name for task in arm.tasks}
    tables = [
        table
        for table in published.tables
        if table.training_set == arm.training_set and names & set(table.tasks)
    ]
    return max(tables, key=lambda table: (len(names & set(table.tasks)), -len(table.tasks)), default=None)


def _build_published_table(
    data: ReportData, section: Section, title: str, published: PublishedTable
) -> Table:
    """Build our accuracies less the published ones where both exist, and the published ones without an adapter."""
    rows, anchors = [], []
    for published_row in published.rows:
        match = _find_match(data, published_row)
        if match:
            model, method = match
            cell = Cell(model.name, method.name, section.arm.name)
            row = {"Model": model.title, "Method": method.title}
            rows.append(row | _compare_row(data, section, published, published_row, cell))
            anchors.append(cell.anchor)
        elif published_row.method is None:
            row = {"Model": published_row.model, "Method": "as published"}
            rows.append(row | _compare_row(data, section, published, published_row, None))
            anchors.append("")
    caption = (
        f"Published figures beside ours, {section.arm.name}, protocol {section.protocol}, in percent: ours − published = "
        f"difference; ✓ our 95 % interval covers what was published, ✗ it does not. {title}, {published.source}."
    )
    if published.notes:
        caption += f" Notes: {published.notes}."
    if not any(anchors):
        caption += " No run here is of a published model and method: the figures stand alone."
    return Table(caption, pd.DataFrame(rows), anchors)


def _find_match(data: ReportData, row: PublishedRow) -> tuple[ModelDescription, MethodDescription] | None:
    """Return the model and method of a published row, if the study has both with the settings of their cards."""
    for model in data.study.models:
        for method in data.study.methods:
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
    for task in tasks:
        key = score_key(task, section.protocol)
        ours = stats.estimate_accuracy(data.get_correctness(cell, key)) if cell else None
        cells[task.title] = _format_comparison(ours, figures[task.name])
    # an average over other tasks than ours cannot be compared
    if row.average is not None and {task.name for task in section.tasks} == set(figures):
        ours = data.average_accuracy(cell, section.keys) if cell else None
        cells[MACRO] = _format_comparison(ours, row.average)
    return cells


def _format_comparison(ours: Estimate | None, figure: float) -> str:
    if ours is None:
        return f"{figure:.1f}"
    covered = ours["low"] <= figure / 100 <= ours["high"]
    difference = 100 * ours["estimate"] - figure
    return f"{format_percent(ours['estimate'])} − {figure:.1f} = {difference:+.1f} {'✓' if covered else '✗'}"
