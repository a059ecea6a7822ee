"""Metrics other than accuracy: their tables and their numbers in metrics.json."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.io import write_json, write_jsonl
from pipeline.params.reading import read_card
from pipeline.report.accuracy import build_metric_tables, collect_metrics
from pipeline.report.data import ReportData, read_report_data
from pipeline.report.outcomes import build_outcome_tables
from pipeline.study import load_study
from pipeline.study.description.describe import describe_report, describe_study
from tests.descriptions import make_arm, make_method, make_model, make_run, make_study


def write_task(
    answers: Path, key: str, correct: list[bool], loglikelihoods: list[float | None], *, majority: float = 0.5
) -> dict:
    """Write the answers of a task, all with these log-likelihoods; return its score."""
    write_jsonl(
        answers / f"{key}.jsonl",
        [{"choices": ["A", "B"], "loglikelihoods": loglikelihoods} for _ in correct],
    )
    items = [{"correct": right, "gold": "A" if right else "B", "parsed": "A"} for right in correct]
    score = {"headline": "raw"} if loglikelihoods else {}
    accuracy = sum(correct) / len(correct)
    score |= {"items": items, "n": len(items), "accuracy": accuracy, "answer_form": "letter"}
    return {**score, "majority": majority}


def make_data(folder: Path, loglikelihoods: list[float | None], *, majority: float = 0.5) -> ReportData:
    """A study of two seeds and two tasks; without log-likelihoods the answers are texts.

    ``majority`` is the share of the commonest label of task t.
    """
    runs = []
    for seed in (0, 1):
        answers = folder / f"answers{seed}"
        answers.mkdir()
        write_json(answers / "run.json", {})
        tasks = {
            "t-strict": write_task(
                answers,
                "t-strict",
                [True] * (2 + seed) + [False] * (2 - seed),
                loglikelihoods,
                majority=majority,
            ),
            "u-strict": write_task(answers, "u-strict", [True] * 4, loglikelihoods),
        }
        write_json(folder / f"scores{seed}.json", {"tasks": tasks})
        runs.append(
            make_run("m", "lora", seed, answers=answers, scores=folder / f"scores{seed}.json", arm="a")
        )
    return read_report_data(
        make_study(
            arms=[make_arm("a", "data", {"t": "Task t", "u": "Task u"})],
            models=[make_model("m", "Model")],
            methods=[make_method("lora", "LoRA")],
            runs=runs,
        )
    )


def test_calibration_is_shown_where_there_are_likelihoods(tmp_path):
    data = make_data(tmp_path, [math.log(0.75), math.log(0.25)])
    tables = build_metric_tables(data)
    assert list(tables) == ["ece-a-strict", "brier-a-strict", "coverage80-a-strict"]
    name = "ece-a-strict"
    # confidence 0.75 everywhere; accuracies 0.5 and 0.75 of task t by seed, 1 of task u
    assert tables[name].frame.iloc[0].tolist() == ["Model", "LoRA", "18.8", "12.5", "25.0"]
    assert "lower is better" in tables[name].caption
    metrics = collect_metrics(data)
    assert list(metrics) == ["strict", "strict ece", "strict brier", "strict coverage80"]
    assert metrics["strict"]["m"]["lora"] == {"t": 0.625, "u": 1.0, "average a": 0.8125}
    assert metrics["strict ece"]["m"]["lora"] == pytest.approx({"t": 0.125, "u": 0.25, "average a": 0.1875})


def test_answers_in_text_have_accuracy_only(tmp_path):
    data = make_data(tmp_path, [])
    assert build_metric_tables(data) == {}
    assert list(collect_metrics(data)) == ["strict"]


def test_macro_f1_is_shown_where_classes_are_unequal(tmp_path):
    data = make_data(tmp_path, [], majority=0.75)
    (name,) = tables = build_metric_tables(data)
    assert name == "f1-a-strict"
    # always A: of A 2 * 2 / (2 + 4) and 2 * 3 / (3 + 4) by seed, of B 0
    t = (4 / 6 + 6 / 7) / 4
    # task u has one class, so it has no column, and a single task no average
    assert tables[name].frame.iloc[0].to_dict() == {
        "Model": "Model",
        "Method": "LoRA",
        "Task t": f"{100 * t:.1f}",
    }
    assert collect_metrics(data)["strict f1"]["m"]["lora"] == {"t": round(t, 6)}


def test_an_undefined_metric_has_no_number(tmp_path):
    data = make_data(tmp_path, [None, -1.0])
    assert build_metric_tables(data)["ece-a-strict"].frame.iloc[0].tolist()[2:] == ["n/a"] * 3
    assert collect_metrics(data)["strict ece"]["m"]["lora"] == {}


def test_the_normalisations_of_likelihoods_stand_side_by_side_with_the_tasks_own(tmp_path):
    choices = [("A", "A", "B"), ("A", "B", "B"), ("B", "A", "B"), ("B", "A", "A")]
    items = [
        {"id": f"t/{n}", "gold": "A", "parsed": raw, "correct": raw == "A", "outcome": "right"}
        | {"raw": raw, "normalised": characters, "by_bytes": by_bytes}
        for n, (raw, characters, by_bytes) in enumerate(choices)
    ]
    outcomes = dict.fromkeys(("right", "wrong", "unparsable", "truncated", "empty"), 0)
    score = {"items": items, "n": 4, "headline": "raw", "outcomes": outcomes | {"right": 4}}
    write_json(tmp_path / "scores.json", {"tasks": {"t-strict": score}})
    write_json(tmp_path / "run.json", {})
    write_jsonl(tmp_path / "t-strict.jsonl", [{"prompt": "p", "text": "x"} for _ in items])
    arm = make_arm("a", "data", {"t": "Task t"})
    arm = replace(arm, tasks=[replace(arm.tasks[0], normalisation="pmi")])
    study = make_study(
        arms=[arm],
        models=[make_model("m", "Model")],
        methods=[make_method("lora", "LoRA")],
        runs=[make_run("m", "lora", 0, answers=tmp_path, scores=tmp_path / "scores.json", arm="a")],
        seeds=[0],
        protocol_cards={"strict": read_card("protocols", "likelihood")},
    )
    (row,) = build_outcome_tables(read_report_data(study))["normalisations"].frame.to_dict("records")
    shares = [row[name].split()[0] for name in ("raw", "characters", "bytes")]
    assert shares == ["50.0", "75.0", "25.0"]
    assert row["the task's own"] == "pmi"


def test_a_cards_normalisation_is_in_the_identity_of_reports_that_show_it():
    shown = describe_report(load_study("quickstart-protocols"))
    assert all("normalisation" not in task for arm in shown["arms"] for task in arm["tasks"])
    study = load_study("paper-commonsense")
    assert "likelihood" not in {card["parser"] for card in describe_report(study)["protocol_cards"].values()}
    described = describe_report(study)["arms"][0]["tasks"]
    assert {task.normalisation for arm in describe_study(study).arms for task in arm.tasks} >= {"pmi", "raw"}
    assert all("normalisation" not in task for task in described)
