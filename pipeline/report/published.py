"""Published figures beside a study's own: the difference, and whether our interval covers what was published."""

import pandas as pd

from pipeline.evaluate import stats
from pipeline.evaluate.stats import Estimate
from pipeline.params.published import Published, PublishedRow, PublishedTable
from pipeline.report.tables import MACRO, Data, Table, percent, place
from pipeline.study.description import ArmDescription


def published_tables(data: Data) -> dict[str, Table]:
    """A table for each section whose training set and tasks were published, by file name."""
    made = {}
    for arm, protocol in data.parts:
        table = _nearest(data.study.published, arm) if data.study.published else None
        if table:
            made[f"published-{arm.name}-{protocol}"] = beside(data, arm, protocol, table)
    return made


def _nearest(published: Published, arm: ArmDescription) -> PublishedTable | None:
    """Return the table of an arm's training set with most of its tasks and, of equals, fewest others."""
    names = {task.name for task in arm.tasks}
    fitting = [
        table
        for table in published.tables
        if table.training_set == arm.training_set and names & set(table.tasks)
    ]
    return max(fitting, key=lambda table: (len(names & set(table.tasks)), -len(table.tasks)), default=None)


def beside(data: Data, arm: ArmDescription, protocol: str, table: PublishedTable) -> Table:
    """Our accuracy less the published one, for the models and methods of both; and what was published of no adapter."""
    tasks = [task for task in arm.tasks if task.name in table.tasks]
    whole = {task.name for task in arm.tasks} == set(table.tasks)
    rows, places, matched = [], [], 0
    for given in table.rows:
        ours = _ours(data, given)
        if ours is None and given.method is not None:
            continue
        row, figures = {}, dict(zip(table.tasks, given.accuracy, strict=True))
        for task in tasks:
            key = f"{task.name}-{protocol}"
            found = stats.estimate_accuracy(data.correct(*ours, arm.name, key)) if ours else None
            row[task.title] = _set_beside(found, figures[task.name])
        if whole and given.average is not None:
            keys = [f"{task.name}-{protocol}" for task in tasks]
            found = data.average(*ours, arm.name, keys) if ours else None
            row[MACRO] = _set_beside(found, given.average)
        matched += ours is not None
        model, method = _titles(data, *ours) if ours else (given.model, "as published")
        rows.append({"Model": model, "Method": method, **row})
        places.append(place(*ours, arm.name) if ours else "")
    return Table(_caption(data, arm, protocol, table, matched), pd.DataFrame(rows), places)


def _ours(data: Data, given: PublishedRow) -> tuple[str, str] | None:
    """Return the model and method of the study that a published row is of: the same cards, no setting changed."""
    models = [model.name for model in data.study.models if model.name == given.model]
    methods = [method.name for method in data.study.methods if method.card == given.method and method.as_card]
    return (models[0], methods[0]) if models and methods else None


def _titles(data: Data, model: str, method: str) -> tuple[str, str]:
    (of_model,) = [one.title for one in data.study.models if one.name == model]
    (of_method,) = [one.title for one in data.study.methods if one.name == method]
    return of_model, of_method


def _set_beside(found: Estimate | None, figure: float) -> str:
    if found is None:
        return f"{figure:.1f}"
    covered = found["low"] <= figure / 100 <= found["high"]
    difference = 100 * found["estimate"] - figure
    return f"{percent(found['estimate'])} − {figure:.1f} = {difference:+.1f} {'✓' if covered else '✗'}"


def _caption(data: Data, arm: ArmDescription, protocol: str, table: PublishedTable, matched: int) -> str:
    assert data.study.published is not None
    told = [
        f"Published figures beside ours, {arm.name}, protocol {protocol}, in percent: ours − published = difference; "
        f"✓ our 95 % interval covers what was published, ✗ it does not. {data.study.published.title}, "
        f"{table.source}."
    ]
    told += [f"Notes: {table.notes}."] if table.notes else []
    if not matched:
        told.append("No run here is of a published model and method: the figures stand alone.")
    return " ".join(told)
