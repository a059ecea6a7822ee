"""Contamination: which test questions a training set holds, word for word or nearly, and what sets hold twice."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.io import write_json

Row = Mapping[str, Any]

METHODS = ("exact", "number-masked", "8-gram", "stem")
ANY = "any"  # all methods together, where a training set is cleaned
GRAM = 8
SHARE = 0.5
EXAMPLES = 2  # shown for each method of a training set and a test

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
_OTHER = re.compile(r"[^a-z0-9]+")
# The published commonsense prompts put every question into the same words; they would count as common 8-grams.
_WORDING = re.compile(r"Please [^:\n]*: *(.*?)\s*Answer format:[^\n]*\s*", re.DOTALL)
_OPTIONS = re.compile(
    r"\s(?:(?:answer|option|ending|solution)1:|answer choices:|the options:)", re.IGNORECASE
)


def words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case."""
    return _WORD.findall(text.lower())


def question(row: Row) -> str:
    """Return what a row asks: instruction and input, without the words that a published prompt puts around them."""
    text = f"{row['instruction']} {row['input']}".strip()
    worded = _WORDING.fullmatch(text)
    return worded[1] if worded else text


def overlap(train: Sequence[str], test: Sequence[str], *, method: str) -> list[int]:
    """Return the indices of the test questions that are found in the training questions.

    Args:
        train: training questions.
        test: test questions.
        method: "exact" (equal letters and digits, lower case), "number-masked" (equal words, every number taken for
            equal), "8-gram" (at least half of the question's 8-grams of words occur somewhere in ``train``; a
            question with no 8-gram never does) or "stem" (as "exact", of what stands before the options).

    Raises:
        UserError: unknown method.
    """
    if method not in METHODS:
        raise UserError(f"audit method: unknown '{method}' (choices: {', '.join(METHODS)})")
    found = matches(((str(number), text) for number, text in enumerate(train)), test, methods=[method])
    return sorted(found[method])


def _letters(text: str) -> str:
    return _OTHER.sub("", text.lower())


def _stem(text: str) -> str:
    return _letters(_OPTIONS.split(text, maxsplit=1)[0])


def _masked(text: str) -> str:
    return " ".join(["#" if word[0].isdigit() else word for word in words(text)])


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    given = words(text)
    return zip(*(given[start:] for start in range(GRAM)), strict=False)


EQUAL: dict[str, Callable[[str], str]] = {"exact": _letters, "number-masked": _masked, "stem": _stem}


def matches(
    train: Iterable[tuple[str, str]], test: Sequence[str], *, methods: Sequence[str] = METHODS
) -> dict[str, dict[int, str]]:
    """Return, for each method, which test questions are found in the training questions and where.

    ``train`` is read once, a question at a time, however many tests ``test`` puts together; time is linear in both.

    Args:
        train: (row id, question).
        test: the test questions.
        methods: as for ``overlap``.

    Returns:
        Index in ``test`` -> id of a training row: the first that equals it, or for "8-gram" the one that is the first
        to hold most of its 8-grams. A question without letters and digits is never found.
    """
    equal = {method: key for method, key in EQUAL.items() if method in methods}
    keys = {method: [key(text) for text in test] for method, key in equal.items()}
    wanted = {method: set(of_test) - {""} for method, of_test in keys.items()}
    grams = [list(_grams(text)) for text in test] if "8-gram" in methods else []
    asked = {gram for of_question in grams for gram in of_question}
    first: dict[str, dict[Any, str]] = {method: {} for method in (*equal, "8-gram")}
    for row, text in train:
        for method, key in equal.items():
            if (found := key(text)) in wanted[method]:
                first[method].setdefault(found, row)
        if asked:
            for gram in asked.intersection(_grams(text)):
                first["8-gram"].setdefault(gram, row)
    found_in = {
        method: {index: first[method][key] for index, key in enumerate(keys[method]) if key in first[method]}
        for method in equal
    }
    if "8-gram" in methods:
        found_in["8-gram"] = _mostly_held(grams, first["8-gram"])
    return {method: found_in[method] for method in methods}


def _mostly_held(grams: Sequence[Sequence[Any]], held: Mapping[Any, str]) -> dict[int, str]:
    found = {}
    for index, of_question in enumerate(grams):
        rows = [held[gram] for gram in of_question if gram in held]
        if rows and len(rows) >= SHARE * len(of_question):
            found[index] = Counter(rows).most_common(1)[0][0]
    return found


def leaks(train: Callable[[], Iterable[Row]], tests: Iterable[Row], *, method: str) -> dict[str, str]:
    """Return the training rows without which ``method`` finds no test question any more.

    For "8-gram", where several rows together may hold half of a question, that question's rarest 8-grams lose their
    rows until less than half are left: copies go, and a row that merely shares a common phrase stays if it can.

    Args:
        train: makes the training rows: id, instruction, input.
        tests: the test rows, of any number of tests.
        method: as for ``overlap``, or "any": all of them.

    Returns:
        Id of the training row -> id of a test row that it would give away.

    Raises:
        UserError: unknown method.
    """
    if method not in (*METHODS, ANY):
        raise UserError(f"without: unknown method '{method}' (choices: {', '.join((*METHODS, ANY))})")
    asked = list(_asked(tests))
    found: dict[str, str] = {}
    for one in METHODS if method == ANY else [method]:
        found |= _leaks((row for row in train() if row["id"] not in found), asked, one)
    return found


def _leaks(train: Iterable[Row], asked: Sequence[tuple[str, str]], method: str) -> dict[str, str]:
    if method in EQUAL:
        key = EQUAL[method]
        known = {key(text): row for row, text in reversed(asked)}
        known.pop("", None)
        keyed = ((row, key(text)) for row, text in _asked(train))
        return {row: known[found] for row, found in keyed if found in known}
    grams = {row: list(_grams(text)) for row, text in asked}
    holders: dict[Any, list[str]] = {gram: [] for of_question in grams.values() for gram in of_question}
    held = set(holders)
    for row, text in _asked(train):
        for gram in held.intersection(_grams(text)):
            holders[gram].append(row)
    return _rarest(grams, holders)


def _rarest(grams: Mapping[str, Sequence[Any]], holders: Mapping[Any, Sequence[str]]) -> dict[str, str]:
    """Return the rows to leave out, so that ``holders`` has less than half of each question's ``grams``."""
    rows: dict[str, str] = {}
    for test, of_question in grams.items():
        known = [gram for gram in of_question if any(row not in rows for row in holders[gram])]
        if len(known) >= SHARE * len(of_question):
            known.sort(key=lambda gram: sum(row not in rows for row in holders[gram]))
        while known and len(known) >= SHARE * len(of_question):
            rows |= {row: test for row in holders[known[0]] if row not in rows}
            known = [gram for gram in known if any(row not in rows for row in holders[gram])]
    return rows


def _asked(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    return ((row["id"], question(row)) for row in rows)


def repeats(rows: Iterable[Row]) -> dict[str, Any]:
    """Return what a set holds more than once, by letters and digits, as pairs (row id, id of the first such row).

    Returns:
        {"n" (rows), "repeats": rows whose question stood before, "conflicts": those of them with another answer}.
    """
    first: dict[bytes, tuple[str, str]] = {}
    found: dict[str, Any] = {"n": 0, "repeats": [], "conflicts": []}
    for row in rows:
        found["n"] += 1
        key = _letters(question(row))
        if not key:
            continue
        # 128 bits stand for the text, so that memory does not grow with its length
        known = first.setdefault(
            blake2b(key.encode(), digest_size=16).digest(), (row["id"], str(row["answer"]))
        )
        if known[0] != row["id"]:
            found["repeats"].append([row["id"], known[0]])
            if not _same(row["answer"], known[1]):
                found["conflicts"].append([row["id"], known[0]])
    return found


def between(tests: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Return for each two tests that share questions: their names, n (questions) and for each the first rows' ids."""
    first: dict[str, dict[str, str]] = defaultdict(dict)
    for test, rows in tests.items():
        for row, text in _asked(rows):
            if key := _letters(text):
                first[key].setdefault(test, row)
    shared: dict[tuple[str, str], list[list[str]]] = {pair: [] for pair in combinations(tests, 2)}
    for places in first.values():
        for one, other in combinations(places, 2):
            shared[one, other].append([places[one], places[other]])
    return [{"tests": list(pair), "n": len(ids), "ids": ids} for pair, ids in shared.items() if ids]


def _same(one: Any, other: Any) -> bool:
    if not one or not other:
        return True  # free text has no answer that could be compared
    try:
        return float(str(one).replace(",", "")) == float(str(other).replace(",", ""))
    except ValueError:
        return str(one).strip() == str(other).strip()


def audit(train: Path, tests: Mapping[str, Path], *, output: Path, train_name: str) -> None:
    """Write what a training set shares with tests, and what each of them repeats, as JSON.

    Args:
        train: prompts file of the training set; it is never wholly in memory.
        tests: name -> prompts file.
        output: file to write: "tests" (by name: n_test, methods, conflicts, examples), "repeats" (training set and
            tests), "between" (tests) and, of a cleaned training set, "left_out".
        train_name: of the training set.
    """
    rows = {name: list(_rows(path)) for name, path in tests.items()}
    every = [(name, row) for name, of_test in rows.items() for row in of_test]
    found = matches(_asked(_rows(train)), [question(row) for _, row in every])
    wanted = {row for by_index in found.values() for row in by_index.values()}
    trained = {row["id"]: row for row in _rows(train) if row["id"] in wanted}
    told: dict[str, Any] = {name: _told(name, every, found, trained) for name in tests}
    write_json(
        output,
        {
            "train": train_name,
            "n_train": pq.read_metadata(train).num_rows,
            "left_out": left_out(train),
            "tests": told,
            "repeats": {
                "train": repeats(_rows(train)),
                "tests": {name: repeats(of_test) for name, of_test in rows.items()},
            },
            "between": between(rows),
        },
    )


def _told(
    name: str,
    every: Sequence[tuple[str, Row]],
    found: Mapping[str, Mapping[int, str]],
    trained: Mapping[str, Row],
) -> dict[str, Any]:
    """Return one test's part of the audit."""
    own = {index for index, (test, _) in enumerate(every) if test == name}
    pairs = {
        method: [(every[index][1], by_index[index]) for index in sorted(own & by_index.keys())]
        for method, by_index in found.items()
    }
    differ = [(row, at) for row, at in pairs["exact"] if not _same(row["answer"], trained[at]["answer"])]
    return {
        "n_test": len(own),
        "methods": {
            method: {"n": len(of), "ids": [row["id"] for row, _ in of], "train_ids": [at for _, at in of]}
            for method, of in pairs.items()
        },
        "conflicts": [[row["id"], at] for row, at in differ],
        "examples": list(_examples(pairs, trained)),
    }


def _examples(
    pairs: Mapping[str, Sequence[tuple[Row, str]]], trained: Mapping[str, Row]
) -> Iterator[dict[str, str]]:
    """Yield for each method the first rows that no method before it has found."""
    shown: set[str] = set()
    for method, of_method in pairs.items():
        new = [(row, at) for row, at in of_method if row["id"] not in shown]
        shown |= {row["id"] for row, _ in new}
        for row, at in new[:EXAMPLES]:
            yield {
                "method": method,
                "id": row["id"],
                "question": question(row),
                "answer": str(row["answer"]),
                "train_id": at,
                "train_question": question(trained[at]),
                "train_answer": str(trained[at]["answer"]),
            }


def left_out(prompts: Path) -> Any:
    """Return what a cleaned training set was made without (method, tests, rows), as its file says; else None."""
    said = (pq.read_schema(prompts).metadata or {}).get(b"left_out")
    return None if said is None else json.loads(said)


def _rows(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(4096, columns=["id", "instruction", "input", "answer"]):
            yield from batch.to_pylist()
