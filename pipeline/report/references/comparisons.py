"""Runs and published figures against answers made elsewhere: paired tests, and the share of a reference that each reaches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.core.text import format_percent
from pipeline.evaluate import stats
from pipeline.evaluate.stats import Difference, Share
from pipeline.evaluate.tables import Runs
from pipeline.report.comparisons import describe_family, format_test
from pipeline.report.data import Cell, ReportData, Selection, score_key
from pipeline.report.references.data import (
    PublishedAverage,
    ReferenceResult,
    estimate_reference,
    find_published_row,
    list_published,
    name_reading,
    select_clusters,
)
from pipeline.report.tables import Table
from pipeline.study.description import ArmDescription, TaskDescription
from pipeline.study.references import STORED


class _Pairing(NamedTuple):
    """A run's answers and those of a reference to the same examples, for each task."""

    tasks: list[TaskDescription]
    pairs: list[tuple[Runs, Runs]]
    ids: list[list[str]]
    selection: Selection


def build_tests(
    data: ReportData, references: Sequence[ReferenceResult], arm: ArmDescription
) -> dict[str, Table]:
    """Build the tests of every run against every reference, by protocol: paired on the examples that both answered."""
    tables = {}
    for protocol in data.study.headline:
        subjects, differences = [], []
        for reference in references:
            for cell, title in _list_cells(data, arm):
                pairing = _pair(data, reference, arm, protocol, cell)
                if pairing:
                    subjects.append(({"Answers of": title, "against": reference.title}, cell.anchor))
                    differences.append(_compare(data, cell, pairing))
        if not subjects:
            continue
        rows = [
            {**subject, **format_test(difference, starred=not data.has_one_seed)}
            for (subject, _), difference in zip(subjects, stats.adjust_differences(differences), strict=True)
        ]
        caption = (
            f"Runs against answers made elsewhere, macro average of the tasks that both have, {arm.name}, protocol {protocol} for both "
            f"sides: paired on examples; {describe_family(data, len(rows))} The prompts differ."
        )
        tables[protocol] = Table(caption, pd.DataFrame(rows), [anchor for _, anchor in subjects])
    return tables


def _list_cells(data: ReportData, arm: ArmDescription) -> Iterator[tuple[Cell, str]]:
    for model in data.study.models:
        for method, title in data.method_titles(model.name).items():
            cell = Cell(model.name, method, arm.name)
            if data.find_runs(*cell):
                yield cell, f"{title} on {model.title}"


def _pair(
    data: ReportData, reference: ReferenceResult, arm: ArmDescription, protocol: str, cell: Cell
) -> _Pairing | None:
    """Return the answers of a cell and a reference to the same examples; None where they have no task in common."""
    tasks = [task for task in reference.tasks_of(arm) if reference.has_score(task.name, protocol)]
    if not tasks:
        return None
    run = data.find_runs(*cell)[0]
    pairs: list[tuple[Runs, Runs]] = []
    ids: list[list[str]] = []
    excluded: set[str] = set()
    for task in tasks:
        key = score_key(task, protocol)
        theirs = reference.correctness(task.name, protocol)
        listed = [item["id"] for item in data.get_task_score(run, key)["items"]]
        excluded |= {id for id in listed if id not in theirs}
        ours = [
            [value for value, id in zip(values, listed, strict=True) if id in theirs]
            for values in data.get_correctness(cell, key)
        ]
        ids.append([id for id in listed if id in theirs])
        pairs.append((ours, [[theirs[id] for id in ids[-1]]]))
    keys = tuple(score_key(task, protocol) for task in tasks)
    return _Pairing(tasks, pairs, ids, Selection(keys, excluded=frozenset(excluded)))


def _compare(data: ReportData, cell: Cell, pairing: _Pairing) -> Difference:
    clusters = [
        select_clusters(data, task, ids) for task, ids in zip(pairing.tasks, pairing.ids, strict=True)
    ]
    pools = data.find_pool(cell, pairing.selection), None
    if len(pairing.pairs) == 1:
        return stats.estimate_difference(*pairing.pairs[0], clusters=clusters[0], pools=pools)
    return stats.estimate_mean_difference(pairing.pairs, clusters=clusters, pools=pools)


def _estimate_share(data: ReportData, cell: Cell, pairing: _Pairing) -> Share:
    clusters = [
        select_clusters(data, task, ids) for task, ids in zip(pairing.tasks, pairing.ids, strict=True)
    ]
    pools = data.find_pool(cell, pairing.selection), None
    return stats.estimate_share(pairing.pairs, clusters=clusters, pools=pools)


def build_claims(
    data: ReportData, references: Sequence[ReferenceResult], arm: ArmDescription
) -> Table | None:
    """Build the shares of each reference that our runs and the published figures reach; None where there are neither."""
    rows = [
        row
        for reference in references
        for row in (*_claim_runs(data, reference, arm), *_claim_published(data, reference, arm))
    ]
    if not rows:
        return None
    reasons = [
        f"{reference.title}: {reference.description.card.published.difference}."
        for reference in references
        if reference.description.card.published
    ]
    caption = (
        f"Accuracy as a share of that of answers made elsewhere, {arm.name}: macro average of the tasks that both have, in percent "
        "of the reference's. The 95 % interval of a run is a bootstrap interval over seeds and the examples that both answered; "
        "that of a published figure covers the reference alone. Read the same way: one parser on both sides; the prompts differ. "
        "Last column: the same figure as a share of the published row."
    )
    if reasons:
        caption += f" Why the published row differs: {' '.join(reasons)}"
    return Table(caption, pd.DataFrame(rows))


def _claim_runs(
    data: ReportData, reference: ReferenceResult, arm: ArmDescription
) -> Iterator[dict[str, str]]:
    for protocol in data.study.headline:
        for cell, title in _list_cells(data, arm):
            pairing = _pair(data, reference, arm, protocol, cell)
            if pairing is None:
                continue
            share = _estimate_share(data, cell, pairing)
            # nothing is a share of no right answers
            if not share["second"]:
                continue
            published = find_published_row(reference, pairing.tasks)
            yield _format_claim(
                title,
                reference,
                share,
                how=f"read the same way ({protocol})",
                tasks=pairing.tasks,
                beside=published,
            )


def _claim_published(
    data: ReportData, reference: ReferenceResult, arm: ArmDescription
) -> Iterator[dict[str, str]]:
    """Yield the claims of the best published method of each model."""
    published = data.study.published
    if published is None:
        return
    titles = data.study.published_titles
    for reading in reference.list_readings(data.study.headline):
        tasks = [task for task in reference.tasks_of(arm) if reference.has_score(task.name, reading)]
        best: dict[str, PublishedAverage] = {}
        for row in list_published(published, tasks, training_set=arm.training_set) if tasks else ():
            current = best.get(row.row.model)
            if row.row.method and (current is None or row.average > current.average):
                best[row.row.model] = row
        theirs = estimate_reference(data, reference, tasks, reading) if best else None
        for model, row in best.items():
            measurement = published.measurements[row.row.measurement or row.table.measurement]
            is_same = measurement.protocol == reading
            # a share of a row that is read otherwise is only of interest for the reading that was published
            if theirs is None or not theirs["estimate"] or not (is_same or reading == STORED):
                continue
            how = "read the same way" if is_same else "not read the same way"
            share: Share = {
                "estimate": row.average / theirs["estimate"],
                "low": row.average / theirs["high"],
                "high": row.average / theirs["low"] if theirs["low"] else float("inf"),
                "n": theirs["n"],
                "first": row.average,
                "second": theirs["estimate"],
            }
            yield _format_claim(
                f"{titles.get(row.row.method or '', row.row.method)} on {titles.get(model, model)}, as published,",
                reference,
                share,
                how=f"{how} ({name_reading(reading)})",
                tasks=tasks,
                beside=find_published_row(reference, tasks),
            )


def _format_claim(
    subject: str,
    reference: ReferenceResult,
    share: Share,
    *,
    how: str,
    tasks: Sequence[TaskDescription],
    beside: PublishedAverage | None,
) -> dict[str, str]:
    low, high = format_percent(share["low"]), format_percent(share["high"])
    reached = f"{format_percent(share['estimate'])} [{low}, {high}]"
    return {
        "Claim": f"{subject} reaches {reached} % of {reference.title}, {how}",
        "Tasks": ", ".join(task.title for task in tasks),
        "n": str(share["n"]),
        "Accuracy (%)": format_percent(share["first"]),
        "of the reference (%)": format_percent(share["second"]),
        "Share (%)": reached,
        "of the published row (%)": (
            f"{format_percent(share['first'] / beside.average)} of {format_percent(beside.average)}"
            if beside
            else "none"
        ),
    }
