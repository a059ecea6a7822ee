"""The report's comparisons, outcomes, protocols and published figures, on a small study made up of files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import write_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.params.published import Published
from pipeline.params.reading import CARDS, check, read_card
from pipeline.report import tables
from pipeline.report.comparisons import against_bare, comparison_tables
from pipeline.report.outcomes import browsed, outcome_tables
from pipeline.report.published import published_tables
from pipeline.report.tables import MACRO, MICRO, Data
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
NAMES = {"r": "right", "w": "wrong", "x": "unparsable", "l": "truncated"}


def items(task: str, marks: str) -> list[dict]:
    return [
        {
            "id": f"{task}/{n}",
            "gold": "7",
            "parsed": {"r": 7.0, "w": 8.0}.get(mark),
            "correct": mark == "r",
            "outcome": NAMES[mark],
        }
        for n, mark in enumerate(marks)
    ]


def scored(task: str, marks: str) -> dict:
    found = items(task, marks)
    outcomes = {name: sum(one["outcome"] == name for one in found) for name in OUTCOMES}
    right = outcomes["right"] / len(marks)
    return {
        "items": found,
        "n": len(marks),
        "accuracy": right,
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
        made = {f"{task}-strict": scored(task, one) for task, one in zip(SIZES, marks, strict=True)}
        write_json(scores, {"tasks": made})
        for task, one in zip(SIZES, marks, strict=True):
            rows = [
                {
                    "prompt": f"### Instruction:\n<b>{task}</b> {n}?\n\n### Response:\n",
                    "text": f"{method} {seed} {n}",
                }
                for n in range(len(one))
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


def rows(table: tables.Table) -> list[dict]:
    return table.frame.to_dict("records")


def cell(name: str, task: int) -> list[list[float]]:
    return [[float(mark == "r") for mark in MARKS[name, seed][task]] for seed in (0, 1)]


def test_macro_and_micro_averages_stand_beside_each_other(study):
    data = Data.of(study)
    row = rows(tables.accuracy(data, *data.parts[0]))[1]
    assert row[MACRO].startswith(f"{100 * (1 + 3 / 8) / 2:.1f} [")
    assert row[MICRO].startswith(f"{100 * (12 + 1.5) / 16:.1f} [")
    assert row["Task t"] == tables.interval(stats.estimate_accuracy(cell("lora", 0)))


def test_seeds_to_plot_stay_whole_beside_a_bare_base_that_has_none(study):
    written = tables.accuracy_rows(Data.of(study)).to_csv(index=False).splitlines()
    assert written[1].startswith("llama-7b,bare,math_10k,,t-strict,")
    assert written[3].startswith("llama-7b,lora,math_10k,0,t-strict,")


def test_chance_and_the_majority_class_are_rows_of_their_own(study):
    scores = study.runs[0].scores
    made = json.loads(scores.read_text())
    made["tasks"]["u-strict"]["chance"] = 0.75
    scores.write_text(json.dumps(made))
    data = Data.of(study)
    chance, majority = rows(tables.accuracy(data, *data.parts[0]))[-2:]
    assert [chance[name] for name in ("Model", "Task t", "Task u", MACRO, MICRO)] == [
        "chance",
        "25.0",
        "75.0",
        "50.0",
        "37.5",
    ]
    assert [majority[name] for name in ("Model", "Task t", MACRO)] == ["majority class", "50.0", "50.0"]


def test_stars_are_of_holms_correction_over_the_whole_table(study):
    data = Data.of(study)
    found = against_bare(data, *data.parts[0])
    assert len(found) == 2 * 4
    p_values = [one["p_value"] for one in found.values()]
    assert [one["holm"] for one in found.values()] == stats.adjust_p_values(p_values)
    assert all(one["detectable"] == stats.detectable_difference(one, comparisons=8) for one in found.values())
    made = comparison_tables(data)
    wide, long = (rows(made[f"{name}-a-strict"]) for name in ("difference", "tests"))
    stars = [row[column].endswith("*") for row in wide for column in ("Task t", "Task u", MACRO, MICRO)]
    assert stars == [one["holm"] < 0.05 for one in found.values()]
    assert any(stars)
    assert not all(stars)
    assert [row["Difference (points)"].endswith("*") for row in long] == stars
    assert [row["n"] for row in long[:4]] == ["12", "4", "16", "16"]


def test_a_comparison_of_one_run_with_one_is_mcnemars_test(study):
    data = Data.of(replace(study, runs=[run for run in study.runs if run.seed != 1]))
    one = against_bare(data, *data.parts[0])["llama-7b", "lora", "Task t"]
    assert one["p_value"] == stats.mcnemar_p_value([1] * 12, [0] * 12)


def test_methods_are_compared_with_each_other(study):
    (row,) = rows(comparison_tables(Data.of(study))["pairs-a-strict"])
    wanted = stats.estimate_mean_difference([(cell("lora", task), cell("series", task)) for task in (0, 1)])
    assert (row["Method"], row["against"], row["n"]) == ("LoRA", "Series", "16")
    assert row["Difference (points)"].startswith(f"{100 * wanted['estimate']:+.1f} [")
    assert row["Detectable (points)"] == f"{100 * stats.detectable_difference(wanted):.1f}"


def test_answers_are_counted_by_outcome(study):
    found = {(row["Task"], row["Method"]): row for row in rows(outcome_tables(Data.of(study))["outcomes"])}
    bare = found["Task t", "no adapter"]
    assert [bare[name] for name in ("answers", *OUTCOMES)] == ["12", "0", "10", "1", "1", "0"]
    assert [found["Task u", "LoRA"][name] for name in ("answers", "right", "wrong")] == ["8", "3", "5"]


def test_a_sample_is_spread_over_all_answers_of_its_outcome(study):
    first, second = browsed(Data.of(study))
    assert (first["task"], first["counts"]) == (
        "Task t",
        {"right": 35, "wrong": 23, "unparsable": 1, "truncated": 1},
    )
    assert sum(first["shares"].values()) == pytest.approx(100)
    right = first["samples"]["right"]
    assert [one["run"] for one in right] == [
        "llama-7b lora seed 0",
        "llama-7b lora seed 1",
        "llama-7b series seed 1",
    ]
    assert [one["id"] for one in right] == ["t/0", "t/5", "t/4"]
    assert [one["text"] for one in right] == ["lora 0 0", "lora 1 5", "series 1 4"]
    (unread,) = first["samples"]["unparsable"]
    assert unread == {
        "run": "llama-7b bare",
        "id": "t/10",
        "question": "<b>t</b> 10?",
        "text": "bare None 10",
        "parsed": "",
        "gold": "7",
    }
    assert set(second["samples"]) == {"right", "wrong"}


def test_a_protocol_that_does_not_ask_a_task_has_no_column_of_it(study):
    protocols = ["strict", "likelihood"]
    study = replace(study, protocols=protocols, headline=protocols)
    assert [(arm.name, protocol) for arm, protocol in Data.of(study).parts] == [("a", "strict")]
    (arm,) = study.arms
    tasks = [replace(arm.tasks[0], protocols=protocols), arm.tasks[1]]
    parts = Data.of(replace(study, arms=[replace(arm, tasks=tasks)])).parts
    assert [[task.name for task in arm.tasks] for arm, _ in parts] == [["t", "u"], ["t"]]


def test_a_protocol_for_comparison_alone_is_in_no_headline_table(study):
    study = replace(study, protocols=["strict", "paper-unmasked"])
    assert [protocol for _, protocol in Data.of(study).parts] == ["strict"]


def published(rows: list[dict], **given) -> Published:
    table = {
        "name": "n",
        "training_set": "math_10k",
        "source": "S",
        "tasks": ["t", "u"],
        "rows": rows,
        **given,
    }
    return check(CARDS["published"], {"title": "P", "tables": [table]}, where="here")


def test_a_published_figure_stands_beside_the_same_model_and_method(study):
    lora = {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0], "average": 60.0}
    study = replace(
        study, published=published([{"model": "GPT-3.5", "accuracy": [50.0, 60.0], "average": 55.0}, lora])
    )
    table = published_tables(Data.of(study))["published-a-strict"]
    alone, ours = rows(table)
    assert alone == {
        "Model": "GPT-3.5",
        "Method": "as published",
        "Task t": "50.0",
        "Task u": "60.0",
        MACRO: "55.0",
    }
    assert (ours["Model"], ours["Method"]) == ("LLaMA-7B", "LoRA")
    found = stats.estimate_accuracy(cell("lora", 0))
    mark = "✓" if found["low"] <= 0.9 <= found["high"] else "✗"
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
    ids=["another model", "another method", "a changed setting"],
)
def test_nothing_is_set_beside_a_figure_of_another_thing(study, row):
    api = {"model": "GPT-3.5", "accuracy": [50.0, 60.0]}
    study = replace(study, published=published([api, {**row, "accuracy": [90.0, 30.0]}]))
    table = published_tables(Data.of(study))["published-a-strict"]
    assert [one["Model"] for one in rows(table)] == ["GPT-3.5"]
    assert "the figures stand alone" in table.caption


def test_figures_of_another_training_set_or_of_other_tasks_are_not_shown(study):
    lora = {"model": "llama-7b", "method": "lora", "accuracy": [90.0, 30.0]}
    study = replace(study, published=published([lora], training_set="math_data"))
    assert published_tables(Data.of(study)) == {}
    study = replace(study, published=published([lora], tasks=["v", "w"]))
    assert published_tables(Data.of(study)) == {}
    study = replace(study, published=published([lora | {"average": 60.0}], tasks=["t", "v"]))
    (row,) = rows(published_tables(Data.of(study))["published-a-strict"])
    assert list(row) == ["Model", "Method", "Task t"]  # and no average of other tasks than ours


def test_a_published_row_that_is_not_whole_is_refused():
    with pytest.raises(UserError, match=r"llama-7b lora: needs 2 accuracies from 0 to 100"):
        published([{"model": "llama-7b", "method": "lora", "accuracy": [90.0]}])


def test_the_figures_of_llm_adapters_agree_with_their_own_averages():
    """A figure that was copied wrongly would show; the averages are printed to one digit, some rounded up."""
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
def test_the_figures_are_those_of_the_reference(shared, name):
    lines = (Path(shared) / f"data/real/reference/{name}.csv").read_text().splitlines()[1:]
    wanted = [[float(one) for one in line.split(",")[1:]] for line in lines]
    found = [
        [[*row.accuracy, row.average] for row in table.rows]
        for table in read_card("published", "llm-adapters").tables
    ]
    assert wanted in found
