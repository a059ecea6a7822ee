"""The report of a study with a teacher: yields by source, and the difference that filtering makes."""

from dataclasses import replace
from typing import get_args

import pytest

from pipeline.core.io import write_json
from pipeline.evaluate.distillation.rows import Fate
from pipeline.evaluate.scoring.rows import Outcome
from pipeline.report.data import read_report_data
from pipeline.report.distillation import build_distillation_tables, collect_yields
from pipeline.study.distillation.description import DistilledDescription
from tests.descriptions import make_arm
from tests.finished_study import make_small_study


def source_yield(answers, right, rows):
    return {
        "questions": answers // 2,
        "answers": answers,
        "tokens": 9 * answers,
        "outcomes": dict.fromkeys(get_args(Outcome), 0) | {"right": right, "wrong": answers - right},
        "fates": dict.fromkeys(get_args(Fate), 0) | {"row": rows, "wrong": answers - rows},
        "questions_with_rows": rows,
    }


def describe(folder, filter, rows):
    path = folder / filter
    path.mkdir()
    sources = {"gsm8k": source_yield(40, 10, rows), "aqua": source_yield(60, 15, rows)}
    write_json(path / "yield.json", {"filter": filter, "parser": "strict", "sha256": "", "sources": sources})
    titles = {"gsm8k": "GSM8K", "aqua": "AQuA"}
    return DistilledDescription(
        filter, "Teacher", "zero-shot-cot-v1", "greedy", filter, titles, ["f1", "f2"], path
    )


@pytest.fixture
def data(tmp_path):
    """Two arms with the runs of one model: all answers have 2 and 3 of 5 right, right ones 4 and 3."""
    results = [
        ("m", "bare", None, 1),
        ("m", "lora", 0, 4),
        ("m", "lora", 1, 3),
        ("m", "series", 0, 2),
        ("m", "series", 1, 3),
    ]
    study = make_small_study(tmp_path, results)
    audit = study.arms[0].audit
    arms = [make_arm(name, name, {"t": "Task"}, audit=audit) for name in ("all", "right")]
    bare, *trained = study.runs
    right = [replace(run, arm="right", training_set="right") for run in trained if run.method == "lora"]
    # the other method's scores stand for those of the unfiltered arm
    others = [
        replace(run, arm="all", training_set="all", method="lora")
        for run in trained
        if run.method == "series"
    ]
    described = [describe(tmp_path, "all", 20), describe(tmp_path, "right", 10)]
    study = replace(
        study, arms=arms, runs=[bare, *others, *right], methods=study.methods[:1], distilled=described
    )
    return read_report_data(study)


def test_the_yields_have_a_row_for_each_source_and_for_all(data):
    frame = build_distillation_tables(data)["distillation"].frame
    assert list(frame["Source"]) == ["GSM8K", "AQuA", "all"] * 2
    right = frame[frame["Training set"] == "right"].set_index("Source")
    assert list(right["Right (%)"]) == ["25.0", "25.0", "25.0"]
    assert list(right["Yield (%)"]) == ["25.0", "16.7", "20.0"]
    assert right.loc["all", "Tokens"] == "900"


def test_the_difference_of_the_two_filters_is_paired(data):
    tables = build_distillation_tables(data)
    (name,) = [name for name in tables if name.startswith("filtering-")]
    assert name == "filtering-right-strict"
    frame = tables[name].frame
    # 70 % against 50 %, with the same examples
    assert frame["Difference (points)"].iloc[0].startswith("+20.0 [")
    assert "right: 20 rows, all: 40 rows" in tables[name].caption


def test_sets_of_other_answers_are_not_compared(data):
    first, second = data.study.distilled
    others = replace(data, study=replace(data.study, distilled=[replace(first, answers=["f9"]), second]))
    assert set(build_distillation_tables(others)) == {"distillation"}


def test_the_metrics_have_the_shares(data):
    assert collect_yields(data)["distilled yield"]["right"]["gsm8k"] == {"rows": 0.25, "right": 0.25}


def test_a_study_without_a_teacher_has_no_such_table(tmp_path):
    data = read_report_data(make_small_study(tmp_path))
    assert build_distillation_tables(data) == {}
    assert collect_yields(data) == {}
