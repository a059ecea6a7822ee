"""A study's results as tables; every number comes from a score, history, run or audit file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import stats
from pipeline.io import read_json, read_jsonl

BARE = "bare"


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

    study: Mapping[str, Any]
    scores: Mapping[Path, Any]
    costs: Mapping[Path, Any]

    @classmethod
    def of(cls, study: Mapping[str, Any]) -> "Data":
        """Read the score and run files of a study."""
        scores = {run["scores"]: read_json(run["scores"]) for run in study["runs"]}
        folders = [run[key] for run in study["runs"] for key in ("adapter", "answers") if run[key]]
        return cls(study, scores, {folder: read_json(folder / "run.json") for folder in folders})

    def runs(self, model: str, method: str, arm: str | None = None) -> list[Mapping[str, Any]]:
        """The seeds of one cell; a bare base is in every arm."""
        return [
            run
            for run in self.study["runs"]
            if run["model"] == model
            and run["method"] == method
            and (method == BARE or arm in (None, run["arm"]))
        ]

    def correct(self, model: str, method: str, arm: str, key: str) -> list[list[float]]:
        """Right (1) or wrong (0), shape (seeds, examples); ``key`` is TASK-PROTOCOL."""
        items = [self.scores[run["scores"]]["tasks"][key]["items"] for run in self.runs(model, method, arm)]
        return [[float(item["correct"]) for item in one] for one in items]

    def task(self, model: str, method: str, arm: str, key: str) -> Any:
        """The first seed's score record, for what all seeds share."""
        return self.scores[self.runs(model, method, arm)[0]["scores"]]["tasks"][key]

    @property
    def methods(self) -> list[tuple[str, str]]:
        """(name, title) of the rows of a table, the bare base first where the study asks it."""
        bare = [(BARE, "no adapter")] if any(run["method"] == BARE for run in self.study["runs"]) else []
        return bare + [(method["name"], method["title"]) for method in self.study["methods"]]


def place(model: str, method: str, arm: str) -> str:
    """The place in the list of runs where a cell's seeds begin."""
    return f"runs-{model}-{method}" if method == BARE else f"runs-{model}-{method}-{arm}"


def percent(value: float) -> str:
    """A share as percent with one digit."""
    return f"{100 * value:.1f}"


def interval(found: Mapping[str, float]) -> str:
    """An estimate with its interval, as percent."""
    return f"{percent(found['estimate'])} [{percent(found['low'])}, {percent(found['high'])}]"


def all_tables(data: Data) -> dict[str, Table]:
    """Every table of the report but those of the contamination, by file name."""
    made: dict[str, Table] = {}
    for arm in data.study["arms"]:
        for protocol in data.study["protocols"]:
            made[f"accuracy-{arm['name']}-{protocol}"] = accuracy(data, arm, protocol)
            if any(run["method"] == BARE for run in data.study["runs"]):
                made[f"difference-{arm['name']}-{protocol}"] = difference(data, arm, protocol)
    made["cost"] = cost(data)
    made["unparsable"] = unparsable(data)
    made["runs"] = run_list(data)
    return made


def accuracy(data: Data, arm: Mapping[str, Any], protocol: str) -> Table:
    """Accuracy by model and method, a column a task, and their average."""
    keys = [f"{task['name']}-{protocol}" for task in arm["tasks"]]
    marks = _contaminated(data, arm["training_set"])
    titles = [task["title"] + marks.get(task["name"], "") for task in arm["tasks"]]
    rows, places = [], []
    for model in data.study["models"]:
        for method, title in data.methods:
            cells = [data.correct(model["name"], method, arm["name"], key) for key in keys]
            row = {"Model": model["title"], "Method": title}
            for task, cell in zip(titles, cells, strict=True):
                row[task] = interval(stats.accuracy(cell))
            rows.append({**row, "Average": interval(stats.mean_accuracy(cells))})
            places.append(place(model["name"], method, arm["name"]))
    first = data.study["models"][0]["name"], data.methods[0][0], arm["name"]
    chance = {
        title: percent(data.task(*first, key)["chance"]) for title, key in zip(titles, keys, strict=True)
    }
    rows.append({"Model": "chance", "Method": "", **chance, "Average": ""})
    sizes = ", ".join(
        f"{task['title']} {data.task(*first, key)['n']}" for task, key in zip(arm["tasks"], keys, strict=True)
    )
    caption = (
        f"Accuracy in percent, {arm['name']}, protocol {protocol}, trained on {arm['training_set']}; mean over seeds "
        f"{list(data.study['seeds'])} with a 95 % bootstrap interval over examples and seeds. Examples: {sizes}."
    )
    if marks:
        words = zip(MARKS.values(), ("word for word", "but for their numbers", "in long parts"), strict=True)
        caption += " Test questions stand in the training set: "
        caption += ", ".join(f"{mark.strip()} {how}" for mark, how in words) + "."
    return Table(caption, pd.DataFrame(rows), [*places, ""])


MARKS = {"exact": " †", "number-masked": " ‡", "8-gram": " §"}


def _contaminated(data: Data, training_set: str) -> dict[str, str]:
    """Return the mark of each task of which the training set holds questions, by the strongest method that finds any."""
    marks = {}
    for path in data.study["audits"]:
        found = read_json(path)
        if found["train"] == training_set:
            for task, one in found["tests"].items():
                hits = [mark for method, mark in MARKS.items() if one["methods"][method]["n"]]
                if hits:
                    marks[task] = hits[0]
    return marks


def difference(data: Data, arm: Mapping[str, Any], protocol: str) -> Table:
    """Accuracy of each method less that of the bare base, on the same examples."""
    keys = [f"{task['name']}-{protocol}" for task in arm["tasks"]]
    rows, found, places = [], [], []
    for model in data.study["models"]:
        bare = [data.correct(model["name"], BARE, arm["name"], key) for key in keys]
        for method in data.study["methods"]:
            cells = [data.correct(model["name"], method["name"], arm["name"], key) for key in keys]
            row: dict[str, Any] = {"Model": model["title"], "Method": method["title"]}
            pairs = [([cell], [base]) for cell, base in zip(cells, bare, strict=True)] + [(cells, bare)]
            for name, (one, other) in zip(
                [*(t["title"] for t in arm["tasks"]), "Average"], pairs, strict=True
            ):
                row[name] = stats.mean_difference(list(zip(one, other, strict=True)))
                found.append(row[name])
            rows.append(row)
            places.append(place(model["name"], method["name"], arm["name"]))
    adjusted = iter(stats.holm([one["p_value"] for one in found]))
    for row in rows:
        for name in list(row)[2:]:
            one = row[name]
            mark = "*" if next(adjusted) < 0.05 else ""
            low, high = 100 * one["low"], 100 * one["high"]
            row[name] = f"{100 * one['estimate']:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"
    caption = (
        f"Difference to the bare base in points, {arm['name']}, protocol {protocol}: paired on examples, 95 % bootstrap "
        f"interval over examples and seeds; * p < 0.05 after Holm's correction over the table."
    )
    return Table(caption, pd.DataFrame(rows), places)


def cost(data: Data) -> Table:
    """What each method costs: parameters, training, memory, generation; means over seeds and arms."""
    rows, places = [], []
    for model in data.study["models"]:
        for method, title in data.methods:
            runs = data.runs(model["name"], method)
            places.append(place(model["name"], method, data.study["arms"][0]["name"]))
            answers = [data.costs[run["answers"]] for run in runs]
            row = {"Model": model["title"], "Method": title}
            if method != BARE:
                trained = [data.costs[run["adapter"]] for run in runs]
                manifest = read_json(runs[0]["adapter"] / "manifest.json")
                count, every = manifest["trainable_parameters"], manifest["all_parameters"]
                row |= {
                    "Trainable parameters": f"{count:,}",
                    "of all (%)": f"{100 * count / every:.3f}",
                    "Training (s)": f"{np.mean([one['seconds'] for one in trained]):.1f}",
                    "Peak memory (GiB)": f"{np.mean([one['peak_memory_gib'] for one in trained]):.2f}",
                }
            rows.append({**row, "Generation (s)": f"{np.mean([one['seconds'] for one in answers]):.1f}"})
    caption = "Cost of one run, mean over seeds and training sets, as measured on the machine that made it."
    return Table(caption, pd.DataFrame(rows).fillna(""), places)


def unparsable(data: Data) -> Table:
    """Answers that the protocol's parser could not read, all seeds together."""
    rows, places = [], []
    for model in data.study["models"]:
        for method, title in data.methods:
            for protocol in data.study["protocols"]:
                row: dict[str, Any] = {"Model": model["title"], "Method": title, "Protocol": protocol}
                for arm in data.study["arms"]:
                    for task in arm["tasks"]:
                        runs = data.runs(model["name"], method, arm["name"])
                        one = [
                            data.scores[run["scores"]]["tasks"][f"{task['name']}-{protocol}"] for run in runs
                        ]
                        row[task["title"]] = f"{sum(s['unparsable'] for s in one)}/{sum(s['n'] for s in one)}"
                rows.append(row)
                places.append(place(model["name"], method, data.study["arms"][0]["name"]))
    caption = "Answers without a readable result, of all answers; each counts as wrong."
    return Table(caption, pd.DataFrame(rows), places)


def run_list(data: Data) -> Table:
    """Every run with its files and the filter that finds it in MLflow."""
    rows = []
    for run in data.study["runs"]:
        rows.append(
            {
                "Model": run["model"],
                "Method": run["method"],
                "Training set": run["training_set"] or "",
                "Seed": "" if run["seed"] is None else str(run["seed"]),
                "Run": str(run["adapter"] or run["answers"]),
                "Answers": str(run["answers"]),
                "MLflow filter": f"tags.fingerprint = '{run['fingerprint']}'",
            }
        )
    return Table(
        "Every run: its files, relative to the project, and the filter that finds it in MLflow.",
        pd.DataFrame(rows),
        [place(run["model"], run["method"], run["arm"]) for run in data.study["runs"]],
    )


def accuracy_rows(data: Data) -> pd.DataFrame:
    """One row a run and task: model, method, training_set, seed, task, accuracy."""
    rows = []
    for run in data.study["runs"]:
        for key, score in data.scores[run["scores"]]["tasks"].items():
            same = {name: run[name] for name in ("model", "method", "training_set", "seed")}
            rows.append({**same, "task": key, "accuracy": score["accuracy"]})
    return pd.DataFrame(rows)


def setting_rows(data: Data) -> pd.DataFrame:
    """One row a point of the study's figure: where it stands, and the accuracy there in [0, 1] with its 95 % interval.

    Needs ``data.study["figure"]``. Rows keep the study's order of entries, which orders words on an axis.
    """
    rows = []
    for arm in data.study["arms"]:
        for protocol in data.study["protocols"]:
            keys = [f"{task['name']}-{protocol}" for task in arm["tasks"]]
            for model in data.study["models"]:
                same = {"arm": arm["name"], "protocol": protocol, "model": model["name"]}
                for point in data.study["figure"]["points"]:
                    where = {name: point[name] for name in ("line", "field", "setting", "method")}
                    cells = [data.correct(model["name"], point["method"], arm["name"], key) for key in keys]
                    rows.append({**same, **where, **stats.mean_accuracy(cells)})
    settings = pd.Series(
        [row["setting"] for row in rows], dtype=object
    )  # a rank stays 4 beside a rate of 0.1
    return pd.DataFrame(rows).assign(setting=settings)


def curve_rows(data: Data) -> pd.DataFrame:
    """One row a logged step of every training: model, method, training_set, seed, step, loss."""
    rows: list[dict[str, Any]] = []
    for run in data.study["runs"]:
        if run["adapter"]:
            same = {name: run[name] for name in ("model", "method", "training_set", "seed")}
            steps = read_jsonl(run["adapter"] / "history.jsonl")
            rows += [{**same, "step": one["step"], "loss": one["loss"]} for one in steps if "loss" in one]
    return pd.DataFrame(rows, columns=["model", "method", "training_set", "seed", "step", "loss"])


def metrics(data: Data) -> dict[str, Any]:
    """Accuracy as nested numbers for ``dvc metrics``: protocol, model, method, then tasks and arms' averages."""
    found: dict[str, Any] = {}
    for protocol in data.study["protocols"]:
        for model in data.study["models"]:
            for method, _ in data.methods:
                cell: dict[str, float] = {}
                for arm in data.study["arms"]:
                    keys = [f"{task['name']}-{protocol}" for task in arm["tasks"]]
                    each = [
                        float(np.mean(data.correct(model["name"], method, arm["name"], key))) for key in keys
                    ]
                    cell |= {
                        task["name"]: round(one, 6) for task, one in zip(arm["tasks"], each, strict=True)
                    }
                    cell[f"average {arm['name']}"] = round(float(np.mean(each)), 6)
                found.setdefault(protocol, {}).setdefault(model["name"], {})[method] = cell
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
