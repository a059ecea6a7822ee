"""The report of a study with a teacher: yields by source, and the difference that filtering makes."""

from dataclasses import replace
from typing import get_args

import pytest

from pipeline.core.io import read_jsonl, write_json, write_jsonl
from pipeline.evaluate.distillation.rows import Fate
from pipeline.evaluate.scoring.rows import Outcome
from pipeline.report import distillation
from pipeline.report.data import read_report_data
from pipeline.report.distillation import build_distillation_tables, collect_yields, compare_filters
from pipeline.report.summary import conclusions
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
    # all: one row in two is right
    marks = ["right"] * rows if filter == "right" else ["right", "wrong"] * (rows // 2)
    lines = [
        {"source": f"{name}/train/{n}", "outcome": mark} for name in sources for n, mark in enumerate(marks)
    ]
    write_jsonl(path / "train.jsonl", lines)
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
    assert list(right["Right answers (%)"]) == ["25.0", "25.0", "25.0"]
    assert list(right["Yield (%)"]) == ["25.0", "16.7", "20.0"]
    assert right.loc["all", "Tokens"] == "900"


def test_the_yields_say_how_many_rows_are_right(data):
    frame = build_distillation_tables(data)["distillation"].frame
    assert list(frame["Right rows (%)"]) == ["50.0"] * 3 + ["100.0"] * 3


def test_each_answer_has_one_fate_in_the_table_of_reasons(data):
    frame = build_distillation_tables(data)["distillation-left-out"].frame
    counts = frame.drop(columns=["Training set", "Source"]).astype(int)
    assert (counts.drop(columns="Answers").sum(axis=1) == counts["Answers"]).all()
    assert list(frame["Wrong"]) == ["20", "40", "60", "30", "50", "80"]


def test_sets_that_differ_in_their_filter_share_the_sentence_on_the_teacher(data):
    caption = build_distillation_tables(data)["distillation"].caption
    assert caption.endswith(
        "all (filter: all) and right (filter: right): teacher Teacher, prompt zero-shot-cot-v1, greedy."
    )


def test_the_difference_of_the_two_filters_is_paired(data):
    tables = build_distillation_tables(data)
    (name,) = [name for name in tables if name.startswith("filtering-")]
    assert name == "filtering-right-strict"
    frame = tables[name].frame
    # 70 % against 50 %, with the same examples
    assert frame["Difference (points)"].iloc[0].startswith("+20.0 [")
    assert frame["Right answers alone (%)"].iloc[0] == "70.0"
    assert frame["All answers (%)"].iloc[0] == "50.0"
    assert "right: 20 rows, 20 of them right; all: 40 rows, 20 of them right;" in tables[name].caption


def test_the_rows_of_a_set_are_read_once(data, monkeypatch):
    read = []
    monkeypatch.setattr(distillation, "read_jsonl", lambda path: read.append(path) or read_jsonl(path))
    build_distillation_tables(data)
    assert sorted(path.parent.name for path in read) == ["all", "right"]


def test_the_conclusions_say_what_filtering_changes(data):
    (sentence,) = [
        each for each in conclusions.write_conclusions(data, []) if "right answers of a teacher alone" in each
    ]
    assert "makes no significant difference (macro average, " in sentence


def test_a_significant_change_is_named(data, monkeypatch):
    def compare(data, section):
        return {
            each._replace(column="Macro average"): {"estimate": 0.122, "holm": 0.001}
            for each in compare_filters(data, section)
        }

    monkeypatch.setattr(conclusions, "compare_filters", compare)
    assert any(
        "instead of on all of its answers, changes the accuracy by +12.2 points for LoRA (LLaMA, right, strict) (macro"
        in each
        for each in conclusions.write_conclusions(data, [])
    )


def test_sets_of_other_answers_are_not_compared(data):
    first, second = data.study.distilled
    others = replace(data, study=replace(data.study, distilled=[replace(first, answers=["f9"]), second]))
    assert set(build_distillation_tables(others)) == {"distillation", "distillation-left-out"}
    assert not [each for each in conclusions.write_conclusions(others, []) if "teacher" in each]


def test_arms_that_are_trained_differently_are_not_compared(data):
    unfiltered, filtered = data.study.arms
    others = [replace(unfiltered, recipe='{"training": {"max_steps": 1000}}'), filtered]
    changed = replace(data, study=replace(data.study, arms=others))
    assert set(build_distillation_tables(changed)) == {"distillation", "distillation-left-out"}


def test_two_arms_on_all_answers_leave_the_comparison_open(data):
    unfiltered, filtered = data.study.arms
    arms = [unfiltered, replace(unfiltered, name="again"), filtered]
    changed = replace(data, study=replace(data.study, arms=arms))
    assert set(build_distillation_tables(changed)) == {"distillation", "distillation-left-out"}


def test_the_metrics_have_the_shares(data):
    assert collect_yields(data)["distilled yield"]["right"]["gsm8k"] == {"rows": 0.25, "right": 0.25}


def test_a_study_without_a_teacher_has_no_such_table(tmp_path):
    data = read_report_data(make_small_study(tmp_path))
    assert build_distillation_tables(data) == {}
    assert collect_yields(data) == {}
