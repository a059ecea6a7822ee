"""A comparison of two runs: its numbers equal the statistics, and it lists the examples that differ."""

from types import SimpleNamespace

import pytest

from pipeline.commands.app import run_command
from pipeline.commands.compare.audit_protocol import audit_protocols
from pipeline.commands.compare.compare import compare_runs, format_answer, print_comparison
from pipeline.core.errors import UserError
from pipeline.core.io import write_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.study import load_study
from pipeline.study.run import RunResults

RIGHT = {"first": "1111100000", "second": "1101000000"}


def write_run(folder, name: str, tasks: dict[str, str]) -> tuple:
    """A study and run whose answers are right (mark 1, parsed as 7), wrong (0, parsed as 8) or unparsable (-)."""
    scores = {}
    for task, marks in tasks.items():
        items = [
            {
                "id": f"{task}/{n}",
                "gold": "7",
                "parsed": {"1": 7.0, "0": 8.0, "-": None}[mark],
                "correct": mark == "1",
            }
            for n, mark in enumerate(marks)
        ]
        accuracy = marks.count("1") / len(marks)
        scores[f"{task}-strict"] = {"task": task, "protocol": "strict", "accuracy": accuracy, "items": items}
        rows = [
            {"prompt": f"### Instruction:\nquestion {n}\n\n### Response:\n", "text": f"text of {name}"}
            for n in range(len(marks))
        ]
        (folder / name).mkdir(exist_ok=True)
        write_jsonl(folder / name / f"{task}-strict.jsonl", rows)
    write_json(folder / f"{name}.json", {"tasks": scores})
    answers = SimpleNamespace(path=folder / name, params=scores)
    results = RunResults([], answers, None, SimpleNamespace(path=folder / f"{name}.json"))
    study = SimpleNamespace(name="small", results=lambda run: results)
    return study, SimpleNamespace(name=f"m/{name}")


@pytest.fixture
def comparison(tmp_path) -> dict:
    sides = [write_run(tmp_path, name, {"a": RIGHT[name], "b": "1-"}) for name in RIGHT]
    return compare_runs(*sides)


def test_a_task_is_compared_by_mcnemars_test_corrected_over_tasks_and_averages(comparison):
    rows = {task_row["task"]: task_row for task_row in comparison["comparisons"]}
    assert list(rows) == ["a", "b", "macro average", "micro average"]
    tables = [[[float(mark) for mark in RIGHT[name]]] for name in RIGHT]
    expected = stats.estimate_difference(*tables)
    task_row = rows["a"]
    assert (task_row["first"], task_row["second"], task_row["n"]) == (0.5, 0.3, 10)
    assert (task_row["difference"], task_row["low"], task_row["p_value"]) == (
        expected["estimate"],
        expected["low"],
        expected["p_value"],
    )
    assert task_row["detectable"] == stats.detectable_difference(expected, comparisons=4)
    assert [row["holm"] for row in rows.values()] == stats.adjust_p_values(
        [row["p_value"] for row in rows.values()]
    )
    assert rows["macro average"]["difference"] == pytest.approx(0.1)
    assert rows["micro average"]["difference"] == pytest.approx(2 / 12)


def test_different_examples_are_listed_with_question_and_both_texts(comparison):
    assert [change["id"] for change in comparison["changes"]] == ["a/2", "a/4"]
    assert comparison["changes"][0] == {
        "task": "a",
        "protocol": "strict",
        "id": "a/2",
        "question": "question 2",
        "gold": "7",
        "first": {"parsed": 7.0, "correct": True, "text": "text of first"},
        "second": {"parsed": 8.0, "correct": False, "text": "text of second"},
    }


def test_examples_that_only_one_run_has_right_come_first(tmp_path):
    sides = [write_run(tmp_path, name, {"a": marks}) for name, marks in (("first", "0-1"), ("second", "-10"))]
    changes = compare_runs(*sides)["changes"]
    assert [change["id"] for change in changes] == ["a/1", "a/2", "a/0"]


def test_the_limit_applies_to_listed_examples_not_to_counts(comparison, capsys):
    print_comparison(comparison, limit=1)
    printed = capsys.readouterr().out
    assert "about these two runs alone" in " ".join(printed.split())
    assert "answers that differ: 2; shown: 1" in printed
    assert "question 2" in printed
    assert "question 4" not in printed


def test_a_task_or_protocol_that_a_run_lacks_is_an_error(tmp_path):
    sides = [write_run(tmp_path, name, {task: "10"}) for name, task in (("first", "a"), ("second", "b"))]
    with pytest.raises(UserError, match=r"in common \(m/first: a-strict; m/second: b-strict\)"):
        compare_runs(*sides)
    with pytest.raises(UserError, match="of task 'a' under 'paper'"):
        compare_runs(sides[0], sides[0], task="a", protocol="paper")


def test_runs_on_different_examples_are_refused(tmp_path):
    sides = [write_run(tmp_path, name, {"a": marks}) for name, marks in (("first", "10"), ("second", "101"))]
    with pytest.raises(UserError, match="a-strict: the runs were evaluated on different examples"):
        compare_runs(*sides)


def test_a_missing_run_is_an_error_in_one_line(capsys):
    assert run_command(["compare", "tiny-llama/nope", "tiny-llama/bare", "--study", "quickstart"]) == 1
    assert "has no run 'tiny-llama/nope'" in capsys.readouterr().err


def test_a_study_of_one_protocol_has_nothing_to_audit():
    with pytest.raises(UserError, match="evaluates no task under two protocols"):
        audit_protocols(load_study("tiny-placement"))


@pytest.mark.parametrize(
    ("parsed", "printed"),
    [(20.0, "20 (right)"), (2.5, "2.5 (right)"), ("B", "B (right)"), (None, "unparsed")],
)
def test_a_whole_answer_is_printed_without_decimals(parsed, printed):
    assert format_answer({"parsed": parsed, "correct": True, "text": None}) == printed
