"""results.csv: every number of a report as a long table of plain numbers, one row for each number and run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from math import isnan
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.core.io import read_json
from pipeline.evaluate.scoring.metrics import ACCURACY, METRICS, Metric
from pipeline.evaluate.stats import Estimate
from pipeline.report.data import Cell, ReportData, Section, Selection, list_sections
from pipeline.report.references.data import ReferenceResult, estimate_reference, read_references
from pipeline.report.texts.tables import list_cells, measure_forgetting, measure_likelihood
from pipeline.study.description import ArmDescription, RunDescription

# labels of rows over tasks and over seeds; no dataset has these names
MACRO_TASK, MICRO_TASK = "macro average", "micro average"
MEAN = "mean"
# stands for a method in the rows of answers made elsewhere
REFERENCE = "reference"
# decimals of shares, as in metrics.json
DECIMALS = 6


@dataclass(frozen=True)
class ResultRow:
    """A row of results.csv; docs/report.md describes the columns. None: unknown, or does not apply.

    Attributes:
        model: name of the card of the base model, or of the reference.
        method: name in the study; "bare" for a base without adapter, "reference" for answers made elsewhere.
        arm: of the study.
        task: a dataset, "macro average" or "micro average".
        protocol: of the evaluation; "stored" for answers as their authors read them; None for the likelihood of texts.
        metric: as in metrics.json.
        seed: of the training, or "mean": over the seeds.
        seeds: number of seeds behind the value; a bare base counts as one.
        n: examples, of all tasks for an average; for the likelihood of texts, texts.
        value: in [0, 1]; for the likelihood of texts, in nats per token.
        low: lower end of the 95 % interval; of a proportion or a likelihood of texts only.
        high: upper end of the interval.
        chance: accuracy of a guess among the choices, in [0, 1]; of accuracy only.
        trainable_parameters: of the adapter.
        seconds: of the training; in rows of a mean their mean.
        memory_gib: largest memory of the training in GiB; in rows of a mean their mean.
    """

    model: str
    method: str
    arm: str
    task: str
    protocol: str | None
    metric: str
    seed: str
    seeds: int
    n: int
    value: float
    low: float | None
    high: float | None
    chance: float | None
    trainable_parameters: int | None
    seconds: float | None
    memory_gib: float | None


class _Cost(NamedTuple):
    """What the trainings of some runs cost, their mean; None for bare bases, and but for the parameters for combinations."""

    parameters: int | None = None
    seconds: float | None = None
    memory_gib: float | None = None


class _Subject(NamedTuple):
    """What a row is of: a task or an average over tasks."""

    task: str
    selection: Selection
    n: int
    chance: float


class _Value(NamedTuple):
    value: float
    low: float | None = None
    high: float | None = None


def tabulate_results(data: ReportData) -> pd.DataFrame:
    """Return results.csv: for each cell its mean over seeds and each seed, by protocol, metric, task and average."""
    rows = [*_list_results(data), *_list_texts(data)]
    for reference in read_references(data.study):
        for arm in data.study.arms:
            rows += _list_reference(data, reference, arm)
    columns = [column.name for column in fields(ResultRow)]
    frame = pd.DataFrame([asdict(row) for row in rows], columns=columns)
    # Int64 keeps whole numbers whole beside empty cells
    return frame.astype({"trainable_parameters": "Int64"})


def _list_results(data: ReportData) -> Iterator[ResultRow]:
    for section in list_sections(data.study, data.study.protocols):
        for model in data.study.models:
            for method in data.method_titles(model.name):
                cell = Cell(model.name, method, section.arm.name)
                runs = data.find_runs(*cell)
                yield from _list_metrics(data, section, cell, runs, seed=MEAN)
                for run in runs:
                    # the one run of a bare base is its mean
                    if run.seed is not None:
                        yield from _list_metrics(data, section, cell, [run], seed=str(run.seed))


def _list_texts(data: ReportData) -> Iterator[ResultRow]:
    """Yield the rows of the likelihoods of texts, means over seeds, under their names in metrics.json."""
    for text in data.study.texts:
        for cell, _ in list_cells(data):
            cost = _measure_cost(data, data.find_runs(*cell))
            estimates = {
                "nats per token": measure_likelihood(data, cell, text),
                "forgetting": measure_forgetting(data, cell, text),
            }
            for metric, estimate in estimates.items():
                if estimate is None or isnan(estimate["estimate"]):
                    continue
                value, low, high = (round(estimate[end], DECIMALS) for end in ("estimate", "low", "high"))
                yield ResultRow(
                    model=cell.model,
                    method=cell.method,
                    arm=cell.arm,
                    task=text.name,
                    protocol=None,
                    metric=metric,
                    seed=MEAN,
                    seeds=estimate["seeds"],
                    n=estimate["n"],
                    value=value,
                    low=low,
                    high=high,
                    chance=None,
                    trainable_parameters=cost.parameters,
                    seconds=cost.seconds,
                    memory_gib=cost.memory_gib,
                )


def _list_reference(data: ReportData, reference: ReferenceResult, arm: ArmDescription) -> Iterator[ResultRow]:
    """Yield the accuracies of a reference under each reading: for each task of an arm, and their macro average."""
    for reading in reference.list_readings(data.study.protocols):
        tasks = [task for task in reference.tasks_of(arm) if reference.has_score(task.name, reading)]
        groups = {task.name: [task] for task in tasks} | ({MACRO_TASK: tasks} if tasks else {})
        for name, members in groups.items():
            estimate = estimate_reference(data, reference, members, reading)
            chances = [reference.score(task.name, reading)["chance"] for task in members]
            yield ResultRow(
                model=reference.description.name,
                method=REFERENCE,
                arm=arm.name,
                task=name,
                protocol=reading,
                metric=ACCURACY.name,
                seed=MEAN,
                seeds=1,
                n=estimate["n"],
                value=round(estimate["estimate"], DECIMALS),
                low=round(estimate["low"], DECIMALS),
                high=round(estimate["high"], DECIMALS),
                chance=round(float(np.mean(chances)), DECIMALS),
                trainable_parameters=None,
                seconds=None,
                memory_gib=None,
            )


def _list_metrics(
    data: ReportData, section: Section, cell: Cell, runs: Sequence[RunDescription], *, seed: str
) -> Iterator[ResultRow]:
    """Yield the rows of some runs of a cell: of each metric, for each task and for the averages over tasks."""
    cost = _measure_cost(data, runs)
    for metric in METRICS:
        subjects = _list_subjects(data, section, metric)
        values = (
            _estimate_values(data, cell, runs, subjects, is_mean=seed == MEAN)
            if metric.is_proportion
            else _average_values(data, runs, subjects)
        )
        for subject, value in zip(subjects, values, strict=True):
            if isnan(value.value):
                continue
            yield ResultRow(
                model=cell.model,
                method=cell.method,
                arm=cell.arm,
                task=subject.task,
                protocol=section.protocol,
                metric=metric.name,
                seed=seed,
                seeds=len(runs),
                n=subject.n,
                value=round(value.value, DECIMALS),
                low=value.low,
                high=value.high,
                chance=round(subject.chance, DECIMALS) if metric is ACCURACY else None,
                trainable_parameters=cost.parameters,
                seconds=cost.seconds,
                memory_gib=cost.memory_gib,
            )


def _list_subjects(data: ReportData, section: Section, metric: Metric) -> list[_Subject]:
    """Return the tasks of a section, the macro average and, of a proportion, the micro average."""
    keys = tuple(section.keys)
    scores = [data.get_first_score(section, key) for key in keys]
    sizes = np.array([score["n"] for score in scores])
    chances = np.array([score["chance"] for score in scores])
    total = int(sizes.sum())
    subjects = [
        _Subject(task.name, Selection((key,), metric=metric), score["n"], score["chance"])
        for task, key, score in zip(section.tasks, keys, scores, strict=True)
    ]
    subjects.append(_Subject(MACRO_TASK, Selection(keys, metric=metric), total, float(chances.mean())))
    if metric.is_proportion:
        # tasks of one size have one average: the bootstrap need not draw it twice
        is_other = len(set(sizes)) > 1
        selection = Selection(keys, micro=is_other, metric=metric)
        subjects.append(_Subject(MICRO_TASK, selection, total, float(chances @ sizes / total)))
    return subjects


def _estimate_values(
    data: ReportData,
    cell: Cell,
    runs: Sequence[RunDescription],
    subjects: Sequence[_Subject],
    *,
    is_mean: bool,
) -> list[_Value]:
    """Return a proportion with its interval: that of the tables for the mean, over examples alone for one run."""
    estimates: dict[Selection, Estimate] = {}
    for selection in dict.fromkeys(subject.selection for subject in subjects):
        # with one run, too, a mean is the tables' own number
        if is_mean or data.has_one_seed:
            estimates[selection] = data.estimate(cell, selection)
        else:
            estimates[selection] = data.estimate_run(runs[0], selection)
    values = [estimates[subject.selection] for subject in subjects]
    return [
        _Value(value["estimate"], round(value["low"], DECIMALS), round(value["high"], DECIMALS))
        for value in values
    ]


def _average_values(
    data: ReportData, runs: Sequence[RunDescription], subjects: Sequence[_Subject]
) -> list[_Value]:
    """Return a metric without interval, mean over runs; an average is nan where a task's value is."""
    *tasks, _ = subjects
    means = [
        float(
            np.mean([data.get_run_values(task.selection.metric, run, task.selection.keys[0]) for run in runs])
        )
        for task in tasks
    ]
    return [_Value(mean) for mean in (*means, float(np.mean(means)))]


def _measure_cost(data: ReportData, runs: Sequence[RunDescription]) -> _Cost:
    adapters = [run.adapter for run in runs if run.adapter]
    if not adapters:
        return _Cost()
    # the number of parameters depends on model and method only
    parameters = read_json(adapters[0] / "manifest.json")["trainable_parameters"]
    if data.is_combined(adapters[0]):
        return _Cost(parameters)
    costs = [data.costs[adapter] for adapter in adapters]
    return _Cost(
        parameters,
        round(float(np.mean([cost["seconds"] for cost in costs])), 3),
        round(float(np.mean([cost["peak_memory_gib"] for cost in costs])), 4),
    )
