"""The contamination section of the report: counts, accuracies without contaminated questions, and examples."""

import json
from dataclasses import replace

import pytest

from pipeline.audit import METHODS
from pipeline.core.io import read_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.report.contamination import build_contamination_tables, find_contaminated_ids
from pipeline.report.data import read_report_data
from pipeline.report.figures import Drawing
from pipeline.report.page import render_page
from pipeline.report.summary import summarize
from pipeline.report.tables import Table
from pipeline.study.description import SourceDescription, StudyDescription
from tests.descriptions import make_arm, make_method, make_model, make_run, make_study

CORRECT = {("bare", 0): "1010101010", ("lora", 0): "1111100000", ("lora", 1): "1111000001"}
IDS = [f"t/test/{number}" for number in range(10)]
EXACT = IDS[:2]
MASKED = IDS[:3]


def make_matches(ids: list[str]) -> dict:
    return {"n": len(ids), "ids": ids, "train_ids": [f"s/train/{number}" for number in range(len(ids))]}


def make_test_audit(name: str, n: int, **ids: list[str]) -> dict:
    methods = {
        method: make_matches(ids.get(method.replace("-", "_").replace("8_", ""), [])) for method in METHODS
    }
    test_question = {
        "method": "exact",
        "id": f"{name}/test/0",
        "question": "Which <b>one</b>?",
        "answer": "4",
    }
    train_question = {"train_id": "s/train/7", "train_question": "which one", "train_answer": "5"}
    examples = [test_question | train_question] if methods["exact"]["n"] else []
    conflicts = [[f"{name}/test/0", "s/train/7"]] if examples else []
    return {"n_test": n, "methods": methods, "conflicts": conflicts, "examples": examples}


@pytest.fixture
def study(tmp_path) -> StudyDescription:
    """One model, two runs of a method and the bare base; tasks t (partly in training), u (not) and w (wholly)."""
    audit = tmp_path / "audit.json"
    no_repeats = {"n": 10, "repeats": [], "conflicts": []}
    content = {
        "train": "s",
        "n_train": 50,
        "left_out": None,
        "tests": {
            "t": make_test_audit("t", 10, exact=EXACT, number_masked=MASKED, gram=[IDS[9]]),
            "u": make_test_audit("u", 10),
            "w": make_test_audit("w", 10, exact=[id.replace("t/", "w/", 1) for id in IDS]),
        },
        "repeats": {
            "train": {
                "n": 50,
                "repeats": [["s/train/9", "s/train/1"]] * 2,
                "conflicts": [["s/train/9", "s/train/1"]],
            },
            "tests": {"t": no_repeats, "u": no_repeats},
        },
        "between": [{"tests": ["t", "u"], "n": 3, "ids": []}],
    }
    audit.write_text(json.dumps(content))
    runs = []
    for (method, seed), marks in CORRECT.items():
        scores = tmp_path / f"{method}{seed}.json"
        tasks = {}
        for task in "tuw":
            items = [
                {
                    "id": id.replace("t/", f"{task}/", 1),
                    "correct": mark == "1",
                    "outcome": "right" if mark == "1" else "wrong",
                    "parsed": "1",
                    "gold": "1",
                }
                for id, mark in zip(IDS, marks, strict=True)
            ]
            tasks[f"{task}-strict"] = {"items": items, "n": 10, "chance": 0.0, "outcomes": {}}
        scores.write_text(json.dumps({"tasks": tasks}))
        answers = tmp_path / f"answers-{method}{seed}"
        answers.mkdir()
        (answers / "run.json").write_text("{}")
        for task in "tuw":
            write_jsonl(answers / f"{task}-strict.jsonl", [{"prompt": "p", "text": "1"}] * len(IDS))
        arm = None if method == "bare" else "a"
        runs.append(make_run("m", method, seed, answers=answers, scores=scores, arm=arm))
    return make_study(
        arms=[make_arm("a", "s", {task: f"Task {task}" for task in "tuw"}, audit=audit)],
        models=[make_model("m", "LLaMA")],
        methods=[make_method("lora", "LoRA")],
        runs=runs,
        audits=[audit],
    )


def format_accuracy(correct: list[list[float]]) -> str:
    accuracy = stats.estimate_accuracy(correct)
    estimate, low, high = (f"{100 * accuracy[key]:.1f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}], n = {accuracy['n']}"


def list_rows(study: StudyDescription, name: str) -> list[dict]:
    return build_contamination_tables(read_report_data(study))[name].frame.to_dict("records")


def test_accuracy_without_contaminated_questions_uses_the_same_answers(study):
    rows = {(row["Method"], row["Task"]): row for row in list_rows(study, "without-a-strict")}
    row = rows["LoRA", "Task t"]
    seeds = [[float(mark) for mark in CORRECT["lora", seed]] for seed in (0, 1)]
    assert row["All"] == format_accuracy(seeds)
    assert row["without exact"] == format_accuracy([seed[2:] for seed in seeds])
    assert row["without number-masked"] == format_accuracy([seed[3:] for seed in seeds])
    assert row["without 8-gram"] == format_accuracy([seed[:9] for seed in seeds])
    assert row["without any"] == format_accuracy([seed[3:9] for seed in seeds])
    assert row["without stem"] == row["All"]
    assert list(row)[4:] == [f"without {name}" for name in (*METHODS, "any")]
    assert "n = 8" in row["without exact"]
    assert "n = 6" in row["without any"]


def test_the_bare_base_is_scored_on_the_same_questions(study):
    rows = {(row["Method"], row["Task"]): row for row in list_rows(study, "without-a-strict")}
    bare = [[float(mark) for mark in CORRECT["bare", 0][2:]]]
    assert rows["no adapter", "Task t"]["without exact"] == format_accuracy(bare)


def test_a_fully_contaminated_task_has_no_accuracy(study):
    rows = [row for row in list_rows(study, "without-a-strict") if row["Task"] == "Task w"]
    assert len(rows) == 2
    assert {row["without exact"] for row in rows} == {row["without any"] for row in rows} == {"n = 0"}
    assert "n = 10" in rows[0]["without 8-gram"]


def test_uncontaminated_tasks_have_no_rows(study):
    assert {row["Task"] for row in list_rows(study, "without-a-strict")} == {"Task t", "Task w"}


def test_questions_are_counted_for_each_task_and_method(study):
    rows = {row["Task"]: row for row in list_rows(study, "contamination")}
    assert [rows["t"][method] for method in METHODS] == ["2 (20.0 %)", "3 (30.0 %)", "1 (10.0 %)", "0"]
    assert [rows[task]["Verdict"] for task in "tuw"] == ["contaminated", "", "contaminated"]
    assert (rows["t"]["different answer"], rows["u"]["different answer"]) == ("1", "0")
    assert {row["evaluated"] for row in rows.values()} == {"yes"}


def test_in_a_made_world_only_equal_questions_are_contaminated(study):
    audit = read_json(study.audits[0])
    audit["tests"]["w"]["methods"] |= {"exact": make_matches([]), "8-gram": make_matches(IDS)}
    study.audits[0].write_text(json.dumps(audit))
    made = [
        SourceDescription(name, name, role, "", "made here", made_here=True)
        for name, role in (("s", "training set"), ("t", "task"))
    ]
    rows = list_rows(replace(study, sources=made), "contamination")
    assert [row["Verdict"] for row in rows] == ["contaminated", "", "repeated wording"]


def test_the_caption_states_which_rows_a_cleaned_training_set_leaves_out(study):
    audit = read_json(study.audits[0])
    audit["left_out"] = {"method": "exact", "tests": ["t", "w"], "rows": [["s/train/1", "t/test/1"]]}
    study.audits[0].write_text(json.dumps(audit))
    caption = build_contamination_tables(read_report_data(study))["contamination"].caption
    assert "s excludes 1 rows that contain questions of t, w (method: exact)." in caption


def test_examples_show_both_questions_with_their_answers(study):
    (row, _) = list_rows(study, "contamination-examples")
    assert (row["Test row"], row["Training row"]) == ("t/test/0", "s/train/7")
    assert row["Test question"].startswith("Which <b>one</b>?")
    assert row["Test question"].endswith("4")
    assert row["Training question"] == "which one → 5"


def test_repeated_and_shared_questions_are_listed(study):
    (row,) = list_rows(study, "repeats")
    assert row == {
        "Set": "s (training)",
        "n": "50",
        "repeats": "2",
        "with a different answer": "1",
        "conflicting rows": "9 / 1",
    }
    assert list_rows(study, "shared") == [{"Test": "t", "and test": "u", "questions": "3"}]


def test_a_study_without_contamination_has_only_the_table_of_counts(study):
    audit = read_json(study.audits[0])
    audit["tests"] = {task: make_test_audit(task, 10) for task in "tuw"}
    audit["repeats"]["train"]["repeats"] = []
    audit["between"] = []
    study.audits[0].write_text(json.dumps(audit))
    assert set(build_contamination_tables(read_report_data(study))) == {"contamination"}


def test_any_combines_all_methods(study):
    assert find_contaminated_ids([read_json(study.audits[0])], "t")["any"] == {*MASKED, IDS[9]}


def test_the_page_has_the_section_and_escapes_questions(study):
    data = read_report_data(study)
    figures = [
        "headline",
        *(f"{name}-a-strict" for name in ("accuracy", "parameters", "time")),
        "learning-curves",
    ]
    tables = build_contamination_tables(data)
    empty = Table("", tables["contamination"].frame.head(0))
    names = ("accuracy-a-strict", "cost", "outcomes", "runs", "settings", "sources")
    tables |= dict.fromkeys(names, empty)
    page = render_page(data, summarize(data), tables, dict.fromkeys(figures, Drawing("", "<svg/>")))
    assert "Which &lt;b&gt;one&lt;/b&gt;?" in page
    for name in ("contamination", "without-a-strict", "contamination-examples", "repeats", "shared"):
        assert f'<table id="{name}" ' in page
    assert page.count("n = 0") >= 4
