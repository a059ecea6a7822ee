"""A study's results as tables; every number comes from a score, history, run or audit file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate import stats
from pipeline.evaluate.stats import Estimate
from pipeline.study.description import ArmDescription, RunDescription, StudyDescription

BARE = "bare"
MACRO = "Macro average"
MICRO = "Micro average"


@dataclass(frozen=True)
class Table:
    """A table for people: cells are finished text; ``caption`` says what n and the intervals are.

    ``cells`` has for each row the place in the list of runs where its numbers come from, "" for none.
    """

    caption: str
    frame: pd.DataFrame
    cells: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Data:
    """A study and what its runs left on disk."""

    study: StudyDescription
    scores: Mapping[Path, Any]
    costs: Mapping[Path, Any]
    _averages: dict[Any, Estimate] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, study: StudyDescription) -> "Data":
        """Read the score and run files of a study."""
        scores = {run.scores: read_json(run.scores) for run in study.runs}
        folders = [path for run in study.runs for path in (run.adapter, run.answers) if path]
        return cls(study, scores, {folder: read_json(folder / "run.json") for folder in folders})

    def runs(self, model: str, method: str, arm: str | None = None) -> list[RunDescription]:
        """The seeds of one cell; a bare base is in every arm."""
        return [
            run
            for run in self.study.runs
            if run.model == model and run.method == method and (method == BARE or arm in (None, run.arm))
        ]

    def correct(self, model: str, method: str, arm: str, key: str) -> list[list[float]]:
        """Right (1) or wrong (0), shape (seeds, examples); ``key`` is TASK-PROTOCOL."""
        items = [self.scores[run.scores]["tasks"][key]["items"] for run in self.runs(model, method, arm)]
        return [[float(item["correct"]) for item in one] for one in items]

    def average(
        self, model: str, method: str, arm: str, keys: Sequence[str], *, micro: bool = False
    ) -> Estimate:
        """The average accuracy over tasks with its interval, macro or micro; tables and figures share the draws."""
        name = model, method, arm, tuple(keys), micro
        if name not in self._averages:
            cells = [self.correct(model, method, arm, key) for key in keys]
            self._averages[name] = stats.estimate_mean_accuracy(cells, micro=micro)
        return self._averages[name]

    def task(self, model: str, method: str, arm: str, key: str) -> Any:
        """The first seed's score record, for what all seeds share."""
        return self.scores[self.runs(model, method, arm)[0].scores]["tasks"][key]

    @property
    def parts(self) -> list[tuple[ArmDescription, str]]:
        """The report's sections: each arm, with the tasks that are asked so, under each protocol of the headline tables."""
        return parts_of(self.study, self.study.headline)

    @property
    def methods(self) -> list[tuple[str, str]]:
        """(name, title) of the rows of a table, the bare base first where the study asks it."""
        bare = [(BARE, "no adapter")] if any(run.method == BARE for run in self.study.runs) else []
        return bare + [(method.name, method.title) for method in self.study.methods]


def parts_of(study: StudyDescription, protocols: Sequence[str]) -> list[tuple[ArmDescription, str]]:
    """Each arm under each of ``protocols`` that asks some of its tasks: (the arm with these tasks alone, protocol)."""
    parts = []
    for arm in study.arms:
        for protocol in protocols:
            tasks = [task for task in arm.tasks if protocol in task.protocols]
            if tasks:
                parts.append((replace(arm, tasks=tasks), protocol))
    return parts


def place(model: str, method: str, arm: str) -> str:
    """The place in the list of runs where a cell's seeds begin."""
    return f"runs-{model}-{method}" if method == BARE else f"runs-{model}-{method}-{arm}"


def percent(value: float) -> str:
    """A share as percent with one digit."""
    return f"{100 * value:.1f}"


def interval(found: Estimate) -> str:
    """An estimate with its interval, as percent."""
    return f"{percent(found['estimate'])} [{percent(found['low'])}, {percent(found['high'])}]"


def all_tables(data: Data) -> dict[str, Table]:
    """The tables of accuracies, costs and runs, by file name."""
    made = {f"accuracy-{arm.name}-{protocol}": accuracy(data, arm, protocol) for arm, protocol in data.parts}
    return {**made, "cost": cost(data), "runs": run_list(data)}


def accuracy(data: Data, arm: ArmDescription, protocol: str) -> Table:
    """Accuracy by model and method, a column a task, and their average."""
    keys = [f"{task.name}-{protocol}" for task in arm.tasks]
    marks = _contaminated(data, arm.training_set)
    titles = [task.title + marks.get(task.name, "") for task in arm.tasks]
    rows, places = [], []
    for model in data.study.models:
        for method, title in data.methods:
            cell = model.name, method, arm.name
            row = {"Model": model.title, "Method": title}
            for task, key in zip(titles, keys, strict=True):
                row[task] = interval(stats.estimate_accuracy(data.correct(*cell, key)))
            row[MACRO] = interval(data.average(*cell, keys))
            row[MICRO] = interval(data.average(*cell, keys, micro=True))
            rows.append(row)
            places.append(place(*cell))
    first = data.study.models[0].name, data.methods[0][0], arm.name
    scores = [data.task(*first, key) for key in keys]
    rows += [_reference(what, titles, scores) for what in ("chance", "majority")]
    sizes = ", ".join(f"{task.title} {score['n']}" for task, score in zip(arm.tasks, scores, strict=True))
    seeds = list(data.study.seeds)
    caption = (
        f"Accuracy in percent, {arm.name}, protocol {protocol}, trained on {arm.training_set}; mean over seeds "
        f"{', '.join(map(str, seeds))} with a 95 % interval: of one run, as a bare base's (no adapter), Wilson's, of several and "
        f"of averages a bootstrap over examples and seeds. Macro average: every task counts the same; micro average: every "
        f"example. Two seeds that differ tell little of how far others would, so their interval is wide. chance: a guess "
        f"among the choices (of numbers none: 0); majority class: always the commonest gold answer of these examples. "
        f"Examples: {sizes}."
    )
    if marks:
        words = zip(MARKS.values(), ("word for word", "but for their numbers", "in long parts"), strict=True)
        caption += " Test questions stand in the training set: "
        caption += ", ".join(f"{mark.strip()} {how}" for mark, how in words) + "."
    return Table(caption, pd.DataFrame(rows), [*places, "", ""])


def _reference(what: str, titles: Sequence[str], scores: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The row of a strategy that reads no question, from the scores of each task: "chance" or "majority"."""
    sizes = np.array([score["n"] for score in scores])
    values = np.array([score[what] for score in scores])
    row = {"Model": {"chance": "chance", "majority": "majority class"}[what], "Method": ""}
    row |= {title: percent(value) for title, value in zip(titles, values, strict=True)}
    return {**row, MACRO: percent(values.mean()), MICRO: percent(values @ sizes / sizes.sum())}


MARKS = {"exact": " †", "number-masked": " ‡", "8-gram": " §"}


def _contaminated(data: Data, training_set: str) -> dict[str, str]:
    """Return the mark of each task of which the training set holds questions, by the strongest method that finds any."""
    marks = {}
    for path in data.study.audits:
        found = read_json(path)
        if found["train"] == training_set:
            for task, one in found["tests"].items():
                hits = [mark for method, mark in MARKS.items() if one["methods"][method]["n"]]
                if hits:
                    marks[task] = hits[0]
    return marks


def cost(data: Data) -> Table:
    """What each method costs: parameters, training, memory, generation; means over seeds and arms."""
    rows, places = [], []
    for model in data.study.models:
        for method, title in data.methods:
            runs = data.runs(model.name, method)
            adapters = [run.adapter for run in runs if run.adapter]
            places.append(place(model.name, method, data.study.arms[0].name))
            answers = [data.costs[run.answers] for run in runs]
            row = {"Model": model.title, "Method": title}
            if method != BARE:
                trained = [data.costs[adapter] for adapter in adapters]
                manifest = read_json(adapters[0] / "manifest.json")
                count, every = manifest["trainable_parameters"], manifest["all_parameters"]
                row |= {
                    "Trainable parameters": f"{count:,}",
                    "of all (%)": f"{100 * count / every:.3f}",
                    "Training (s)": f"{np.mean([one['seconds'] for one in trained]):.1f}",
                    "Peak memory (GiB)": f"{np.mean([one['peak_memory_gib'] for one in trained]):.2f}",
                }
            rows.append({**row, "Generation (s)": f"{np.mean([one['seconds'] for one in answers]):.1f}"})
    caption = (
        "Cost of one run, mean over seeds and training sets, as measured on the machine that made it. Generation: of all "
        "tasks that a run is asked, a bare base those of every arm."
    )
    columns = [name for row in rows for name in row if name != "Generation (s)"]
    frame = pd.DataFrame(rows, columns=[*dict.fromkeys(columns), "Generation (s)"])
    return Table(caption, frame.fillna(""), places)


def run_list(data: Data) -> Table:
    """Every run with its files and the filter that finds it in MLflow."""
    rows = []
    for run in data.study.runs:
        rows.append(
            {
                "Model": run.model,
                "Method": run.method,
                "Training set": run.training_set or "",
                "Seed": "" if run.seed is None else str(run.seed),
                "Run": str(run.adapter or run.answers),
                "Answers": str(run.answers),
                "MLflow filter": f"tags.fingerprint = '{run.fingerprint}'",
            }
        )
    return Table(
        "Every run: its files, relative to the project, and the filter that finds it in MLflow.",
        pd.DataFrame(rows),
        [place(run.model, run.method, run.arm or "") for run in data.study.runs],
    )


def accuracy_rows(data: Data) -> pd.DataFrame:
    """One row a run and task: model, method, training_set, seed, task, accuracy."""
    rows = []
    for run in data.study.runs:
        for key, score in data.scores[run.scores]["tasks"].items():
            same = {name: getattr(run, name) for name in ("model", "method", "training_set", "seed")}
            rows.append({**same, "task": key, "accuracy": score["accuracy"]})
    return pd.DataFrame(rows).astype({"seed": "Int64"})  # a bare base has none


def setting_rows(data: Data) -> pd.DataFrame:
    """One row a point of the study's figure: where it stands, and the accuracy there in [0, 1] with its 95 % interval.

    Needs ``data.study.figure``. Rows keep the study's order of entries, which orders words on an axis.
    """
    rows: list[dict[str, Any]] = []
    points = data.study.figure.points if data.study.figure else []
    for arm, protocol in data.parts:
        keys = [f"{task.name}-{protocol}" for task in arm.tasks]
        for model in data.study.models:
            same = {"arm": arm.name, "protocol": protocol, "model": model.name}
            for point in points:
                where = {name: getattr(point, name) for name in ("line", "field", "setting", "method")}
                found = data.average(model.name, point.method, arm.name, keys)
                rows.append({**same, **where, **found})
    settings = pd.Series(
        [row["setting"] for row in rows], dtype=object
    )  # a rank stays 4 beside a rate of 0.1
    return pd.DataFrame(rows).assign(setting=settings)


def curve_rows(data: Data) -> pd.DataFrame:
    """One row a logged step of every training: model, method, training_set, seed, step, loss."""
    rows: list[dict[str, Any]] = []
    for run in data.study.runs:
        if run.adapter:
            same = {name: getattr(run, name) for name in ("model", "method", "training_set", "seed")}
            steps = read_jsonl(run.adapter / "history.jsonl")
            rows += [{**same, "step": one["step"], "loss": one["loss"]} for one in steps if "loss" in one]
    return pd.DataFrame(rows, columns=["model", "method", "training_set", "seed", "step", "loss"])


def metrics(data: Data) -> dict[str, Any]:
    """Accuracy as nested numbers for ``dvc metrics``: protocol, model, method, then tasks and arms' averages."""
    found: dict[str, Any] = {}
    for arm, protocol in parts_of(data.study, data.study.protocols):
        names = [task.name for task in arm.tasks]
        for model in data.study.models:
            for method, _ in data.methods:
                cell = model.name, method, arm.name
                each = [float(np.mean(data.correct(*cell, f"{name}-{protocol}"))) for name in names]
                told = {name: round(one, 6) for name, one in zip(names, each, strict=True)}
                told[f"average {arm.name}"] = round(float(np.mean(each)), 6)
                of_model = found.setdefault(protocol, {}).setdefault(model.name, {})
                of_model.setdefault(method, {}).update(told)
    return found


def write(table: Table, path: Path) -> None:
    """Write a table as CSV, Markdown and LaTeX."""
    path.parent.mkdir(exist_ok=True)
    columns = list(table.frame.columns)
    rows: Sequence[Sequence[str]] = table.frame.astype(str).values.tolist()
    table.frame.to_csv(path.with_suffix(".csv"), index=False)
    markdown = [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]
    path.with_suffix(".md").write_text("\n".join([table.caption, "", *markdown]) + "\n", encoding="utf-8")
    body = [" & ".join(_tex(str(cell)) for cell in row) + r" \\" for row in (columns, *rows)]
    lines = [
        f"% {table.caption}",
        rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
        r"\hline",
        body[0],
        r"\hline",
        *body[1:],
    ]
    path.with_suffix(".tex").write_text(
        "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n", encoding="utf-8"
    )


def _tex(text: str) -> str:
    for mark in "&%$#_{}":
        text = text.replace(mark, "\\" + mark)
    return text
