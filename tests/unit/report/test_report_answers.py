"""Accuracies, comparisons, outcomes and published figures in the report of a small study, written by hand as files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import write_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.params.published import Published
from pipeline.params.reading import CARDS, parse_card, read_card
from pipeline.report.accuracy import build_accuracy_table, list_accuracies
from pipeline.report.comparisons import build_comparison_tables, compare_with_bare
from pipeline.report.data import read_report_data
from pipeline.report.outcomes import SampleAnswer, build_outcome_tables, list_task_outcomes
from pipeline.report.published import build_published_tables
from pipeline.report.tables import MACRO, MICRO, Table, format_interval
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
        "outcomes": outcomes,
        "chance": 0.25,
        "majority": 0.5,
    }


@pytest.fixture
def study(tmp_path) -> StudyDescription:
    runs = []
    for (method, seed), marks in MARKS.items():
        answers, scores = tmp_path / f"{method}{seed}", tmp_path / f"{method}{seed}.json"
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
    )


def list_rows(table: Table) -> list[dict]:
    return table.frame.to_dict("records")


def list_correct(method: str, task: int) -> list[list[float]]:
    return [[float(mark == "r") for mark in MARKS[method, seed][task]] for seed in (0, 1)]


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
    stars = [row[column].endswith("*") for row in wide for column in ("Task t", "Task u", MACRO, MICRO)]
    assert stars == [difference["holm"] < 0.05 for difference in differences]
    assert any(stars)
    assert not all(stars)
    assert [row["Difference (points)"].endswith("*") for row in long] == stars
    assert [row["n"] for row in long[:4]] == ["12", "4", "16", "16"]


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
    assert row["Detectable (points)"] == f"{100 * stats.detectable_difference(difference):.1f}"


def test_answers_are_counted_by_outcome(study):
    rows = list_rows(build_outcome_tables(read_report_data(study))["outcomes"])
    counts = {(row["Task"], row["Method"]): row for row in rows}
    bare = counts["Task t", "no adapter"]
    assert [bare[name] for name in ("answers", *OUTCOMES)] == ["12", "0", "10", "1", "1", "0"]
    assert [counts["Task u", "LoRA"][name] for name in ("answers", "right", "wrong")] == ["8", "3", "5"]


def test_samples_are_spread_over_all_answers_with_an_outcome(study):
    first, second = list_task_outcomes(read_report_data(study))
    assert first.task == "Task t"
    assert first.counts == {"right": 35, "wrong": 23, "unparsable": 1, "truncated": 1}
    assert sum(first.shares.values()) == pytest.approx(100)
    samples = first.samples["right"]
    assert [sample.run for sample in samples] == [
        "llama-7b lora seed 0",
        "llama-7b lora seed 1",
        "llama-7b series seed 1",
    ]
    assert [sample.id for sample in samples] == ["t/0", "t/5", "t/4"]
    assert [sample.text for sample in samples] == ["lora 0 0", "lora 1 5", "series 1 4"]
    assert first.samples["unparsable"] == [
        SampleAnswer(
            run="llama-7b bare",
            id="t/10",
            question="<b>t</b> 10?",
            text="bare None 10",
            parsed="",
            gold="7",
        )
    ]
    assert set(second.samples) == {"right", "wrong"}


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


def make_published(rows: list[dict], **changes) -> Published:
    table = {
        "name": "n",
        "training_set": "math_10k",
        "source": "S",
        "tasks": ["t", "u"],
        "rows": rows,
        **changes,
    }
    return parse_card(CARDS["published"], {"title": "P", "tables": [table]}, where="here")


def test_published_figures_are_compared_with_the_same_model_and_method(study):
    lora = {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0], "average": 60.0}
    study = replace(
        study,
        published=make_published([{"model": "GPT-3.5", "accuracy": [50.0, 60.0], "average": 55.0}, lora]),
    )
    table = build_published_tables(read_report_data(study))["published-a-strict"]
    unmatched, ours = list_rows(table)
    assert unmatched == {
        "Model": "GPT-3.5",
        "Method": "as published",
        "Task t": "50.0",
        "Task u": "60.0",
        MACRO: "55.0",
    }
    assert (ours["Model"], ours["Method"]) == ("LLaMA-7B", "LoRA")
    accuracy = stats.estimate_accuracy(list_correct("lora", 0))
    mark = "✓" if accuracy["low"] <= 0.9 <= accuracy["high"] else "✗"
    assert ours["Task t"] == f"100.0 − 90.0 = +10.0 {mark}"
    assert ours["Task u"] == "37.5 − 30.0 = +7.5 ✓"
    assert ours[MACRO].startswith("68.8 − 60.0 = +8.8 ")
    assert "P, S." in table.caption


@pytest.mark.parametrize(
    "row",
    [
        {"model": "llama-13b", "method": "lora"},
        {"model": "llama-7b", "method": "parallel"},
        {"model": "llama-7b", "method": "series"},
    ],
    ids=["other model", "other method", "changed setting"],
)
def test_published_figures_of_other_runs_are_compared_with_nothing(study, row):
    api = {"model": "GPT-3.5", "accuracy": [50.0, 60.0]}
    study = replace(study, published=make_published([api, {**row, "accuracy": [90.0, 30.0]}]))
    table = build_published_tables(read_report_data(study))["published-a-strict"]
    assert [row["Model"] for row in list_rows(table)] == ["GPT-3.5"]
    assert "the figures stand alone" in table.caption


def test_figures_for_other_training_sets_or_tasks_are_left_out(study):
    lora = {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0]}
    study = replace(study, published=make_published([lora], training_set="math_data"))
    assert build_published_tables(read_report_data(study)) == {}
    study = replace(study, published=make_published([lora], tasks=["v", "w"]))
    assert build_published_tables(read_report_data(study)) == {}
    study = replace(study, published=make_published([lora | {"average": 60.0}], tasks=["t", "v"]))
    (row,) = list_rows(build_published_tables(read_report_data(study))["published-a-strict"])
    # without the average, which is over other tasks than ours
    assert list(row) == ["Model", "Method", "Task t"]


def test_a_published_row_with_missing_accuracies_is_an_error():
    with pytest.raises(UserError, match=r"llama-7b lora: needs 2 accuracies from 0 to 100"):
        make_published([{"model": "llama-7b", "method": "lora", "accuracy": [90.0]}])


def test_llm_adapters_figures_agree_with_their_averages():
    """Catches figures that were copied wrongly; the averages have one decimal, and some are rounded up."""
    card = read_card("published", "llm-adapters")
    assert [len(table.rows) for table in card.tables] == [17, 17, 17]
    names = {row.model for table in card.tables for row in table.rows if row.method is None}
    assert names == {"GPT-3.5", "ChatGPT"}
    for table in card.tables:
        for task in (*table.tasks, table.training_set):
            assert read_card("datasets", task)
        for row in table.rows:
            assert row.average == pytest.approx(sum(row.accuracy) / len(row.accuracy), abs=0.11), row


@pytest.mark.parametrize("name", ["math6_readme_2023-11-15_b2599fe", "math_readme", "commonsense_readme"])
def test_llm_adapters_figures_equal_the_reference(shared, name):
    lines = (Path(shared) / f"data/real/reference/{name}.csv").read_text().splitlines()[1:]
    reference = [[float(figure) for figure in line.split(",")[1:]] for line in lines]
    tables = [
        [[*row.accuracy, row.average] for row in table.rows]
        for table in read_card("published", "llm-adapters").tables
    ]
    assert reference in tables
