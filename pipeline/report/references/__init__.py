"""Answers made elsewhere in the report: their accuracies, how they were tied, and what runs reach of them."""

import pandas as pd

from pipeline.report.data import ReportData
from pipeline.report.references.accuracy import build_accuracy, build_ties
from pipeline.report.references.comparisons import build_claims, build_tests
from pipeline.report.references.data import read_references
from pipeline.report.tables import Table


def build_reference_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of answers made elsewhere by file name; none for a study without references."""
    references = read_references(data.study)
    tables: dict[str, Table] = {}
    if not references:
        return tables
    for arm in data.study.arms:
        chosen = [reference for reference in references if reference.tasks_of(arm)]
        if not chosen:
            continue
        tables[f"references-{arm.name}"] = build_accuracy(data, chosen, arm)
        claims = build_claims(data, chosen, arm)
        if claims:
            tables[f"claims-{arm.name}"] = claims
        if data.study.runs:
            tests = build_tests(data, chosen, arm)
            tables |= {f"reference-tests-{arm.name}-{protocol}": table for protocol, table in tests.items()}
    tables["reference-ties"] = build_ties(data, references)
    return tables


def collect_reference_metrics(data: ReportData) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the accuracies of references as metrics.json has those of runs: by protocol, reference, "reference" and task."""
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for reference in read_references(data.study):
        for arm in data.study.arms:
            tasks = reference.tasks_of(arm)
            for reading in reference.list_readings(data.study.protocols) if tasks else ():
                scored = [task.name for task in tasks if reference.has_score(task.name, reading)]
                if not scored:
                    continue
                accuracies = [reference.score(task, reading)["accuracy"] for task in scored]
                values = {task: round(value, 6) for task, value in zip(scored, accuracies, strict=True)}
                values[f"average {arm.name}"] = round(sum(accuracies) / len(accuracies), 6)
                row = metrics.setdefault(reading, {}).setdefault(reference.description.name, {})
                row.setdefault("reference", {}).update(values)
    return metrics


def list_reference_accuracies(data: ReportData) -> pd.DataFrame:
    """Return a row for each reference, arm, task and reading, with the columns that runs have."""
    return pd.DataFrame(
        {
            "model": reference.description.name,
            "method": "reference",
            "arm": arm.name,
            "training_set": "",
            "seed": "",
            "task": f"{task.name}-{reading}",
            "accuracy": reference.score(task.name, reading)["accuracy"],
        }
        for reference in read_references(data.study)
        for arm in data.study.arms
        for task in reference.tasks_of(arm)
        for reading in reference.list_readings(data.study.protocols)
        if reference.has_score(task.name, reading)
    )
