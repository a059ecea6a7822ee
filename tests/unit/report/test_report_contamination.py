"""The report's contamination section: what is counted, what is left out, and that the answers are the same ones."""

import json

import pytest

from pipeline import report
from pipeline.audit import METHODS
from pipeline.core.io import read_json
from pipeline.evaluate import stats
from pipeline.report.contamination import contamination_tables, found_ids
from pipeline.report.tables import Data
from pipeline.study.description import StudyDescription
from tests.descriptions import make_arm, make_method, make_model, make_run, make_study

RIGHT = {("bare", 0): "1010101010", ("lora", 0): "1111100000", ("lora", 1): "1111000001"}
IDS = [f"t/test/{number}" for number in range(10)]
EXACT = IDS[:2]
MASKED = IDS[:3]


def part(ids: list[str]) -> dict:
    return {"n": len(ids), "ids": ids, "train_ids": [f"s/train/{number}" for number in range(len(ids))]}


def audited(name: str, n: int, **ids: list[str]) -> dict:
    methods = {method: part(ids.get(method.replace("-", "_").replace("8_", ""), [])) for method in METHODS}
    pair = {"method": "exact", "id": f"{name}/test/0", "question": "Which <b>one</b>?", "answer": "4"}
    trained = {"train_id": "s/train/7", "train_question": "which one", "train_answer": "5"}
    examples = [pair | trained] if methods["exact"]["n"] else []
    conflicts = [[f"{name}/test/0", "s/train/7"]] if examples else []
    return {"n_test": n, "methods": methods, "conflicts": conflicts, "examples": examples}


@pytest.fixture
def study(tmp_path) -> StudyDescription:
    """One model, two runs of a method and the bare base; tasks t (partly in training), u (not) and w (wholly)."""
    audit = tmp_path / "audit.json"
    once = {"n": 10, "repeats": [], "conflicts": []}
    told = {
        "train": "s",
        "n_train": 50,
        "left_out": None,
        "tests": {
            "t": audited("t", 10, exact=EXACT, number_masked=MASKED, gram=[IDS[9]]),
            "u": audited("u", 10),
            "w": audited("w", 10, exact=[one.replace("t/", "w/", 1) for one in IDS]),
        },
        "repeats": {
            "train": {
                "n": 50,
                "repeats": [["s/train/9", "s/train/1"]] * 2,
                "conflicts": [["s/train/9", "s/train/1"]],
            },
            "tests": {"t": once, "u": once},
        },
        "between": [{"tests": ["t", "u"], "n": 3, "ids": []}],
    }
    audit.write_text(json.dumps(told))
    runs = []
    for (method, seed), right in RIGHT.items():
        scores = tmp_path / f"{method}{seed}.json"
        tasks = {}
        for task in "tuw":
            items = [
                {"id": one.replace("t/", f"{task}/", 1), "correct": mark == "1"}
                for one, mark in zip(IDS, right, strict=True)
            ]
            tasks[f"{task}-strict"] = {"items": items, "n": 10, "chance": 0.0, "outcomes": {}}
        scores.write_text(json.dumps({"tasks": tasks}))
        answers = tmp_path / f"answers-{method}{seed}"
        answers.mkdir()
        (answers / "run.json").write_text("{}")
        arm = None if method == "bare" else "a"
        runs.append(make_run("m", method, seed, answers=answers, scores=scores, arm=arm))
    return make_study(
        arms=[make_arm("a", "s", {task: f"Task {task}" for task in "tuw"}, audit=audit)],
        models=[make_model("m", "LLaMA")],
        methods=[make_method("lora", "LoRA")],
        runs=runs,
        audits=[audit],
    )


def shown(found: dict) -> str:
    return f"{100 * found['estimate']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}], n = {found['n']}"


def table(study: StudyDescription, name: str) -> list[dict]:
    return contamination_tables(Data.of(study))[name].frame.to_dict("records")


def test_accuracy_without_is_that_of_the_items_left_of_the_same_answers(study):
    rows = {(row["Method"], row["Task"]): row for row in table(study, "without-a-strict")}
    row = rows["LoRA", "Task t"]
    seeds = [[float(mark) for mark in RIGHT["lora", seed]] for seed in (0, 1)]
    assert row["All"] == shown(stats.estimate_accuracy(seeds))
    assert row["without exact"] == shown(stats.estimate_accuracy([one[2:] for one in seeds]))
    assert row["without number-masked"] == shown(stats.estimate_accuracy([one[3:] for one in seeds]))
    assert row["without 8-gram"] == shown(stats.estimate_accuracy([one[:9] for one in seeds]))
    assert row["without any"] == shown(stats.estimate_accuracy([one[3:9] for one in seeds]))
    assert row["without stem"] == row["All"]
    assert list(row)[4:] == [f"without {name}" for name in (*METHODS, "any")]
    assert "n = 8" in row["without exact"]
    assert "n = 6" in row["without any"]


def test_the_bare_base_stands_beside_on_the_same_items(study):
    rows = {(row["Method"], row["Task"]): row for row in table(study, "without-a-strict")}
    bare = [[float(mark) for mark in RIGHT["bare", 0][2:]]]
    assert rows["no adapter", "Task t"]["without exact"] == shown(stats.estimate_accuracy(bare))


def test_where_everything_is_contaminated_there_is_no_number(study):
    rows = [row for row in table(study, "without-a-strict") if row["Task"] == "Task w"]
    assert len(rows) == 2
    assert {row["without exact"] for row in rows} == {row["without any"] for row in rows} == {"n = 0"}
    assert "n = 10" in rows[0]["without 8-gram"]


def test_tasks_that_are_not_contaminated_have_no_rows(study):
    assert {row["Task"] for row in table(study, "without-a-strict")} == {"Task t", "Task w"}


def test_the_matrix_counts_every_task_by_every_method(study):
    rows = {row["Task"]: row for row in table(study, "contamination")}
    assert [rows["t"][method] for method in METHODS] == ["2 (20.0 %)", "3 (30.0 %)", "1 (10.0 %)", "0"]
    assert [rows[task][""] for task in "tuw"] == ["contaminated", "", "contaminated"]
    assert (rows["t"]["other answer"], rows["u"]["other answer"]) == ("1", "0")
    assert {row["asked of it"] for row in rows.values()} == {"yes"}


def test_a_cleaned_training_set_says_what_it_was_made_without(study):
    told = read_json(study.audits[0])
    told["left_out"] = {"method": "exact", "tests": ["t", "w"], "rows": [["s/train/1", "t/test/1"]]}
    study.audits[0].write_text(json.dumps(told))
    caption = contamination_tables(Data.of(study))["contamination"].caption
    assert "s was made without 1 rows that hold questions of t, w (method: exact)." in caption


def test_examples_stand_side_by_side_with_their_answers(study):
    (row, _) = table(study, "contamination-examples")
    assert (row["Test row"], row["Training row"]) == ("t/test/0", "s/train/7")
    assert row["Test question"].startswith("Which <b>one</b>?")
    assert row["Test question"].endswith("4")
    assert row["Training question"] == "which one → 5"


def test_repeats_and_shared_questions_are_told(study):
    (row,) = table(study, "repeats")
    assert row == {
        "Set": "s (training)",
        "n": "50",
        "repeats": "2",
        "with another answer": "1",
        "such rows": "9 / 1",
    }
    assert table(study, "shared") == [{"Test": "t", "and test": "u", "questions": "3"}]


def test_a_study_without_contamination_has_the_matrix_only(study):
    told = read_json(study.audits[0])
    told["tests"] = {task: audited(task, 10) for task in "tuw"}
    told["repeats"]["train"]["repeats"] = []
    told["between"] = []
    study.audits[0].write_text(json.dumps(told))
    assert set(contamination_tables(Data.of(study))) == {"contamination"}


def test_any_is_all_methods_together(study):
    assert found_ids(read_json(study.audits[0]), "t")["any"] == {*MASKED, IDS[9]}


def test_the_page_shows_the_section_and_escapes_questions(study, tmp_path):
    drawn = {"settings", "accuracy", "parameters", "time", "learning-curves"}
    data = Data.of(study)
    names = {f"{name}-a-strict": ("", "<svg/>") for name in drawn} | {"learning-curves": ("", "<svg/>")}
    made = contamination_tables(data)
    empty = type(made["contamination"])("", made["contamination"].frame.head(0))
    made |= dict.fromkeys(("accuracy-a-strict", "cost", "outcomes", "runs"), empty)
    text = report.page.render(data, made, names)
    assert "Which &lt;b&gt;one&lt;/b&gt;?" in text
    for name in ("contamination", "without-a-strict", "contamination-examples", "repeats", "shared"):
        assert f'<table id="{name}">' in text
    assert text.count("n = 0") >= 4
