"""What the training sets hold of the tests, and the scores with and without it, from the same answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.core.io import read_json
from pipeline.evaluate import stats
from pipeline.report.tables import Data, Table, interval, place
from pipeline.study.description import ArmDescription

METHODS = {
    "exact": "equal letters and digits",
    "number-masked": "equal but for numbers",
    "8-gram": "at least half of their 8-grams of words",
    "stem": "equal before the options",
}
ANY = "any"
WIDTH = 400  # characters of a question that an example shows


def contamination_tables(data: Data) -> dict[str, Table]:
    """Every table of the contamination section, by file name; those that would be empty are left out."""
    audits = [read_json(path) for path in data.study.audits]
    made = {"contamination": matrix(data, audits)}
    for arm, protocol in data.parts:
        made[f"without-{arm.name}-{protocol}"] = without(data, arm, protocol)
    made |= {"contamination-examples": examples(audits), "repeats": repeats(audits), "shared": shared(audits)}
    return {name: table for name, table in made.items() if name == "contamination" or len(table.frame)}


def matrix(data: Data, audits: Sequence[Mapping[str, Any]]) -> Table:
    """How many test questions the training sets hold, by method."""
    asked = {(arm.training_set, task.name) for arm in data.study.arms for task in arm.tasks}
    rows = []
    for found in audits:
        for task in dict.fromkeys(task.name for arm in data.study.arms for task in arm.tasks):
            one = found["tests"][task]
            counts = {method: _share(one["methods"][method]["n"], one["n_test"]) for method in METHODS}
            hit = any(part["n"] for part in one["methods"].values())
            rows.append(
                {
                    "Training set": found["train"],
                    "Task": task,
                    "asked of it": "yes" if (found["train"], task) in asked else "no",
                    "n": str(one["n_test"]),
                    **counts,
                    "other answer": str(len(one["conflicts"])),
                    "": "contaminated" if hit else "",
                }
            )
    meaning = ", ".join(f"{method}: {how}" for method, how in METHODS.items())
    caption = (
        f"Test questions found in the training set ({meaning}); 'other answer': of the exact ones, those that the "
        "training set answers otherwise. 'asked of it': adapters trained on the set are asked the task."
    )
    for found in audits:
        if found["left_out"]:
            left = found["left_out"]
            caption += (
                f" {found['train']} was made without {len(left['rows'])} rows that hold questions of "
                f"{', '.join(left['tests'])} (method: {left['method']})."
            )
    return Table(caption, pd.DataFrame(rows))


def _share(n: int, of: int) -> str:
    return f"{n} ({100 * n / of:.1f} %)" if n else "0"


def found_ids(audit: Mapping[str, Any], task: str) -> dict[str, set[str]]:
    """The contaminated rows of a task by method, and by any of them."""
    ids = {method: set(audit["tests"][task]["methods"][method]["ids"]) for method in METHODS}
    return {**ids, ANY: set().union(*ids.values())}


def without(data: Data, arm: ArmDescription, protocol: str) -> Table:
    """Accuracy on all questions of the contaminated tasks, and on those that each method leaves."""
    audit = read_json(arm.audit)
    rows, places = [], []
    for task in arm.tasks:
        ids = found_ids(audit, task.name)
        if not ids[ANY]:
            continue
        for model in data.study.models:
            for method, title in data.methods:
                runs = data.runs(model.name, method, arm.name)
                key = f"{task.name}-{protocol}"
                items = [data.scores[run.scores]["tasks"][key]["items"] for run in runs]
                rows.append({"Model": model.title, "Method": title, "Task": task.title, **_cells(items, ids)})
                places.append(place(model.name, method, arm.name))
    caption = (
        f"Accuracy in percent with and without the test questions that {arm.training_set} holds, {arm.name}, "
        f"protocol {protocol}: the same answers, counted on all n questions and on those that are left when what a method "
        "finds is taken out; 95 % intervals as in the table of accuracies. n = 0: nothing is left, so there is no number."
    )
    return Table(caption, pd.DataFrame(rows), places)


def _cells(items: Sequence[Sequence[Mapping[str, Any]]], ids: Mapping[str, set[str]]) -> dict[str, str]:
    known: dict[frozenset[str], str] = {}
    cells = {}
    for name, out in {"all": set(), **ids}.items():
        if frozenset(out) not in known:
            known[frozenset(out)] = _cell(items, out)
        cells["All" if name == "all" else f"without {name}"] = known[frozenset(out)]
    return cells


def _cell(items: Sequence[Sequence[Mapping[str, Any]]], out: set[str]) -> str:
    left = [[float(item["correct"]) for item in one if item["id"] not in out] for one in items]
    if not left[0]:
        return "n = 0"
    return f"{interval(stats.estimate_accuracy(left))}, n = {len(left[0])}"


def examples(audits: Sequence[Mapping[str, Any]]) -> Table:
    """A few test questions, each beside the training question that gives it away."""
    rows = []
    for found in audits:
        for one in found["tests"].values():
            for pair in one["examples"]:
                rows.append(
                    {
                        "Found by": pair["method"],
                        "Test row": pair["id"],
                        "Test question": f"{_cut(pair['question'])} → {pair['answer']}",
                        "Training row": pair["train_id"],
                        "Training question": f"{_cut(pair['train_question'])} → {pair['train_answer']}",
                    }
                )
    caption = (
        "Test questions beside training questions, at most two for each pair of sets and method (only what no method before "
        "has found), with the gold answers. For 8-gram: the training question that is the first to hold most of the 8-grams."
    )
    return Table(caption, pd.DataFrame(rows))


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= WIDTH else f"{flat[:WIDTH]} …"


def repeats(audits: Sequence[Mapping[str, Any]]) -> Table:
    """What each set holds more than once."""
    sets = {f"{found['train']} (training)": found["repeats"]["train"] for found in audits}
    sets |= {test: one for found in audits for test, one in found["repeats"]["tests"].items()}
    rows = [
        {
            "Set": name,
            "n": str(one["n"]),
            "repeats": str(len(one["repeats"])),
            "with another answer": str(len(one["conflicts"])),
            "such rows": _first_pairs(one["conflicts"]),
        }
        for name, one in sets.items()
        if one["repeats"]
    ]
    caption = (
        "Rows whose question, by letters and digits, stood in the same set before, and those of them whose answer is "
        "another one (row and first row; the audit files list all). Sets without repeats are not listed."
    )
    return Table(caption, pd.DataFrame(rows))


def _first_pairs(pairs: Sequence[Sequence[str]]) -> str:
    told = [f"{one.rpartition('/')[2]} / {other.rpartition('/')[2]}" for one, other in pairs[:5]]
    return ", ".join(told) + (" …" if len(pairs) > 5 else "")


def shared(audits: Sequence[Mapping[str, Any]]) -> Table:
    """Which tests share questions."""
    pairs = {tuple(one["tests"]): one["n"] for found in audits for one in found["between"]}
    rows = [{"Test": one, "and test": other, "questions": str(n)} for (one, other), n in pairs.items()]
    return Table("Questions, by letters and digits, that two tests share.", pd.DataFrame(rows))
