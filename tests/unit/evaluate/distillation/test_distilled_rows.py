"""What is left of a teacher's answers: each answer has one fate, and a set holds no test question and nothing twice."""

import json

import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl, sha256_file, write_jsonl
from pipeline.data.records import make_records
from pipeline.data.rows import RawFile
from pipeline.evaluate.distillation.rows import AnsweredSource
from pipeline.evaluate.distillation.select import Cleaning, write_distilled_set
from pipeline.prompts.write import write_prompts

SUMS = ["3 + 4", "10 - 2", "6 + 6", "1 + 1"]


def sample(text, stop="eos"):
    return {"text": text, "tokens": len(text.split()) + 1, "stop": stop}


def add_source(folder, name, questions, answers):
    """Write the questions of a source (text -> gold label) and the teacher's answers, a list of samples for each."""
    raw = folder / f"{name}.jsonl"
    write_jsonl(raw, [{"instruction": question, "input": "", "answer": gold} for question, gold in questions])
    prompts, file = folder / f"{name}.parquet", folder / f"{name}-answers.jsonl"
    write_prompts(
        [RawFile(name, "train", raw, "number")], template="strict", output=prompts, limit=None, sample_seed=0
    )
    rows = []
    for number, (first, *others) in enumerate(answers):
        row = {"id": f"{name}/train/{number}", "prompt": "", **first}
        rows.append(row | ({"further_samples": others} if others else {}))
    write_jsonl(file, rows)
    return AnsweredSource(name, prompts, file)


def make_cleaning(*questions):
    rows = [{"instruction": question, "answer": "1"} for question in questions]
    return Cleaning(["t"], list(make_records(rows, task="t", split="test", answer_form="number")), "exact")


def distil(folder, sources, *, filter="right", tests=("what is 99 + 1?",)):
    output = folder / filter
    options = {"filter": filter, "parser": "strict", "output": output, "manifest": {"stage": "distill"}}
    write_distilled_set(sources, make_cleaning(*tests), **options)
    return read_jsonl(output / "train.jsonl"), read_json(output / "yield.json")


@pytest.fixture
def sums(tmp_path):
    """Two answers to each of four questions: right, wrong, cut off, equal, and one without an answer."""
    questions = [(f"what is {sum}?", str(eval(sum))) for sum in SUMS]
    answers = [
        [sample("3 + 4 = 7. the answer is 7"), sample("4 + 3 = 7. the answer is 7")],
        [sample("10 + 2 = 12. the answer is 12"), sample("10 - 2 = 8. the answer is 8")],
        [sample("6 + 6 = 12. the answer is 12"), sample("6 +  6 = 12. The answer is 12")],
        [sample("i do not know"), sample("1 + 1 is 2, so the answer is 2", "length")],
    ]
    return add_source(tmp_path, "sums", questions, answers)


def test_the_filter_right_keeps_right_answers_and_the_gold_label(tmp_path, sums):
    rows, content = distil(tmp_path, [sums])
    assert [(row["source"], row["sample"], row["answer"]) for row in rows] == [
        ("sums/train/0", 0, "7"),
        ("sums/train/0", 1, "7"),
        ("sums/train/1", 1, "8"),
        ("sums/train/2", 0, "12"),
    ]
    assert rows[2]["output"] == "10 - 2 = 8. the answer is 8"
    fates = content["sources"]["sums"]["fates"]
    assert {fate: count for fate, count in fates.items() if count} == {
        "row": 4,
        "wrong": 1,
        "duplicate": 1,
        "unparsable": 1,
        "unfinished": 1,
    }
    assert content["sha256"] == sha256_file(tmp_path / "right/train.jsonl")


def test_the_filter_all_adds_wrong_and_unparsed_answers_and_nothing_else(tmp_path, sums):
    right, _ = distil(tmp_path, [sums])
    everything, content = distil(tmp_path, [sums], filter="all")
    added = [row for row in everything if row not in right]
    assert [(row["outcome"], row["answer"]) for row in added] == [("wrong", "8"), ("unparsable", "2")]
    assert len(everything) == len(right) + 2
    source = content["sources"]["sums"]
    assert (source["questions"], source["answers"], source["questions_with_rows"]) == (4, 8, 4)
    assert source["answers"] == sum(source["fates"].values()) == sum(source["outcomes"].values())
    texts = [each["text"] for row in read_jsonl(sums.answers) for each in (row, *row["further_samples"])]
    # words and end token
    assert source["tokens"] == sum(len(text.split()) + 1 for text in texts)


def test_a_sum_and_a_difference_are_no_duplicates(tmp_path):
    answers = [[sample("5 + 0 is 5, the answer is 5"), sample("5 - 0 is 5, the answer is 5")]]
    rows, _ = distil(tmp_path, [add_source(tmp_path, "a", [("how many are 5?", "5")], answers)])
    assert len(rows) == 2


def test_a_question_of_two_sources_is_used_once(tmp_path, sums):
    answers = [[sample("the answer is 7")], [sample("the answer is 5")]]
    second = add_source(tmp_path, "more", [("What is 3 + 4", "7"), ("what is 2 + 3?", "5")], answers)
    rows, content = distil(tmp_path, [sums, second])
    assert [row["source"] for row in rows if row["source"].startswith("more")] == ["more/train/1"]
    assert content["sources"]["more"]["fates"]["repeated question"] == 1


def test_test_questions_are_left_out_and_listed(tmp_path, sums):
    rows, content = distil(tmp_path, [sums], tests=["What is 3 + 4 ?"])
    assert "sums/train/0" not in {row["source"] for row in rows}
    assert content["sources"]["sums"]["fates"]["test question"] == 2
    left_out = read_json(tmp_path / "right/left_out.json")
    assert left_out == {"method": "exact", "tests": ["t"], "rows": [["sums/train/0", "t/test/0"]]}


def test_equal_answers_give_equal_bytes(tmp_path, sums):
    distil(tmp_path, [sums])
    first = {path.name: path.read_bytes() for path in (tmp_path / "right").iterdir()}
    distil(tmp_path, [sums])
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "right").iterdir()}


def test_a_teacher_without_a_right_answer_is_one_line_with_the_counts(tmp_path):
    source = add_source(tmp_path, "a", [("what is 2 + 2?", "4")], [[sample("the answer is 5")]])
    with pytest.raises(
        UserError, match=r"none of the teacher's answers became a row \(wrong 1\); use a better teacher"
    ):
        distil(tmp_path, [source])


def test_answers_of_other_questions_are_refused(tmp_path, sums):
    rows = read_jsonl(sums.answers)
    sums.answers.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(UserError, match="not the answers to"):
        distil(tmp_path, [sums])
