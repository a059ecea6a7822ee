"""Scores: what is counted, what is refused, and what is not imported."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.evaluate.score import score
from pipeline.io import read_json, write_jsonl
from pipeline.prompts import SCHEMA, build_prompt
from pipeline.stats import wilson_interval

LETTERS = list("ABCDE")


def example(number, answer, *, choices=(), instruction="What?", template="strict"):
    return {
        "id": f"t/test/{number}",
        "task": "t",
        "instruction": instruction,
        "input": "",
        "response": "",
        "answer": answer,
        "choices": list(choices),
        "answer_form": "",
        "prompt": build_prompt(instruction, template=template),
    }


def scored(folder, examples, texts, *, form, protocol="strict", stops=None, ids=None):
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), folder / "prompts.parquet")
    rows = [
        {
            "id": (ids or [e["id"] for e in examples])[number],
            "prompt": "",
            "text": text,
            "tokens": 3,
            "stop": (stops or ["eos"] * len(texts))[number],
        }
        for number, text in enumerate(texts)
    ]
    write_jsonl(folder / f"answers/t-{protocol}.jsonl", rows)
    task = {
        "name": f"t-{protocol}",
        "task": "t",
        "protocol": protocol,
        "parser": protocol,
        "protocol_version": 3,
        "answer_form": form,
        "prompts": folder / "prompts.parquet",
    }
    output = folder / "scores/fp.json"
    score(folder / "answers", tasks=[task], output=output, manifest={"model": "m", "fingerprint": "fp"})
    return read_json(output)


def test_numbers(tmp_path):
    examples = [example(n, answer) for n, answer in enumerate(["15", "15.0", "7", "2", "-3"])]
    texts = ["The answer is 15", "so 15", "The answer is 8.", "none", "The answer is -3"]
    stops = ["eos", "length", "eos", "length", "eos"]
    found = scored(tmp_path, examples, texts, form="number", stops=stops)
    assert (found["model"], found["fingerprint"]) == ("m", "fp")
    task = found["tasks"]["t-strict"]
    assert {key: task[key] for key in ("task", "protocol", "protocol_version", "answer_form")} == {
        "task": "t",
        "protocol": "strict",
        "protocol_version": 3,
        "answer_form": "number",
    }
    assert (task["n"], task["correct"], task["accuracy"]) == (5, 3, 0.6)
    assert (task["low"], task["high"]) == wilson_interval(3, 5)
    assert (task["unparsable"], task["truncated"], task["chance"]) == (1, 2, 0)
    assert task["majority"] == 0.4  # "15" and "15.0" are one answer
    assert task["majority_answer"] == "15"
    same = {"protocol": "strict"}
    first = {"id": "t/test/0", "parsed": 15.0, "gold": "15", "correct": True, "outcome": "right"}
    third = {"id": "t/test/3", "parsed": None, "gold": "2", "correct": False, "outcome": "truncated"}
    assert task["items"][0] == {**first, **same}
    assert task["items"][3] == {**third, **same}


def test_labels_chance_and_majority_come_from_the_examples(tmp_path):
    offered = [["answer1", "answer2", "answer3"], ["answer1", "answer2", "answer3", "answer4", "answer5"]]
    examples = [example(n, "answer1" if n else "answer3", choices=offered[n % 2]) for n in range(4)]
    texts = ["the correct answer is answer3", "answer1", "the correct answer is answer4", "answer2"]
    task = scored(tmp_path, examples, texts, form="answer")["tasks"]["t-strict"]
    assert task["correct"] == 2
    assert task["unparsable"] == 1  # answer4 of three choices
    assert task["chance"] == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert task["majority"] == 0.75


def test_the_published_protocol_takes_the_first_capital_and_cuts_at_the_mark(tmp_path):
    examples = [example(n, "C", choices=LETTERS, template="paper-eval") for n in range(2)]
    texts = ["A: The answer is (C).", " C\n\n### Response:\n A"]
    strict = scored(tmp_path / "s", examples, texts, form="letter")["tasks"]["t-strict"]
    paper = scored(tmp_path / "p", examples, texts, form="letter", protocol="paper")["tasks"]["t-paper"]
    assert [item["parsed"] for item in strict["items"]] == ["C", "C"]
    assert [item["parsed"] for item in paper["items"]] == ["A", "C"]


def test_an_instruction_with_the_mark_is_judged_as_published(tmp_path):
    examples = [example(0, "5", instruction='Write "### Response:" 3', template="paper-eval")]
    paper = scored(tmp_path, examples, ["5"], form="number", protocol="paper")["tasks"]["t-paper"]
    assert paper["items"][0]["parsed"] == 3.0


def test_rescoring_gives_the_same_bytes(tmp_path):
    examples = [example(n, str(n)) for n in range(3)]
    made = []
    for _ in range(2):
        scored(tmp_path, examples, ["0", "1", "2"], form="number")
        made.append((tmp_path / "scores/fp.json").read_bytes())
    assert made[0] == made[1]


def test_answers_of_other_examples_are_refused(tmp_path):
    examples = [example(n, str(n)) for n in range(3)]
    with pytest.raises(UserError, match=r"row 1 answers 't/test/2', not 't/test/1'"):
        scored(tmp_path, examples, ["0"] * 3, form="number", ids=["t/test/0", "t/test/2", "t/test/1"])
    with pytest.raises(UserError, match="2 answers for the 3 examples"):
        scored(tmp_path, examples, ["0"] * 2, form="number")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("form", "answer", "choices"),
    [
        ("number", "many", ()),
        ("number", "inf", ()),
        ("letter", "F", LETTERS),
        ("answer", "answer5", ["answer1"]),
    ],
)
def test_a_gold_answer_that_no_answer_could_equal_is_refused(tmp_path, form, answer, choices):
    with pytest.raises(UserError, match=rf"t/test/0: gold answer '{answer}' is no {form}"):
        scored(tmp_path, [example(0, answer, choices=choices)], ["x"], form=form)


def test_an_empty_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="no examples"):
        scored(tmp_path, [], [], form="number")


def test_scoring_imports_no_torch():
    heavy = "('torch', 'transformers', 'scipy', 'statsmodels', 'pandas', 'peft')"
    code = (
        f"import sys, pipeline.evaluate.score; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
