"""A small study for tests of the report's numbers, written by hand as files: a bare base, two methods, two seeds, two tasks."""

from pathlib import Path

from pipeline.core.io import write_json, write_jsonl
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.report.tables import Table
from pipeline.study.description import StudyDescription
from tests.descriptions import make_arm, make_method, make_model, make_run, make_study

SIZES = {"t": 12, "u": 4}
# r: right, w: wrong, x: unparsable, l: truncated; by run, task t then task u
MARKS = {
    ("bare", None): ("wwwwwwwwwwxl", "wwww"),
    ("lora", 0): ("rrrrrrrrrrrr", "rrww"),
    ("lora", 1): ("rrrrrrrrrrrr", "rwww"),
    ("series", 0): ("rrrrrrwwwwww", "rwww"),
    ("series", 1): ("rrrrrwwwwwww", "rwww"),
}
OUTCOME_OF_MARK = {"r": "right", "w": "wrong", "x": "unparsable", "l": "truncated"}


def make_items(task: str, marks: str) -> list[dict]:
    return [
        {
            "id": f"{task}/{n}",
            "gold": "7",
            "parsed": {"r": 7.0, "w": 8.0}.get(mark),
            "correct": mark == "r",
            "outcome": OUTCOME_OF_MARK[mark],
        }
        for n, mark in enumerate(marks)
    ]


def make_score(task: str, marks: str) -> dict:
    items = make_items(task, marks)
    outcomes = {outcome: sum(item["outcome"] == outcome for item in items) for outcome in OUTCOMES}
    return {
        "items": items,
        "n": len(marks),
        "accuracy": outcomes["right"] / len(marks),
        "unparsable": sum(item["parsed"] is None for item in items),
        "outcomes": outcomes,
        "chance": 0.25,
        "majority": 0.5,
        "answer_form": "number",
    }


def make_answered_study(folder: Path) -> StudyDescription:
    """Write the answers and scores of the study; return its description."""
    runs = []
    for (method, seed), marks in MARKS.items():
        answers, scores = folder / f"{method}{seed}", folder / f"{method}{seed}.json"
        answers.mkdir()
        write_json(answers / "run.json", {})
        marks_by_task = dict(zip(SIZES, marks, strict=True))
        tasks = {f"{task}-strict": make_score(task, marks) for task, marks in marks_by_task.items()}
        write_json(scores, {"tasks": tasks})
        for task, size in SIZES.items():
            rows = [
                {
                    "prompt": f"### Instruction:\n<b>{task}</b> {n}?\n\n### Response:\n",
                    "text": f"{method} {seed} {n}",
                }
                for n in range(size)
            ]
            write_jsonl(answers / f"{task}-strict.jsonl", rows)
        adapter = None if method == "bare" else answers
        trained = {"arm": None if method == "bare" else "a", "training_set": "math_10k", "adapter": adapter}
        runs.append(make_run("llama-7b", method, seed, answers=answers, scores=scores, **trained))
    return make_study(
        arms=[make_arm("a", "math_10k", {task: f"Task {task}" for task in SIZES})],
        models=[make_model("llama-7b", "LLaMA-7B")],
        methods=[make_method("lora", "LoRA"), make_method("series", "Series", as_card=False)],
        runs=runs,
        seed_variance="own",
    )


def list_rows(table: Table) -> list[dict]:
    """Return the rows of a table by column."""
    return table.frame.to_dict("records")


def list_correct(method: str, task: int) -> list[list[float]]:
    """Return which answers of a method to a task are right, for each seed."""
    return [[float(mark == "r") for mark in MARKS[method, seed][task]] for seed in (0, 1)]
