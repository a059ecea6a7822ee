"""The audit as a stage: its files, and training sets that are cleaned by it."""

import json
from pathlib import Path

import pytest

from pipeline.audit import (
    METHODS,
    read_removed_rows,
    write_audit,
)
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.data.rows import RawFile
from pipeline.params import reading
from pipeline.prompts.write import read_prompts, write_prompts
from pipeline.study import find
from tests.conftest import ROOT
from tests.integration.conftest import enter

CARDS = {
    "datasets/leaky": """
name: leaky
title: Leaky
answer_form: number
splits: {train: {rows: 6, sources: [{kind: local, path: train.jsonl}]}}
""",
    "datasets/leaky-clean": """
name: leaky-clean
title: Leaky without what it holds of the test
parts: [leaky]
without: [sums]
method: number-masked
""",
    "datasets/sums": """
name: sums
title: Sums
answer_form: number
splits: {test: {rows: 4, sources: [{kind: local, path: test.jsonl}]}}
""",
    "study/small": """
title: Small
description: small
models: [tiny-llama]
methods: [lora]
seeds: [0]
arms:
  - {name: as-it-is, training_set: leaky, tasks: [sums]}
  - {name: cleaned, training_set: leaky-clean, tasks: [sums]}
protocols: [strict]
""",
    "params": "study: small\n",
}
TEST = ["Ann has 2 pens and 3 cups. How many things?", "Bob eats 4 figs. How many?", "Why 7?", "Who is 8?"]
TRAIN = ["What is 1 + 1?", TEST[0], "Bob eats 9 figs. How many?", "What is 3 + 3?", "why 7", "A last one: 5?"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose training set holds three test questions: one has another number, one another answer."""
    (tmp_path / "params").mkdir()
    for kind in ("datasets", "methods", "models", "protocols", "study"):
        (tmp_path / "params" / kind).mkdir()
    for kind, name in (("methods", "lora"), ("models", "tiny-llama"), ("protocols", "strict")):
        path = f"params/{kind}/{name}.yaml"
        (tmp_path / path).write_text((ROOT / path).read_text())
    for name, text in CARDS.items():
        (tmp_path / f"params/{name}.yaml").write_text(text)
    for name, texts, answers in (("train", TRAIN, "123456"), ("test", TEST, "2178")):
        rows = [
            {"instruction": text, "input": "", "output": "so", "answer": answer}
            for text, answer in zip(texts, answers, strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    enter(monkeypatch, tmp_path)
    yield tmp_path
    reading.read_card.cache_clear()


def build(names=("fetch", "prompts", "audit")):
    study = find.load_study()
    for stage in names:
        for artifact in study.artifacts[stage]:
            run_job(stage, artifact.fingerprint, options=JobOptions(data_root=Path(), device="cpu"))
    return study


def test_an_audit_lists_rows_conflicts_and_examples(project):
    study = build()
    audit_file = read_json(study.audit(study.card.arms[0]).path)
    task_audit = audit_file["tests"]["sums"]
    assert (audit_file["train"], audit_file["n_train"], task_audit["n_test"], audit_file["left_out"]) == (
        "leaky",
        6,
        4,
        None,
    )
    assert task_audit["methods"]["exact"] == {
        "n": 2,
        "ids": ["sums/test/0", "sums/test/2"],
        "train_ids": ["leaky/train/1", "leaky/train/4"],
    }
    assert task_audit["methods"]["number-masked"]["ids"] == ["sums/test/0", "sums/test/1", "sums/test/2"]
    assert task_audit["conflicts"] == [["sums/test/2", "leaky/train/4"]]
    assert [(pair["method"], pair["id"], pair["train_id"]) for pair in task_audit["examples"]] == [
        ("exact", "sums/test/0", "leaky/train/1"),
        ("exact", "sums/test/2", "leaky/train/4"),
        ("number-masked", "sums/test/1", "leaky/train/2"),
    ]
    last = task_audit["examples"][2]
    assert (last["question"], last["train_question"]) == (TEST[1], TRAIN[2])
    assert (last["answer"], last["train_answer"]) == ("1", "3")


def test_a_cleaned_training_set_leaves_the_matching_rows_out_and_lists_them(project):
    study = build()
    prompts = study.training_prompts(study.card.arms[1])
    assert [row["instruction"] for row in read_prompts(prompts.path)] == [TRAIN[0], TRAIN[3], TRAIN[5]]
    out = {
        "method": "number-masked",
        "tests": ["sums"],
        "rows": [
            ["leaky/train/1", "sums/test/0"],
            ["leaky/train/2", "sums/test/1"],
            ["leaky/train/4", "sums/test/2"],
        ],
    }
    assert read_removed_rows(prompts.path) == out
    audit_file = read_json(study.audit(study.card.arms[1]).path)
    assert audit_file["left_out"] == out
    assert {
        method: counts["n"] for method, counts in audit_file["tests"]["sums"]["methods"].items()
    } == dict.fromkeys(METHODS, 0)


def test_a_cleaned_set_has_its_own_fingerprint_and_does_not_change_others(project):
    study = find.load_study()
    plain, clean = (study.training_prompts(arm) for arm in study.card.arms)
    assert set(plain.params) == {"template", "answer_forms"}
    assert set(clean.inputs) == {"leaky", "without sums"}
    assert clean.inputs["leaky"] is plain.inputs["leaky"]
    (project / "params/datasets/leaky-clean.yaml").write_text(
        CARDS["datasets/leaky-clean"].replace("number-masked", "exact")
    )
    reading.read_card.cache_clear()
    assert find.load_study().training_prompts(study.card.arms[1]).fingerprint != clean.fingerprint


def test_a_limit_applies_after_cleaning(project):
    (project / "params/study/small.yaml").write_text(
        CARDS["study/small"].replace("training_set: leaky-clean,", "training_set: leaky-clean, limit: 3,")
    )
    reading.read_card.cache_clear()
    study = build()
    assert len(read_prompts(study.training_prompts(study.card.arms[1]).path)) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method: number-masked\n", "without and method go together"),
        ("without: [sums]\n", "without and method go together"),
        ("[sums]", "no 'nothing'"),
    ],
)
def test_an_incomplete_cleaning_in_a_card_is_an_error(project, line, message):
    text = CARDS["datasets/leaky-clean"].replace(line, "[nothing]" if line == "[sums]" else "")
    (project / "params/datasets/leaky-clean.yaml").write_text(text)
    reading.read_card.cache_clear()
    with pytest.raises(UserError, match=message):
        find.load_study()


def test_the_audit_of_a_test_does_not_depend_on_the_other_tests(tmp_path):
    def prompts(name: str, texts: list[str]):
        raw = tmp_path / f"{name}.jsonl"
        raw.write_text("".join(json.dumps({"instruction": text, "answer": "1"}) + "\n" for text in texts))
        source = RawFile(dataset=name, split="test", path=raw, answer_form="number")
        output = tmp_path / f"{name}.parquet"
        write_prompts([source], template="strict", output=output, limit=None, sample_seed=0)
        return output

    train, first, second = prompts("t", TRAIN), prompts("a", TEST), prompts("b", [*TEST[2:], TRAIN[0]])
    write_audit(train, {"a": first, "b": second}, output=tmp_path / "both.json", train_name="t")
    combined = read_json(tmp_path / "both.json")
    for name, path in (("a", first), ("b", second)):
        write_audit(train, {name: path}, output=tmp_path / "one.json", train_name="t")
        assert read_json(tmp_path / "one.json")["tests"][name] == combined["tests"][name]
    assert combined["between"] == [
        {"tests": ["a", "b"], "n": 2, "ids": [["a/test/2", "b/test/0"], ["a/test/3", "b/test/1"]]}
    ]
