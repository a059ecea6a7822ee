"""The audit stage: one training set against the tests of a study, and repeated questions within and between them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import cast

from pipeline.audit.matching import find_matches
from pipeline.audit.questions import identified_questions, letters_and_digits, question_text
from pipeline.audit.rows import (
    AuditFile,
    MatchExample,
    Question,
    RemovedRows,
    Repeats,
    SharedQuestions,
    TestAudit,
)
from pipeline.core.io import write_json
from pipeline.core.numbers import gold_number

# for each method of a training set and a test
EXAMPLES = 2
ROWS_IN_MEMORY = 4096


def write_audit(train: Path, tests: Mapping[str, Path], *, output: Path, train_name: str) -> None:
    """Write what a training set shares with tests, and what each of them repeats, as JSON.

    Args:
        train: prompts file of the training set; it is never completely in memory.
        tests: name -> prompts file.
        output: the file to write.
        train_name: name of the training set.
    """
    # a command that only names clusters imports this module, and needs no pyarrow
    import pyarrow.parquet as pq

    rows = {name: list(_read_questions(path)) for name, path in tests.items()}
    # all tests together, so that the training set is read once
    test_rows = [(name, row) for name, rows_of_test in rows.items() for row in rows_of_test]
    matches = find_matches(
        identified_questions(_read_questions(train)), [question_text(row) for _, row in test_rows]
    )
    matched_ids = {train_id for by_index in matches.values() for train_id in by_index.values()}
    train_rows = {row["id"]: row for row in _read_questions(train) if row["id"] in matched_ids}
    content: AuditFile = {
        "train": train_name,
        "n_train": pq.read_metadata(train).num_rows,
        "left_out": read_removed_rows(train),
        "tests": {name: _audit_test(name, test_rows, matches, train_rows) for name in tests},
        "repeats": {
            "train": find_repeats(_read_questions(train)),
            "tests": {name: find_repeats(rows_of_test) for name, rows_of_test in rows.items()},
        },
        "between": find_shared_questions(rows),
    }
    write_json(output, content)


def read_removed_rows(prompts: Path) -> RemovedRows | None:
    """Return the rows that a cleaned training set leaves out, from the metadata of its prompts file; None: not cleaned."""
    import pyarrow.parquet as pq

    metadata = (pq.read_schema(prompts).metadata or {}).get(b"left_out")
    return None if metadata is None else cast(RemovedRows, json.loads(metadata))


def find_repeats(rows: Iterable[Question]) -> Repeats:
    """Return the repeated questions of a set; questions are equal if their letters and digits are."""
    # key of a question -> id and answer of its first row
    first: dict[bytes, tuple[str, str]] = {}
    repeats: Repeats = {"n": 0, "repeats": [], "conflicts": []}
    for row in rows:
        repeats["n"] += 1
        key = letters_and_digits(question_text(row))
        if not key:
            continue
        # a hash of 128 bits instead of the text, so that memory does not grow with its length
        digest = blake2b(key.encode(), digest_size=16).digest()
        first_id, first_answer = first.setdefault(digest, (row["id"], str(row["answer"])))
        if first_id != row["id"]:
            repeats["repeats"].append([row["id"], first_id])
            if not _equal_answers(row["answer"], first_answer):
                repeats["conflicts"].append([row["id"], first_id])
    return repeats


def find_shared_questions(tests: Mapping[str, Sequence[Question]]) -> list[SharedQuestions]:
    """Return the questions that two tests share, for each pair of tests that shares any."""
    # key of a question -> test -> id of its first row
    first: dict[str, dict[str, str]] = defaultdict(dict)
    for test, rows in tests.items():
        for row, text in identified_questions(rows):
            if key := letters_and_digits(text):
                first[key].setdefault(test, row)
    shared: dict[tuple[str, str], list[list[str]]] = {pair: [] for pair in combinations(tests, 2)}
    for row_by_test in first.values():
        for a, b in combinations(row_by_test, 2):
            shared[a, b].append([row_by_test[a], row_by_test[b]])
    return [{"tests": list(pair), "n": len(ids), "ids": ids} for pair, ids in shared.items() if ids]


def _equal_answers(answer: str, first_answer: str) -> bool:
    # free text has no answer to compare
    if not answer or not first_answer:
        return True
    try:
        return gold_number(str(answer)) == gold_number(str(first_answer))
    except ValueError:
        return str(answer).strip() == str(first_answer).strip()


def _audit_test(
    name: str,
    test_rows: Sequence[tuple[str, Question]],
    matches: Mapping[str, Mapping[int, str]],
    train_rows: Mapping[str, Question],
) -> TestAudit:
    """Return the part of one test; the indices in ``matches`` are those of ``test_rows``, the rows of all tests."""
    own = {index for index, (test, _) in enumerate(test_rows) if test == name}
    pairs = {
        method: [(test_rows[index][1], by_index[index]) for index in sorted(own & by_index.keys())]
        for method, by_index in matches.items()
    }
    return {
        "n_test": len(own),
        "methods": {
            method: {
                "n": len(method_pairs),
                "ids": [row["id"] for row, _ in method_pairs],
                "train_ids": [train_id for _, train_id in method_pairs],
            }
            for method, method_pairs in pairs.items()
        },
        "conflicts": [
            [row["id"], train_id]
            for row, train_id in pairs["exact"]
            if not _equal_answers(row["answer"], train_rows[train_id]["answer"])
        ],
        "examples": list(_match_examples(pairs, train_rows)),
    }


def _match_examples(
    pairs: Mapping[str, Sequence[tuple[Question, str]]], train_rows: Mapping[str, Question]
) -> Iterator[MatchExample]:
    """Yield for each method the first rows that no method before it finds."""
    seen: set[str] = set()
    for method, method_pairs in pairs.items():
        new = [(row, train_id) for row, train_id in method_pairs if row["id"] not in seen]
        seen |= {row["id"] for row, _ in new}
        for row, train_id in new[:EXAMPLES]:
            train_row = train_rows[train_id]
            yield {
                "method": method,
                "id": row["id"],
                "question": question_text(row),
                "answer": str(row["answer"]),
                "train_id": train_id,
                "train_question": question_text(train_row),
                "train_answer": str(train_row["answer"]),
            }


def _read_questions(path: Path) -> Iterator[Question]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_IN_MEMORY, columns=list(Question.__annotations__)):
            yield from batch.to_pylist()
