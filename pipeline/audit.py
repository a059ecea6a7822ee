"""Contamination: which test questions a training set holds, word for word or nearly."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.io import write_json

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
_OTHER = re.compile(r"[^a-z0-9]+")
GRAM = 8
SHARE = 0.5


def words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case."""
    return _WORD.findall(text.lower())


def overlap(train: Sequence[str], test: Sequence[str], *, method: str) -> list[int]:
    """Return the indices of the test questions that are found in the training questions.

    Args:
        train: training questions.
        test: test questions.
        method: "exact" (equal letters and digits, lower case), "number-masked" (equal words, every number taken for
            equal) or "8-gram" (at least half of the question's 8-grams of words occur somewhere in ``train``; a
            question with no 8-gram never does).

    Raises:
        UserError: unknown method.
    """
    if method not in METHODS:
        raise UserError(f"audit method: unknown '{method}' (choices: {', '.join(METHODS)})")
    return METHODS[method](train, test)


def _letters(text: str) -> str:
    return _OTHER.sub("", text.lower())


def _masked(text: str) -> str:
    return " ".join("#" if word[0].isdigit() else word for word in words(text))


def _equal(key: Callable[[str], str]) -> Callable[[Sequence[str], Sequence[str]], list[int]]:
    def found(train: Sequence[str], test: Sequence[str]) -> list[int]:
        known = {key(question) for question in train}
        return [index for index, question in enumerate(test) if key(question) in known]

    return found


def _grams(text: str) -> list[tuple[str, ...]]:
    given = words(text)
    return [tuple(given[start : start + GRAM]) for start in range(len(given) - GRAM + 1)]


def _half_of_grams(train: Sequence[str], test: Sequence[str]) -> list[int]:
    of_test = [_grams(question) for question in test]
    asked = {gram for grams in of_test for gram in grams}
    known = {gram for question in train for gram in _grams(question) if gram in asked}
    return [
        index
        for index, grams in enumerate(of_test)
        if grams and sum(g in known for g in grams) >= SHARE * len(grams)
    ]


METHODS: dict[str, Callable[[Sequence[str], Sequence[str]], list[int]]] = {
    "exact": _equal(_letters),
    "number-masked": _equal(_masked),
    "8-gram": _half_of_grams,
}


def audit(train: Path, test: Path, *, output: Path, train_name: str, test_name: str) -> None:
    """Write what the prompts file ``test`` shares with the prompts file ``train``, by every method, as JSON."""
    questions = [
        pq.read_table(path, columns=["id", "instruction", "input"]).to_pylist() for path in (train, test)
    ]
    trained, asked = [[f"{row['instruction']} {row['input']}" for row in rows] for rows in questions]
    methods: dict[str, Any] = {}
    for method in METHODS:
        found = overlap(trained, asked, method=method)
        methods[method] = {"n": len(found), "ids": [questions[1][index]["id"] for index in found]}
    counts = {"n_train": len(trained), "n_test": len(asked)}
    write_json(output, {"train": train_name, "test": test_name, **counts, "methods": methods})
