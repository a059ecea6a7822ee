"""Accuracies, comparisons and outcomes in the report of a small study."""

import json
from dataclasses import replace

import pytest

from pipeline.evaluate import stats
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.report.accuracy import build_accuracy_table, list_accuracies
from pipeline.report.comparisons import build_comparison_tables, compare_with_bare
from pipeline.report.data import read_report_data
from pipeline.report.outcomes import build_outcome_tables, list_task_outcomes
from pipeline.report.tables import MACRO, MICRO, format_interval
from pipeline.study.description import StudyDescription
from tests.answered_study import list_correct, list_rows, make_answered_study


@pytest.fixture
def study(tmp_path) -> StudyDescription:
    return make_answered_study(tmp_path)


def test_accuracy_table_has_macro_and_micro_averages(study):
    data = read_report_data(study)
    row = list_rows(build_accuracy_table(data, data.sections[0]))[1]
    assert row[MACRO].startswith(f"{100 * (1 + 3 / 8) / 2:.1f} [")
    assert row[MICRO].startswith(f"{100 * (12 + 1.5) / 16:.1f} [")
    assert row["Task t"] == format_interval(stats.estimate_accuracy(list_correct("lora", 0)))


def test_seeds_in_plots_are_integers_although_bare_bases_have_none(study):
    lines = list_accuracies(read_report_data(study)).to_csv(index=False).splitlines()
    assert lines[1].startswith("llama-7b,bare,,math_10k,,t-strict,")
    assert lines[3].startswith("llama-7b,lora,a,math_10k,0,t-strict,")


def test_accuracy_table_ends_with_chance_and_majority_class(study):
    path = study.runs[0].scores
    scores = json.loads(path.read_text())
    scores["tasks"]["u-strict"]["chance"] = 0.75
    path.write_text(json.dumps(scores))
    data = read_report_data(study)
    chance, majority = list_rows(build_accuracy_table(data, data.sections[0]))[-2:]
    assert [chance[name] for name in ("Model", "Task t", "Task u", MACRO, MICRO)] == [
        "chance",
        "25.0",
        "75.0",
        "50.0",
        "37.5",
    ]
    assert [majority[name] for name in ("Model", "Task t", MACRO)] == ["majority class", "50.0", "50.0"]


def test_stars_follow_holms_correction_over_the_whole_table(study):
    data = read_report_data(study)
    differences = compare_with_bare(data, data.sections[0]).values()
    assert len(differences) == 2 * 4
    p_values = [difference["p_value"] for difference in differences]
    assert [difference["holm"] for difference in differences] == stats.adjust_p_values(p_values)
    for difference in differences:
        assert difference["detectable"] == stats.detectable_difference(difference, comparisons=8)
    tables = build_comparison_tables(data)
    wide, long = (list_rows(tables[f"{name}-a-strict"]) for name in ("difference", "tests"))
    stars = [row[column].endswith("*") for row in wide for column in (MACRO, MICRO, "Task t", "Task u")]
    assert stars == [difference["holm"] < 0.05 for difference in differences]
    assert any(stars)
    assert not all(stars)
    assert [row["Difference (points)"].endswith("*") for row in long] == stars
    # where a difference was found, what else could have been found says nothing
    assert [row["Detectable (points)"] == "" for row in long] == stars
    assert [row["n"] for row in long[:4]] == ["16", "16", "12", "4"]


def test_single_runs_are_compared_with_mcnemars_test(study):
    data = read_report_data(replace(study, runs=[run for run in study.runs if run.seed != 1]))
    difference = compare_with_bare(data, data.sections[0])["llama-7b", "lora", "Task t"]
    assert difference["p_value"] == stats.mcnemar_p_value([1] * 12, [0] * 12)


def test_methods_are_compared_with_each_other(study):
    (row,) = list_rows(build_comparison_tables(read_report_data(study))["pairs-a-strict"])
    pairs = [(list_correct("lora", task), list_correct("series", task)) for task in (0, 1)]
    difference = stats.estimate_mean_difference(pairs)
    assert (row["Method"], row["against"], row["n"]) == ("LoRA", "Series", "16")
    assert row["Difference (points)"].startswith(f"{100 * difference['estimate']:+.1f} [")
    # a difference was found
    assert "*" in row["Difference (points)"]
    assert row["Detectable (points)"] == ""


def test_answers_are_counted_by_outcome(study):
    rows = list_rows(build_outcome_tables(read_report_data(study))["outcomes"])
    counts = {(row["Task"], row["Method"]): row for row in rows}
    bare = counts["Task t", "no adapter"]
    assert [bare[name] for name in ("answers", *OUTCOMES)] == ["12", "0", "10", "1", "1", "0"]
    assert [counts["Task u", "LoRA"][name] for name in ("answers", "right", "wrong")] == ["8", "3", "5"]


def test_outcomes_of_a_task_are_counted_over_all_runs(study):
    first, second = list_task_outcomes(read_report_data(study))
    assert first.task == "Task t"
    assert first.counts == {"right": 35, "wrong": 23, "unparsable": 1, "truncated": 1}
    assert sum(first.shares.values()) == pytest.approx(1)
    assert set(second.counts) == {"right", "wrong"}


def test_a_section_has_only_the_tasks_that_its_protocol_covers(study):
    protocols = ["strict", "likelihood"]
    study = replace(study, protocols=protocols, headline=protocols)
    sections = read_report_data(study).sections
    assert [(section.arm.name, section.protocol) for section in sections] == [("a", "strict")]
    (arm,) = study.arms
    tasks = [replace(arm.tasks[0], protocols=protocols), arm.tasks[1]]
    sections = read_report_data(replace(study, arms=[replace(arm, tasks=tasks)])).sections
    assert [[task.name for task in section.tasks] for section in sections] == [["t", "u"], ["t"]]


def test_comparison_protocols_are_in_no_headline_table(study):
    study = replace(study, protocols=["strict", "paper-unmasked"])
    assert [section.protocol for section in read_report_data(study).sections] == ["strict"]


def test_a_study_of_comparison_protocols_alone_has_sections_for_all_of_them(study):
    sections = read_report_data(replace(study, headline=[])).sections
    assert [section.protocol for section in sections] == ["strict"]
