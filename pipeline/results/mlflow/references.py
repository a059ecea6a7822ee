"""The references of a study as rows of MLflow's table: answers made elsewhere and published figures. Does not load mlflow."""

from collections.abc import Iterable, Iterator, Mapping

from pipeline.core.io import read_json
from pipeline.evaluate.clusters import accuracy_interval
from pipeline.evaluate.scoring.rows import TaskScore
from pipeline.params.studies import Arm
from pipeline.results.mlflow.entry import ReferenceEntry
from pipeline.results.scores.clusters import find_task_clusters
from pipeline.study import Study
from pipeline.study.followups.rows import (
    RowReference,
    TableRow,
    list_arms_beside,
    list_row_references,
    list_shown_rows,
)
from pipeline.study.references import STORED, ReferenceRun

# stands for the protocol in the metrics of figures that no protocol of the study measures
PUBLISHED = "published"


def group_published(study: Study) -> list[str]:
    """Return "ARM-published" for each arm beside which rows may stand that were measured under no protocol of the study."""
    methods = {entry.method for entry in study.card.methods}
    groups = [
        f"{arm.name}-{PUBLISHED}"
        for reference in list_row_references(study).values()
        for arm, row in list_arms_beside(study, reference)
        if _name_protocol(study, row) == PUBLISHED
        and row.average(arm.tasks) is not None
        and (row.row.is_bare or (row.row.model in study.card.models and row.row.method in methods))
    ]
    return list(dict.fromkeys(groups))


def list_entries(study: Study) -> list[ReferenceEntry]:
    """Return the references that a study's report shows, as MLflow records them: those whose answers are scored, and published rows."""
    scored = [reference for reference in study.references if reference.scores.path.exists()]
    return [
        *(_describe_answers(study, reference) for reference in scored),
        *(entry for reference in list_shown_rows(study) for entry in _describe_rows(study, reference)),
    ]


def _describe_answers(study: Study, reference: ReferenceRun) -> ReferenceEntry:
    card = reference.card
    scores: dict[str, TaskScore] = read_json(reference.scores.path)["tasks"]
    clusters = find_task_clusters(study, reference.tasks)
    metrics: dict[str, float] = {}
    for name, score in scores.items():
        metrics[f"accuracy/{name}"] = score["accuracy"]
        low, high = accuracy_interval(score, clusters.get(name))
        metrics |= {f"accuracy_low/{name}": low, f"accuracy_high/{name}": high}
        metrics[f"unparsable/{name}"] = score["unparsable"] / score["n"]
    for arm in study.card.arms:
        for protocol in (*study.card.protocols, STORED):
            members = [f"{task}-{protocol}" for task in arm.tasks]
            # of all tasks or none: a mean over fewer would be another number under the same name
            if all(name in scores for name in members):
                mean = sum(scores[name]["accuracy"] for name in members) / len(members)
                metrics[f"average/{arm.name}-{protocol}"] = round(mean, 6)
    return ReferenceEntry(
        name=reference.name,
        tags={
            "model": card.name,
            "method": "reference (answers made elsewhere)",
            "measured": "by the protocols of the study, from answers to other prompts",
            "answers": reference.answers.fingerprint,
        },
        metrics=metrics,
        note=f"Answers made elsewhere: {card.source}.\n\nTheir prompts: {card.prompting}",
    )


def _describe_rows(study: Study, reference: RowReference) -> Iterator[ReferenceEntry]:
    """Yield the entries of a published row: one for each training set, as runs have them, and one for a bare model."""
    beside: dict[str, list[tuple[Arm, TableRow]]] = {}
    for arm, row in list_arms_beside(study, reference):
        beside.setdefault(row.table.training_set if row.is_trained else "", []).append((arm, row))
    for training_set, rows in beside.items():
        first = rows[0][1]
        metrics = _merge(_list_figures(study, arm, row) for arm, row in rows)
        if not metrics:
            continue
        tags = {
            "model": first.row.model,
            "method": f"{first.row.title} (published)",
            "measured": " / ".join(dict.fromkeys(_describe_measurement(study, row) for _, row in rows)),
        }
        if training_set:
            tags["training_set"] = training_set
        sources = dict.fromkeys(
            f"{row.published.title}, {row.table.name}; {row.source}. Measured by {row.measurement.measured_by}; prompting: "
            f"{row.measurement.prompting}; parsing: {row.measurement.parsing}."
            for _, row in rows
        )
        yield ReferenceEntry(reference.name, tags, metrics, "Published figures: " + "\n\n".join(sources))


def _name_protocol(study: Study, row: TableRow) -> str:
    """Return the protocol of the study under which a row was measured, or PUBLISHED."""
    protocol = row.measurement.protocol
    return protocol if protocol in study.card.protocols and protocol else PUBLISHED


def _describe_measurement(study: Study, row: TableRow) -> str:
    protocol = _name_protocol(study, row)
    if protocol == PUBLISHED:
        return "as published, under no protocol of the study"
    return f"as published, protocol {row.measurement.protocol_here}"


def _list_figures(study: Study, arm: Arm, row: TableRow) -> dict[str, float]:
    protocol = _name_protocol(study, row)
    metrics = {f"accuracy/{task}-{protocol}": figure for task, figure in row.list_figures(arm.tasks).items()}
    average = row.average(arm.tasks)
    if average is not None:
        metrics[f"average/{arm.name}-{protocol}"] = average
    return {key: round(value, 6) for key, value in metrics.items()}


def _merge(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return {key: value for part in parts for key, value in part.items()}
