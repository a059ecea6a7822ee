"""The tables of tuning: what was chosen, the validation score beside the test score, and the expected best of fewer trials."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from pipeline.core.text import format_percent
from pipeline.params.tuning.candidates import describe_values
from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.tables import Table
from pipeline.study.description import ModelDescription, TuningDescription
from pipeline.study.tuning.choice import ChoiceFile, read_choice

DIVERGED = "diverged"


@dataclass(frozen=True)
class CellTuning:
    """The choice between the trials of a model, method and arm.

    Attributes:
        model: its title.
        method: its title.
        cell: of their names.
        choice: the content of the choice's file.
    """

    model: str
    method: str
    cell: Cell
    choice: ChoiceFile

    def best_of(self, trials: int) -> float:
        """Return the expected best validation score of a number of trials; infinite if they may all have diverged."""
        value = self.choice["best_of"][trials - 1]
        worst = math.inf if self.choice["rule"] == "loss" else -math.inf
        return worst if value is None else value


def list_tuning(data: ReportData) -> list[CellTuning]:
    """Return the choices of a study in the order of its tables."""
    if data.study.tuning is None:
        return []
    paths = {(choice.model, choice.method, choice.arm): choice.path for choice in data.study.tuning.choices}
    return [
        CellTuning(model.title, method.title, cell, choice)
        for model in data.study.models
        for method in data.methods_of(model.name)
        for arm in data.study.arms
        # a combination is not tuned
        if (path := paths.get(cell := Cell(model.name, method.name, arm.name)))
        and (choice := read_choice(path))
    ]


def build_tuning_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of choices and of trials, by file name; empty for a study that tunes nothing."""
    tuning, cells = data.study.tuning, list_tuning(data)
    if tuning is None or not cells:
        return {}
    sizes = list_sizes(tuning.trials)
    anchors = [cell.cell.anchor for cell in cells]
    choices = pd.DataFrame([_format_choice(data, tuning, cells, cell, sizes) for cell in cells])
    rows, trial_anchors = [], []
    for cell in cells:
        for number, trial in enumerate(cell.choice["trials"], start=1):
            rows.append(
                {
                    "Model": cell.model,
                    "Method": cell.method,
                    "Arm": cell.cell.arm,
                    "Trial": str(number),
                    "Settings": describe_values(trial["values"]),
                    name_score(tuning): _format_score(tuning, trial["score"]),
                    "Chosen": "✓" if trial["values"] == cell.choice["values"] else "",
                }
            )
            trial_anchors.append(cell.cell.anchor)
    return {
        "tuning": Table(
            " ".join([_caption(tuning), *list_conclusions(data, cells), *list_edges(cells)]),
            choices.fillna(""),
            anchors,
        ),
        "trials": Table(
            "Every trial with its settings and its validation score.", pd.DataFrame(rows), trial_anchors
        ),
    }


def list_sizes(trials: int) -> list[int]:
    """Return the numbers of trials that the table has columns for: 1, 2, 4, ... and all."""
    return [size for power in range(trials.bit_length()) if (size := 1 << power) < trials] + [trials]


def name_score(tuning: TuningDescription) -> str:
    """Return the name of a trial's score."""
    return "Validation loss" if tuning.rule == "loss" else "Validation accuracy (%)"


def list_best_of(data: ReportData) -> pd.DataFrame:
    """Return a row for each choice and number of trials: model, method, arm, rule, trials, best; None where it is not finite."""
    columns = ["model", "method", "arm", "rule", "trials", "best"]
    rows = [
        (*cell.cell, cell.choice["rule"], number, best)
        for cell in list_tuning(data)
        for number, best in enumerate(cell.choice["best_of"], start=1)
    ]
    return pd.DataFrame(rows, columns=columns)


def list_conclusions(data: ReportData, cells: Sequence[CellTuning]) -> Iterator[str]:
    """Yield the method with the best validation score after one trial and after all: a sentence for each outcome.

    A sentence names the models and arms that have its outcome.
    """
    tuning = data.study.tuning
    if tuning is None or len(data.study.methods) < 2:
        return
    places: dict[tuple[str, str], list[str]] = {}
    for model in data.study.models:
        for arm in data.study.arms:
            group = _select_cells(cells, model, arm.name)
            # a model may have no method of its own
            if group:
                outcome = _find_best(group, 1), _find_best(group, tuning.trials)
                places.setdefault(outcome, []).append(f"{model.title}, {arm.name}")
    count = sum(map(len, places.values()))
    for (first, last), names in places.items():
        place = "Every model and arm" if len(names) == count > 1 else "; ".join(names)
        if first == last:
            yield f"{place}: {last} has the best score with 1 trial and with {tuning.trials}."
        else:
            yield f"{place}: with 1 trial {first} would have had the best score, with {tuning.trials} it is {last}."


def list_edges(cells: Sequence[CellTuning]) -> Iterator[str]:
    """Yield a warning if a chosen value is the lowest or the highest of the values that its trials tried."""
    count = sum(bool(_find_ends(cell)) for cell in cells)
    if count:
        verb = "is" if count == 1 else "are"
        yield (
            f"{count} of {len(cells)} choices {verb} the lowest or the highest value tried (column Chosen): a better value may lie "
            "beyond it."
        )


def _find_ends(cell: CellTuning) -> dict[str, str]:
    """Return the fields whose chosen value is at an end of the values that the trials tried: "lowest" or "highest"."""
    ends = {}
    for field, value in cell.choice["values"].items():
        tried = [trial["values"][field] for trial in cell.choice["trials"]]
        if not isinstance(value, str) and len(set(tried)) > 1 and value in (min(tried), max(tried)):
            ends[field] = "lowest" if value == min(tried) else "highest"
    return ends


def _describe_choice(cell: CellTuning) -> str:
    """Return the chosen values as in "learning_rate 0.1 (lowest)"."""
    ends = _find_ends(cell)
    return ", ".join(
        describe_values({field: value}) + (f" ({ends[field]})" if field in ends else "")
        for field, value in cell.choice["values"].items()
    )


def _select_cells(cells: Sequence[CellTuning], model: ModelDescription, arm: str) -> list[CellTuning]:
    return [cell for cell in cells if (cell.cell.model, cell.cell.arm) == (model.name, arm)]


def _find_best(cells: Sequence[CellTuning], trials: int) -> str:
    lower = cells[0].choice["rule"] == "loss"
    return (min if lower else max)(cells, key=lambda cell: cell.best_of(trials)).method


def _format_choice(
    data: ReportData,
    tuning: TuningDescription,
    cells: Sequence[CellTuning],
    cell: CellTuning,
    sizes: Sequence[int],
) -> dict[str, str]:
    model = next(model for model in data.study.models if model.name == cell.cell.model)
    group = _select_cells(cells, model, cell.cell.arm)
    row = {
        "Model": cell.model,
        "Method": cell.method,
        "Arm": cell.cell.arm,
        "Chosen": _describe_choice(cell),
    }
    for size in sizes:
        best = cell.best_of(size)
        row[f"{name_score(tuning)}, best of {size}"] = _format_score(
            tuning, best if math.isfinite(best) else None
        )
    for size in (1, tuning.trials):
        row[f"Rank, {size} trial{'s' if size > 1 else ''}"] = str(_rank(group, cell, size))
    for section in _sections_of(data, cell.cell.arm):
        accuracies = data.list_seed_accuracies(cell.cell, section.keys).values()
        row[f"Test accuracy (%), {section.protocol}"] = format_percent(fmean(accuracies))
    return row


def _sections_of(data: ReportData, arm: str) -> list[Section]:
    return [section for section in data.sections if section.arm.name == arm]


def _rank(cells: Sequence[CellTuning], cell: CellTuning, trials: int) -> int:
    own, lower = cell.best_of(trials), cell.choice["rule"] == "loss"
    others = [other.best_of(trials) for other in cells]
    return 1 + sum(other < own if lower else other > own for other in others)


def _format_score(tuning: TuningDescription, score: float | None) -> str:
    if score is None:
        return DIVERGED
    return f"{score:.4f}" if tuning.rule == "loss" else format_percent(score)


def _caption(tuning: TuningDescription) -> str:
    measure = "lowest loss" if tuning.rule == "loss" else "highest mean accuracy"
    return (
        f"What {tuning.trials} trials of each model, method and arm chose: the {measure} on {tuning.validation}, after "
        f"{tuning.max_steps} steps, seed {tuning.seed}. Best of k: the expected best score of k of these trials, drawn at random. "
        "Ranks are of the methods of a model and arm. Test accuracy: macro average of the study's own runs, mean over seeds; no "
        "trial saw a test item."
    )
