"""Tables of answers made elsewhere: accuracies under every reading, and how the answers were tied to our examples."""

from collections.abc import Sequence

import pandas as pd

from pipeline.core.text import format_percent
from pipeline.report.data import Cell, ReportData, score_key
from pipeline.report.references.data import (
    ReferenceResult,
    estimate_reference,
    find_published_row,
    name_reading,
)
from pipeline.report.tables import MACRO, Table, format_interval
from pipeline.study.description import ArmDescription

# ids and row numbers that a cell lists
LISTED = 5


def build_accuracy(data: ReportData, references: Sequence[ReferenceResult], arm: ArmDescription) -> Table:
    """Build the accuracies of an arm: a row for each reference and reading, the published one below, then our runs."""
    rows, anchors = [], []
    for reference in references:
        reference_rows = _build_reference_rows(data, reference, arm)
        rows += reference_rows
        anchors += [""] * len(reference_rows)
    readings = {
        reading for reference in references for reading in reference.list_readings(data.study.headline)
    }
    for protocol in (name for name in data.study.headline if name in readings):
        for model in data.study.models:
            for method, title in data.method_titles(model.name).items():
                cell = Cell(model.name, method, arm.name)
                tasks = [task for task in arm.tasks if protocol in task.protocols]
                if data.find_runs(*cell) and tasks:
                    keys = [score_key(task, protocol) for task in tasks]
                    row = {"Answers of": f"{title} on {model.title}", "Read by": protocol}
                    for task, key in zip(tasks, keys, strict=True):
                        row[task.title] = format_interval(data.estimate_accuracy(cell, key))
                    row[MACRO] = format_interval(data.average_accuracy(cell, keys))
                    rows.append(row)
                    anchors.append(cell.anchor)
    columns = ["Answers of", "Read by", *(task.title for task in arm.tasks), MACRO, "Unparsed (%)", "n"]
    # object: a column without any value would be of floats, which no text can fill
    frame = pd.DataFrame(rows, columns=columns, dtype=object).fillna("")
    prompting = " ".join(
        f"{reference.title}: {reference.description.card.prompting.rstrip('.')}; {reference.description.card.source}."
        for reference in references
    )
    caption = (
        f"Answers made elsewhere, {arm.name}: accuracy in percent with a 95 % interval over examples, Wilson's for a task, a "
        "bootstrap interval for an average. Read by its authors: the answers that they stored, compared with our gold labels. Read "
        f"by a protocol: our parser applied to their text, whatever the prompt was. {MACRO}: over the tasks in the row, every task "
        f"counts the same. Unparsed: mean share over these tasks. n: examples with an answer. {prompting}"
    )
    return Table(caption, frame, anchors)


def _build_reference_rows(
    data: ReportData, reference: ReferenceResult, arm: ArmDescription
) -> list[dict[str, str]]:
    rows = []
    for reading in reference.list_readings(data.study.protocols):
        tasks = [task for task in reference.tasks_of(arm) if reference.has_score(task.name, reading)]
        if not tasks:
            continue
        row = {"Answers of": reference.title, "Read by": name_reading(reading)}
        for task in tasks:
            row[task.title] = format_interval(estimate_reference(data, reference, [task], reading))
        average = estimate_reference(data, reference, tasks, reading)
        scores = [reference.score(task.name, reading) for task in tasks]
        row[MACRO] = format_interval(average)
        row["Unparsed (%)"] = format_percent(
            sum(score["unparsable"] / score["n"] for score in scores) / len(scores)
        )
        rows.append({**row, "n": str(average["n"])})
    published = find_published_row(reference, reference.tasks_of(arm))
    if published:
        figures = dict(zip(published.table.tasks, published.row.accuracy, strict=True))
        row = {"Answers of": f"{published.row.model}, as published", "Read by": "see below"}
        for task in reference.tasks_of(arm):
            row[task.title] = f"{figures[task.name]:.1f}"
        rows.append({**row, MACRO: format_percent(published.average)})
    return rows


def build_ties(data: ReportData, references: Sequence[ReferenceResult]) -> Table:
    """Build what of each source was tied to our examples, and what was not."""
    titles = {task.name: task.title for arm in data.study.arms for task in arm.tasks}
    rows = []
    for reference in references:
        for task, ties in reference.ties.items():
            golds = [f"{each['id']}: {each['theirs']}, ours {each['ours']}" for each in ties["gold_differs"]]
            rows.append(
                {
                    "Answers of": reference.title,
                    "Task": titles[task],
                    "Rows": str(ties["rows"]),
                    "Examples": str(ties["examples"]),
                    "With an answer": str(ties["tied"]),
                    "Without an answer": _list_some(ties["unanswered"]),
                    "Several answers": _list_some(ties["ambiguous"]),
                    "Rows without an example": _list_some(ties["unknown"]),
                    "Rows that repeat": _list_some(ties["repeated"]),
                    "Different gold label": _list_some(golds),
                }
            )
    caption = (
        "How answers made elsewhere were tied to our examples: by questions that are equal apart from white space and the mark at "
        "their end. Where a question has several answers that differ, none is used. Where their gold label differs from ours, ours "
        "counts. ties.json beside the answers lists all."
    )
    return Table(caption, pd.DataFrame(rows))


def _list_some(values: Sequence[object]) -> str:
    if not values:
        return "0"
    listed = ", ".join(str(value) for value in values[:LISTED])
    return f"{len(values)}: {listed}{', ...' if len(values) > LISTED else ''}"
