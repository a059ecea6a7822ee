"""What the scripts of the page read: accuracies with their costs, the choices of its filters, and where answers are."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from markupsafe import Markup

from pipeline.core.io import read_json
from pipeline.core.text import format_percent
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.report.data import Cell, ReportData, Section, list_sections
from pipeline.report.outcomes import list_task_outcomes
from pipeline.report.page.answers import list_answer_files
from pipeline.report.texts.tables import average_forgetting

# the costs that the figure offers, with the titles of their axes
COSTS = {
    "parameters": "trainable parameters",
    "seconds": "training time (s)",
    "memory": "peak memory (GiB)",
}
# a further cost of a study with passages, where it is measured for every method
FORGETTING = {"forgetting": "forgetting (nats per token)"}


class PlayBar(TypedDict):
    """A bar of outcomes.

    Attributes:
        task: the title by which it is chosen.
        parts: a model, a method and their answers by outcome, in the order of ``OUTCOMES``.
    """

    task: str
    parts: Sequence[tuple[str, str, Sequence[int]]]


class PlayPoint(TypedDict):
    """A method on a model in a section.

    Attributes:
        average: the macro average accuracy with the bounds of its interval, in percent.
        exact: the same average without the rounding of the tables, by which methods are compared.
        tasks: accuracies by the title of the task, in percent.
        seeds: the macro averages of single seeds, in percent.
        costs: by name (``COSTS`` and ``FORGETTING``), means over seeds.
    """

    section: str
    model: str
    method: str
    average: tuple[float, float, float]
    exact: float
    tasks: Mapping[str, float]
    seeds: Sequence[float]
    costs: dict[str, float]


def list_choices(data: ReportData) -> dict[str, list[str]]:
    """Return the titles of models, methods and tasks that a reader chooses from, without repetition."""
    methods = [title for model in data.study.models for title in data.method_titles(model.name).values()]
    return {
        "model": list(dict.fromkeys(model.title for model in data.study.models)),
        "method": list(dict.fromkeys(methods)),
        "task": list(dict.fromkeys(task.title for arm in data.study.arms for task in arm.tasks)),
    }


def list_points(data: ReportData) -> list[PlayPoint]:
    """Return the accuracy and the costs of each trained method, in each section; a combination has no cost of its own."""
    cells = [
        (section, model, method)
        for section in data.sections
        for model in data.study.models
        for method in data.methods_of(model.name)
        if any(
            run.adapter and not run.combined_sets
            for run in data.find_runs(model.name, method.name, section.arm.name)
        )
    ]
    points = [
        _describe_point(data, section, model.name, model.title, method.name, method.title)
        for section, model, method in cells
    ]
    forgotten = [
        average_forgetting(data, [Cell(model.name, method.name, section.arm.name)])
        for section, model, method in cells
    ]
    # a figure against a cost that some methods lack would name the wrong ones as best
    if all(value is not None and math.isfinite(value) for value in forgotten):
        for point, value in zip(points, forgotten, strict=True):
            point["costs"]["forgetting"] = round(float(value or 0), 4)
    return points


def _describe_point(
    data: ReportData, section: Section, model: str, model_title: str, method: str, method_title: str
) -> PlayPoint:
    cell = Cell(model, method, section.arm.name)
    adapters = [run.adapter for run in data.find_runs(*cell) if run.adapter]
    costs = [data.costs[adapter] for adapter in adapters]
    average = data.average_accuracy(cell, section.keys)
    return PlayPoint(
        section=section.name,
        model=model_title,
        method=method_title,
        # rounded as in the tables, which a browser would not do in all cases
        average=(
            float(format_percent(average["estimate"])),
            _percent(average["low"]),
            _percent(average["high"]),
        ),
        exact=round(100 * average["estimate"], 6),
        tasks={
            task.title: _percent(data.estimate_accuracy(cell, key)["estimate"])
            for task, key in zip(section.tasks, section.keys, strict=True)
        },
        seeds=[
            float(format_percent(value)) for value in data.list_seed_accuracies(cell, section.keys).values()
        ],
        costs={
            "parameters": read_json(Path(adapters[0]) / "manifest.json")["trainable_parameters"],
            "seconds": round(float(np.mean([cost["seconds"] for cost in costs])), 2),
            "memory": round(float(np.mean([cost["peak_memory_gib"] for cost in costs])), 4),
        },
    )


def list_bars(data: ReportData) -> list[PlayBar]:
    """Return the bars of outcomes, in the order of the page."""
    return [
        PlayBar(
            task=task.title,
            parts=[
                (model, method, [counts[outcome] for outcome in OUTCOMES])
                for (model, method), counts in task.parts.items()
            ],
        )
        for task in list_task_outcomes(data)
    ]


def _percent(share: float) -> float:
    return round(100 * share, 2)


def write_play_data(data: ReportData) -> Markup:
    """Return as JSON what the page's scripts read, safe inside of a script element."""
    # without the arm: several arms may have a task, and the title of a run names its own
    keys = {
        key: {"title": task.title, "protocol": section.protocol}
        for section in list_sections(data.study, data.study.protocols)
        for task, key in zip(section.tasks, section.keys, strict=True)
    }
    points = list_points(data)
    has_forgetting = any("forgetting" in point["costs"] for point in points)
    content = {
        "sections": {
            section.name: f"{section.arm.name}, protocol {section.protocol}" for section in data.sections
        },
        "costs": COSTS | (FORGETTING if has_forgetting else {}),
        "points": points,
        "tasks": keys,
        "outcomes": list(OUTCOMES),
        "bars": list_bars(data),
        "runs": list_answer_files(data),
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # the end of the element may stand in a title
    return Markup(text.replace("<", "\\u003c"))
