"""Answers made elsewhere are tied to our examples by their questions, and never by a guess."""

import json

import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl, write_jsonl
from pipeline.evaluate.references.rows import normalise_question, read_source
from pipeline.evaluate.references.score import score_references
from pipeline.evaluate.references.tie import SourceTask, tie_answers, tie_task
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.params.published.references import ReferenceFormat
from pipeline.params.reading import parse_card
from pipeline.prompts.rows import add_prompt
from pipeline.prompts.write import SCHEMA

PLAIN = ReferenceFormat(question="q", text="t", gold="g", reading="r")


def example(number, question, answer):
    record = {
        "id": f"sums/test/{number}",
        "task": "sums",
        "instruction": question,
        "input": "",
        "response": "",
        "answer": answer,
        "choices": [],
        "answer_form": "number",
    }
    return add_prompt(record, template="strict")


def row(question, text, gold="5", reading="5"):
    return {"q": question, "t": text, "g": gold, "r": reading}


def tie(examples, rows, format=PLAIN):
    return tie_task(examples, read_source(rows, format, name="n"), format, form="number")


def test_a_question_ties_but_for_white_space_and_its_last_mark():
    assert normalise_question(" What is  2\n+ 3? ") == normalise_question("What is 2 + 3.")
    assert normalise_question("What is 2 + 3?") != normalise_question("What is 2 - 3?")
    assert normalise_question("Is A b?") != normalise_question("Is a b?")


def test_rows_of_other_questions_and_examples_without_an_answer_are_listed():
    examples = [example(0, "What is 2 + 3?", "5"), example(1, "What is 2 + 4?", "6")]
    rows, ties = tie(examples, [row("What is 9 + 9?", "18"), row("What is 2 + 3?", "5.")])
    assert [(tied["id"], tied["row"], tied["text"]) for tied in rows] == [("sums/test/0", 1, "5.")]
    assert (ties["unknown"], ties["unanswered"], ties["tied"]) == ([0], ["sums/test/1"], 1)


def test_two_answers_to_one_question_are_none():
    rows, ties = tie([example(0, "Q?", "5")], [row("Q?", "It is 5."), row("Q?", "It is 6.", reading="6")])
    assert rows == []
    assert ties["ambiguous"] == ["sums/test/0"]


def test_an_answer_that_is_listed_again_is_one_answer():
    rows, ties = tie([example(0, "Q?", "5")], [row("Q?", "It is 5."), row("Q?", "It is 5.")])
    assert len(rows) == 1
    assert ties["repeated"] == [1]


def test_repeated_examples_take_as_many_answers_in_their_order():
    examples = [example(0, "Q?", "5"), example(1, "Q?", "5.0")]
    rows, ties = tie(examples, [row("Q?", "first"), row("Q?", "second", reading="6")])
    assert [tied["text"] for tied in rows] == ["first", "second"]
    assert ties["ambiguous"] == []


def test_repeated_examples_with_two_gold_answers_take_none():
    examples = [example(0, "Q?", "5"), example(1, "Q?", "6")]
    rows, ties = tie(examples, [row("Q?", "first"), row("Q?", "second", reading="6")])
    assert rows == []
    assert ties["ambiguous"] == ["sums/test/0", "sums/test/1"]


def test_another_gold_answer_is_listed_and_ours_holds():
    format = ReferenceFormat(question="q", text="t", gold="g", gold_mark="####")
    rows = [row("Q?", "5", gold="2 + 3 #### 5.0"), row("R?", "7", gold="#### 8")]
    _, ties = tie([example(0, "Q?", "5"), example(1, "R?", "7")], rows, format)
    assert ties["gold_differs"] == [{"id": "sums/test/1", "row": 1, "theirs": "8", "ours": "7"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Q?", "t": "5"}], r"no row has 'q' \(the keys are: question, t\); correct"),
        ([row("Q?", ["5"])], "row 0: 't' is a list of log-likelihoods or the like, not text"),
        ([row("Q?", "5"), {"q": "R?", "t": "5", "r": "5"}], "row 1: has no 'g'"),
        ([row("Q?", "5", reading=["5"])], "row 0: 'r' is a list, not text or a number"),
    ],
)
def test_rows_that_are_not_in_the_format_are_refused_in_one_line(rows, message):
    with pytest.raises(UserError, match=message) as error:
        read_source(rows, PLAIN, name="params/references/mine.yaml (sums)")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("params/references/mine.yaml (sums): ")


def test_keys_lead_into_objects_and_lists():
    format = ReferenceFormat(
        question="doc.q", text="resps.0.0", choose={"filter": "none"}, cut={"end": "length"}
    )
    rows = [
        {"doc": {"q": "Q?"}, "resps": [["5"]], "filter": name, "end": "length"} for name in ("none", "other")
    ]
    (answer,) = read_source(rows, format, name="n")
    assert (answer.question, answer.text, answer.cut) == ("Q?", "5", True)
    rows[0]["filter"] = "third"
    with pytest.raises(UserError, match="no row has filter = none; correct the card's format: choose"):
        read_source(rows, format, name="n")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ({"text": "t"}, "question: missing; name the key"),
        ({"question": "q..a", "text": "t"}, "question: must be a key"),
        ({"question": "q", "text": "t", "gold_mark": "#"}, "gold_mark: only with gold"),
        ({"question": "q", "text": "t", "golden": "g"}, "golden: unknown key"),
    ],
)
def test_a_wrong_format_is_refused(format, message):
    with pytest.raises(UserError, match=message):
        parse_card(ReferenceFormat, format, where="card")


def write_task(folder, examples, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), folder / "test.parquet")
    write_jsonl(folder / "rows.jsonl", rows)
    return SourceTask("sums", "number", folder / "rows.jsonl", folder / "test.parquet")


def score(folder, examples, rows, format):
    task = write_task(folder, examples, rows)
    tie_answers("n", [task], format=format, output=folder / "answers", manifest={})
    common = {"task": "sums", "answer_form": "number", "prompts": task.prompts, "protocol_version": 1}
    strict = ScoringTask(name="sums-strict", protocol="strict", parser="strict", **common)
    stored = ScoringTask(name="sums-stored", protocol="stored", parser="strict", **common)
    output = folder / "scores.json"
    score_references(folder / "answers", tasks=[strict], stored=[stored], output=output, manifest={})
    return read_json(output)["tasks"]


def test_a_source_without_any_of_our_questions_is_refused(tmp_path):
    task = write_task(tmp_path, [example(0, "Q?", "5")], [row("What is 9 + 9?", "18")])
    message = r"n \(sums\): none of its 1 questions is one of the 1 of 'sums'; its first is 'What is 9 \+ 9'; correct"
    with pytest.raises(UserError, match=message):
        tie_answers("n", [task], format=PLAIN, output=tmp_path / "answers", manifest={})
    assert not (tmp_path / "answers").exists()


def test_an_answer_has_the_outcome_of_either_reading(tmp_path):
    examples = [example(number, f"Q{number}?", "5") for number in range(4)]
    rows = [
        row("Q0?", "The answer is 5.", reading="5.0"),
        row("Q1?", "The answer is 6.", reading="5"),
        row("Q2?", "", reading=None),
    ]
    tasks = score(tmp_path, examples, rows, PLAIN)
    outcomes = {name: [item["outcome"] for item in task["items"]] for name, task in tasks.items()}
    assert outcomes == {
        "sums-strict": ["right", "wrong", "empty"],
        "sums-stored": ["right", "right", "unparsable"],
    }
    assert {task["n"] for task in tasks.values()} == {3}
    assert len(read_jsonl(tmp_path / "answers/sums.jsonl")) == 3
    assert json.loads((tmp_path / "answers/ties.json").read_text())["sums"]["unanswered"] == ["sums/test/3"]


def test_a_judgement_by_another_gold_answer_counts_as_unread(tmp_path):
    format = ReferenceFormat(question="q", text="t", gold="g", correct="ok")
    examples = [example(number, f"Q{number}?", "5") for number in range(3)]
    rows = [
        {"q": f"Q{number}?", "t": "5", "g": gold, "ok": ok}
        for number, gold, ok in ((0, "5", True), (1, "6", True), (2, "5", False))
    ]
    items = score(tmp_path, examples, rows, format)["sums-stored"]["items"]
    assert [item["outcome"] for item in items] == ["right", "unparsable", "wrong"]
