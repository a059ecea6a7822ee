"""``check`` and the prompts stage: the rows of a study's datasets, as far as they are fetched."""

import json

import pytest

from pipeline.commands.app import run_command
from pipeline.params import reading
from pipeline.study import load_study
from tests.e2e.conftest import MODEL
from tests.integration.conftest import STUDY, enter, write_project

CARD = """
name: mine
title: Mine
answer_form: number
splits: {train: {rows: null, sources: [{kind: local, path: mine.jsonl}]}}
"""
ROW = {"instruction": "What is 2 + 3?", "input": "", "output": "5", "answer": "5"}


@pytest.fixture
def write_rows(tmp_path, monkeypatch):
    """A function that writes the fetched rows of the training set of a new project, whose study is 'small'."""
    cards = {
        "datasets/mine": CARD,
        "models/small-llama": MODEL,
        "study/small": STUDY.replace("world-math", "mine"),
        "params": "study: small\n",
    }
    write_project(tmp_path, cards)
    enter(monkeypatch, tmp_path)
    monkeypatch.setattr("pipeline.commands.app.project_root", lambda: tmp_path)

    def write(rows: list[dict]) -> None:
        path = load_study().raw("mine", "train").path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    yield write
    reading.read_card.cache_clear()


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail; return its error."""
    assert run_command(arguments) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return error


@pytest.mark.parametrize("command", ["check", "prompts"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ouput": "5"},
            "mine (train): no column 'output' (the columns are: 'instruction', 'input', 'answer', 'ouput')",
        ),
        ({"output": ""}, "all 3 responses are empty"),
        ({"output": ["5"]}, "3 malformed rows: row 0: 'output' is a list"),
        ({"output": "5", "answer": "1,5"}, "3 malformed rows: row 0: answer '1,5' is not a number"),
    ],
)
def test_a_training_set_that_teaches_nothing_is_refused(write_rows, capsys, command, change, message):
    kept = {key: value for key, value in ROW.items() if key != "output"}
    write_rows([{**kept, **change}] * 3)
    study = load_study()
    arguments = ["prompts", study.training_prompts(study.card.arms[0]).fingerprint]
    assert message in refused(capsys, *(arguments if command == "prompts" else ["check"]))


def test_empty_responses_are_counted(write_rows, capsys):
    write_rows([ROW, {**ROW, "output": ""}, {**ROW, "output": 0}])
    assert run_command(["check"]) == 0
    assert "mine: 1 of 3 responses are empty" in capsys.readouterr().out


def test_without_fetched_rows_the_params_alone_are_checked(write_rows, capsys):
    assert run_command(["check"]) == 0
    assert "well-formed" in capsys.readouterr().out


def test_stages_without_artifacts_are_not_counted(capsys):
    assert run_command(["check", "--study", "quickstart"]) == 0
    counts = "13 fetch, 13 prompts, 2 audit, 3 base, 48 train, 51 generate, 51 score, 1 report"
    assert f"study 'quickstart' is well-formed: {counts}\n" in capsys.readouterr().out
