"""A finished study for tests of the report: its results as files, and its description."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.io import write_jsonl
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.study.description import FigureDescription, PointDescription, StudyDescription
from tests.descriptions import make_arm, make_method, make_model, make_run, make_study


def write_file(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_item(number: int, right: int, *, parsable: bool) -> dict:
    """Return a scored item; the first ``right`` items are right."""
    outcome = "right" if number < right else "wrong" if parsable else "unparsable"
    parsed = {"right": "true", "wrong": "false", "unparsable": None}[outcome]
    return {
        "id": f"t/{number}",
        "correct": number < right,
        "outcome": outcome,
        "parsed": parsed,
        "gold": "true",
    }


TITLES = {"m": "LLaMA", "n": "BLOOM"}
# model, method, seed and the number of right answers
SMALL_STUDY = (
    ("m", "bare", None, 1),
    ("m", "lora", 0, 4),
    ("m", "lora", 1, 3),
    ("m", "series", 0, 2),
    ("m", "series", 1, 3),
)


def make_small_study(
    folder: Path, results: Sequence[tuple[str, str, int | None, int]] = SMALL_STUDY, *, size: int = 5
) -> StudyDescription:
    """Write the results of a study with two methods, by default of one model and two seeds; return its description.

    Args:
        folder: where the files are written.
        results: for each run its model, method, seed and number of right answers.
        size: number of examples of the task.
    """
    runs = []
    for model, method, seed, right in results:
        adapter = folder / f"results/adapters/{model}-{method}{seed}" if method != "bare" else None
        answers = folder / f"results/answers/{model}-{method}{seed}"
        scores = folder / f"scores/{model}-{method}{seed}.json"
        write_file(answers / "run.json", {"seconds": 2.0})
        if adapter:
            write_file(adapter / "run.json", {"seconds": 5.0, "peak_memory_gib": 0.5})
            write_file(adapter / "manifest.json", {"trainable_parameters": 1000, "all_parameters": 100000})
            (adapter / "history.jsonl").write_text(
                "".join(json.dumps({"step": s, "loss": 1 / s}) + "\n" for s in (1, 2, 3))
            )
        items = [make_item(n, right, parsable=n < 4) for n in range(size)]
        outcomes = {outcome: sum(item["outcome"] == outcome for item in items) for outcome in OUTCOMES}
        task = {"items": items, "n": size, "accuracy": right / size, "outcomes": outcomes, "chance": 0.5}
        write_file(scores, {"tasks": {"t-strict": {**task, "majority": 0.6, "answer_form": "number"}}})
        rows = [
            {"prompt": f"### Instruction:\nIs <b>{n}</b> so?\n\n### Response:\n", "text": f"<i>{n}</i>"}
            for n in range(size)
        ]
        write_jsonl(answers / "t-strict.jsonl", rows)
        trained = {"arm": "arithmetic", "training_set": "s", "adapter": adapter} if adapter else {}
        runs.append(make_run(model, method, seed, answers=answers, scores=scores, **trained))
    audit = folder / "audit.json"
    methods = {name: {"n": 0, "ids": [], "train_ids": []} for name in ("number-masked", "8-gram", "stem")}
    methods["exact"] = {"n": 1, "ids": ["t/0"], "train_ids": ["s/0"]}
    tests = {"t": {"n_test": size, "methods": methods, "conflicts": [], "examples": []}}
    repeats = {"train": {"n": 9, "repeats": [], "conflicts": []}, "tests": {}}
    write_file(audit, {"train": "s", "left_out": None, "tests": tests, "repeats": repeats, "between": []})
    return make_study(
        seeds=sorted({row[2] for row in results if row[2] is not None}),
        arms=[make_arm("arithmetic", "s", {"t": "Task"}, audit=audit)],
        models=[
            make_model(name, title) for name, title in TITLES.items() if name in {row[0] for row in results}
        ],
        methods=[make_method("lora", "LoRA"), make_method("series", "Series")],
        runs=runs,
        audits=[audit],
    )


def make_varied_study(folder: Path) -> StudyDescription:
    """Return the small study with its methods as two ranks of the same line."""
    points = [
        PointDescription(method="series", card="lora", line="LoRA", field="r", setting=2),
        PointDescription(method="lora", card="lora", line="LoRA", field="r", setting=4),
    ]
    figure = FigureDescription("Accuracy against the rank", {"r": "rank"}, points)
    return replace(make_small_study(folder), figure=figure)
