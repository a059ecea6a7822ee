"""Conversion of the authors' rows: against every published file, and rows that cannot be converted."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.data.originals import published_bytes, to_instruction_row
from pipeline.data.records import make_records
from pipeline.data.sources import Checksums, checksum_mismatch
from pipeline.params.reading import read_card

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = file.read()
    return (
        json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    )


def match_instruction(pattern: str, row: Row) -> list[str]:
    match = re.fullmatch(pattern, row["instruction"], re.DOTALL)
    assert match, row
    return list(match.groups())


def question_and_options(row: Row, stem: str, count: int) -> tuple[str, list[str]]:
    options = " ".join(f"{stem}{number}: (.*?)" for number in range(1, count + 1))
    pattern = rf"Please choose the correct [^:]*: (.*)\n\n{options}\n\nAnswer format: .*"
    question, *texts = match_instruction(pattern, row)
    return question, texts


def answer_number(row: Row) -> int:
    return int(row["answer"][-1])


def as_boolq(row: Row) -> Row:
    (question,) = match_instruction(r"Please answer .*?, question: (.*)\?\n\nAnswer format: true/false", row)
    return {"question": question, "answer": row["answer"] == "true", "passage": "left out"}


def as_piqa(row: Row) -> Row:
    solutions = r"Solution1: (.*)\n\nSolution2: (.*)\n\nAnswer format: .*"
    goal, first, second = match_instruction(
        rf"Please choose the correct solution to the question: (.*)\n\n{solutions}", row
    )
    return {"goal": goal, "sol1": first, "sol2": second, "label": answer_number(row) - 1}


def as_social_i_qa(row: Row) -> Row:
    text, (a, b, c) = question_and_options(row, "Answer", 3)
    # any split of the text into context and question gives the same published row
    context, _, question = text.rpartition(". ")
    context, question = (f"{context}.", question) if context else text.split(" ", 1)
    answers = {"answerA": a, "answerB": b, "answerC": c}
    return {"context": context, "question": question, **answers, "label": str(answer_number(row))}


def as_winogrande(row: Row) -> Row:
    sentence, first, second = match_instruction(
        r"Please choose .*? given sentence: (.*)\n\nOption1: (.*) Option2: (.*) Answer format: .*", row
    )
    return {"sentence": sentence, "option1": first, "option2": second, "answer": str(answer_number(row))}


def science_columns(row: Row) -> tuple[str, Row]:
    """The question and the columns that ARC and OBQA share."""
    count = row["instruction"].rsplit("Answer format: ", 1)[1].count("/") + 1
    question, texts = question_and_options(row, "Answer", count)
    # the authors use both kinds of labels
    labels = list("ABCDE")[:count] if answer_number(row) % 2 else list("12345")[:count]
    key = labels[answer_number(row) - 1]
    return question, {"id": "x", "choices": {"text": texts, "label": labels}, "answerKey": key}


def as_arc(row: Row) -> Row:
    question, columns = science_columns(row)
    return {"question": question, **columns}


def as_openbookqa(row: Row) -> Row:
    question, columns = science_columns(row)
    return {"question_stem": question, **columns}


FILES: list[tuple[str, str, str, Callable[[Row], Row]]] = [
    (card, split, folder, to_original)
    for card, folder, to_original in [
        ("boolq", "boolq", as_boolq),
        ("piqa", "piqa", as_piqa),
        ("social_i_qa", "social_i_qa", as_social_i_qa),
        ("winogrande", "winogrande", as_winogrande),
        ("arc-easy", "ARC-Easy", as_arc),
        ("arc-challenge", "ARC-Challenge", as_arc),
        ("openbookqa", "openbookqa", as_openbookqa),
    ]
    for split in ("train", "test")
]


@pytest.mark.parametrize(("card", "split", "folder", "to_original"), FILES)
def test_converted_rows_are_the_published_file_byte_for_byte(shared, card, split, folder, to_original):
    published = read_rows(shared / "data" / "real" / folder / f"{split}.jsonl.gz")
    converted = [to_instruction_row(to_original(row)) for row in published]
    assert converted == published
    sources = read_card("datasets", card).splits[split].sources
    hub_source = next(source for source in sources if source.kind == "hub")
    assert hub_source.git_blob
    stated = Checksums(git_blob=hub_source.git_blob)
    assert checksum_mismatch(published_bytes(converted), stated) is None


def test_original_hellaswag_rows_become_the_published_rows(shared):
    real = shared / "data" / "real"
    published = {
        row["instruction"]: row for row in read_rows(real / "derived/hellaswag/test_partial.jsonl.gz")
    }
    original = read_rows(real / "raw/hellaswag/rubriks_val_1000.jsonl.gz")
    assert len(original) == 1000
    for row in original:
        # a string, as on the hub
        converted = to_instruction_row({**row, "label": str(row["label"])})
        assert converted == published[converted["instruction"]]


HELLASWAG = {"activity_label": "a", "ctx": "b", "endings": ["c", "d", "e", "f"], "label": ""}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        # the test rows on the hub have no label
        (HELLASWAG, "the answer is '', not one of 0 to 3"),
        ({"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "not one of 0 to 1"),
        ({"question": "q", "passage": "p", "answer": "yes"}, "'answer' is 'yes'"),
        ({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}, "not one of A"),
        ({"question": "q", "choices": ["a", "b"], "answerKey": "A"}, "has the columns answerKey, choices"),
        ({"question": "q", "answer": "no mark"}, "no '####'"),
    ],
)
def test_a_row_that_cannot_be_converted_is_malformed(row, message):
    with pytest.raises(UserError, match="row 0") as caught:
        list(make_records([row], task="t", split="s", answer_form="mixed"))
    assert message in str(caught.value)


def test_a_row_with_an_instruction_is_not_converted():
    row = {"instruction": "i", "question": "q", "answer": "1", "passage": "p"}
    assert to_instruction_row(row) == row


def questions(rows: list[Row], form: str) -> dict[str, Any]:
    records = make_records(rows, task="t", split="test", answer_form=form)
    return {"".join(record["instruction"].split()): record["answer"] for record in records}


def test_original_aqua_and_svamp_rows_become_the_published_test_files(shared):
    real = shared / "data" / "real"
    published, original = (
        questions(read_rows(real / folder / "test.jsonl.gz"), "letter") for folder in ("AQuA", "raw/AQuA")
    )
    assert original == published
    published, original = (
        questions(read_rows(real / file), "number")
        for file in ("SVAMP/test.jsonl.gz", "raw/SVAMP/SVAMP.json.gz")
    )
    assert original == published
