"""The authors' rows, put into the published words: against every published file, and what cannot be converted."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.data.http import mismatch
from pipeline.data.originals import instruction_row, published_bytes
from pipeline.data.rows import records
from pipeline.params.reading import read_card

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = file.read()
    return (
        json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    )


def taken(pattern: str, row: Row) -> list[str]:
    found = re.fullmatch(pattern, row["instruction"], re.DOTALL)
    assert found, row
    return list(found.groups())


def listed(row: Row, word: str, of: int) -> tuple[str, list[str]]:
    options = " ".join(f"{word}{number}: (.*?)" for number in range(1, of + 1))
    asked, *texts = taken(rf"Please choose the correct [^:]*: (.*)\n\n{options}\n\nAnswer format: .*", row)
    return asked, texts


def number_of(row: Row) -> int:
    return int(row["answer"][-1])


def as_boolq(row: Row) -> Row:
    (asked,) = taken(r"Please answer .*?, question: (.*)\?\n\nAnswer format: true/false", row)
    return {"question": asked, "answer": row["answer"] == "true", "passage": "left out"}


def as_piqa(row: Row) -> Row:
    solutions = r"Solution1: (.*)\n\nSolution2: (.*)\n\nAnswer format: .*"
    goal, one, two = taken(rf"Please choose the correct solution to the question: (.*)\n\n{solutions}", row)
    return {"goal": goal, "sol1": one, "sol2": two, "label": number_of(row) - 1}


def as_social_i_qa(row: Row) -> Row:
    asked, (one, two, three) = listed(row, "Answer", 3)
    context, _, question = asked.rpartition(". ")  # where the two are joined does not matter
    context, question = (f"{context}.", question) if context else asked.split(" ", 1)
    answers = {"answerA": one, "answerB": two, "answerC": three}
    return {"context": context, "question": question, **answers, "label": str(number_of(row))}


def as_winogrande(row: Row) -> Row:
    sentence, one, two = taken(
        r"Please choose .*? given sentence: (.*)\n\nOption1: (.*) Option2: (.*) Answer format: .*", row
    )
    return {"sentence": sentence, "option1": one, "option2": two, "answer": str(number_of(row))}


def science(row: Row) -> tuple[str, Row]:
    of = row["instruction"].rsplit("Answer format: ", 1)[1].count("/") + 1
    asked, texts = listed(row, "Answer", of)
    labels = list("ABCDE")[:of] if number_of(row) % 2 else list("12345")[:of]  # the authors have both
    return asked, {
        "id": "x",
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[number_of(row) - 1],
    }


def as_arc(row: Row) -> Row:
    asked, rest = science(row)
    return {"question": asked, **rest}


def as_openbookqa(row: Row) -> Row:
    asked, rest = science(row)
    return {"question_stem": asked, **rest}


FILES: list[tuple[str, str, str, Callable[[Row], Row]]] = [
    (card, split, folder, back)
    for card, folder, back in [
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


@pytest.mark.parametrize(("card", "split", "folder", "back"), FILES)
def test_the_authors_columns_become_the_published_file_byte_by_byte(shared, card, split, folder, back):
    published = rows_of(shared / "data" / "real" / folder / f"{split}.jsonl.gz")
    made = [instruction_row(back(row)) for row in published]
    assert made == published
    stated = next(one for one in read_card("datasets", card).splits[split].sources if one.kind == "hub")
    assert stated.git_blob
    assert mismatch(published_bytes(made), {"git_blob": stated.git_blob}) is None


def test_hellaswag_as_its_authors_give_it_becomes_the_published_rows(shared):
    real = shared / "data" / "real"
    published = {row["instruction"]: row for row in rows_of(real / "derived/hellaswag/test_partial.jsonl.gz")}
    original = rows_of(real / "raw/hellaswag/rubriks_val_1000.jsonl.gz")
    assert len(original) == 1000
    for row in original:
        made = instruction_row({**row, "label": str(row["label"])})  # the hub has a string
        assert made == published[made["instruction"]]


HELLASWAG = {"activity_label": "a", "ctx": "b", "endings": ["c", "d", "e", "f"], "label": ""}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (HELLASWAG, "the answer is '', not one of 0 to 3"),  # the hub's test rows have no label
        ({"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "not one of 0 to 1"),
        ({"question": "q", "passage": "p", "answer": "yes"}, "'answer' is 'yes'"),
        ({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}, "none of A"),
        ({"question": "q", "choices": ["a", "b"], "answerKey": "A"}, "has the columns answerKey, choices"),
        ({"question": "q", "answer": "no mark"}, "no '####'"),
    ],
)
def test_a_row_that_cannot_be_converted_is_malformed(row, told):
    with pytest.raises(UserError, match="row 0") as caught:
        list(records([row], task="t", split="s", answer_form="mixed"))
    assert told in str(caught.value)


def test_a_row_in_the_instruction_format_stays_whatever_else_it_has():
    row = {"instruction": "i", "question": "q", "answer": "1", "passage": "p"}
    assert instruction_row(row) == row


def questions(rows: list[Row], form: str) -> dict[str, Any]:
    made = records(rows, task="t", split="test", answer_form=form)
    return {"".join(row["instruction"].split()): row["answer"] for row in made}


def test_aqua_and_svamp_as_their_authors_give_them_read_as_the_published_test_files(shared):
    real = shared / "data" / "real"
    published, original = (
        questions(rows_of(real / folder / "test.jsonl.gz"), "letter") for folder in ("AQuA", "raw/AQuA")
    )
    assert original == published
    published, original = (
        questions(rows_of(real / file), "number")
        for file in ("SVAMP/test.jsonl.gz", "raw/SVAMP/SVAMP.json.gz")
    )
    assert original == published
