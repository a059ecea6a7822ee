"""The audit: overlaps and repeats in the real data sets, and what cleaning removes."""

import gzip
import json

import pytest

from pipeline.audit import (
    METHODS,
    find_leaks,
    find_matches,
    find_repeats,
    find_shared_questions,
    overlap,
)
from pipeline.audit.questions import GRAM_SIZE, question_text, split_words
from pipeline.core.errors import UserError

KEYS = ("instruction", "original_text", "sQuestion", "question")
TRAINING = {
    "math_data.json": "math_data_v1_LEAKS_TESTS/train.jsonl.gz",
    "mawps/trainset": "raw/mawps/trainset.json.gz",
    "mawps-single/trainset": "raw/mawps-single/trainset.json.gz",
    "gsm8k/train.jsonl": "raw/gsm8k/train.jsonl.gz",
}


def load(shared, path: str) -> list[dict]:
    """Rows of a real file as the audit reads them; ids are row numbers."""
    text = gzip.decompress((shared / "data/real" / path).read_bytes()).decode()
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [
        {
            "id": str(number),
            "instruction": str(next(row[key] for key in KEYS if key in row)),
            "input": row.get("input", ""),
            "answer": row.get("answer", row.get("ans")),
        }
        for number, row in enumerate(rows)
    ]


def identify_questions(rows):
    return [(row["id"], question_text(row)) for row in rows]


def count_matches(train: list[dict], test: list[dict]) -> dict[str, int]:
    matches = find_matches(identify_questions(train), [question_text(row) for row in test])
    return {method: len(by_index) for method, by_index in matches.items()}


def make_rows(*texts: str, answers: str = "") -> list[dict]:
    return [
        {"id": f"r{n}", "instruction": text, "input": "", "answer": (answers or "x" * len(texts))[n]}
        for n, text in enumerate(texts)
    ]


def test_counts_equal_the_golden_file(shared):
    table = json.loads((shared / "golden/contamination.json").read_text())["table"]
    assert len(table) == 4
    for row in table:
        train, test = (
            load(shared, TRAINING[row["train"]]),
            load(shared, f"{row['test']}/test.jsonl.gz"),
        )
        counts = count_matches(train, test)
        assert len(test) == row["n_test"]
        assert (counts["exact"], counts["number-masked"]) == (row["exact"], row["number_masked"])
        assert counts["8-gram"] == row["gram8_ge50pct"]
        grams = [
            [tuple(words[start : start + GRAM_SIZE]) for start in range(len(words) - GRAM_SIZE + 1)]
            for words in split_instructions(test)
        ]
        train_grams = {
            tuple(words[start : start + GRAM_SIZE])
            for words in split_instructions(train)
            for start in range(len(words) - GRAM_SIZE + 1)
        }
        assert sum(bool(train_grams.intersection(question)) for question in grams) == row["gram8_any"]
        assert sum(bool(question) for question in grams) == row["n_with_8gram"]


def split_instructions(rows: list[dict]) -> list[list[str]]:
    return [split_words(row["instruction"]) for row in rows]


def test_overlaps_of_the_real_sets(shared):
    arithmetic = {"MultiArith": (490, 585), "AddSub": (327, 379), "SingleEq": (436, 478), "mawps": (28, 181)}
    mawps, single = (load(shared, TRAINING[name]) for name in ("mawps/trainset", "mawps-single/trainset"))
    for name, counts in arithmetic.items():
        test = load(shared, f"{name}/test.jsonl.gz")
        assert (count_matches(mawps, test)["exact"], count_matches(mawps + single, test)["exact"]) == counts
    # by question stem, but by the whole question where it has no options (BoolQ) or a short stem (PIQA)
    commonsense = {"boolq": ("exact", 6), "piqa": ("exact", 2)}
    commonsense |= {
        name: ("stem", n) for name, n in (("ARC-Easy", 7), ("ARC-Challenge", 7), ("openbookqa", 23))
    }
    for name, (method, counts) in commonsense.items():
        train, test = (load(shared, f"{name}/{split}.jsonl.gz") for split in ("train", "test"))
        assert count_matches(train, test)[method] == counts
    train, test = load(shared, "ARC-Easy/train.jsonl.gz"), load(shared, "ARC-Challenge/test.jsonl.gz")
    assert count_matches(train, test)["stem"] == 2


def test_repeats_and_conflicts_of_the_real_sets(shared):
    repeats = {"MultiArith/test": 20, "mawps/test": 4, "social_i_qa/test": 24, "openbookqa/train": 5}
    for name, n in (repeats | {"ARC-Challenge/train": 1, "piqa/train": 6}).items():
        assert len(find_repeats(load(shared, f"{name}.jsonl.gz"))["repeats"]) == n, name
    siqa = find_repeats(load(shared, "social_i_qa/test.jsonl.gz"))
    differ = {("941", "11"), ("1315", "762"), ("1146", "934"), ("1831", "1012"), ("1225", "1168")}
    assert {tuple(pair) for pair in siqa["conflicts"]} == differ
    tests = {
        name: load(shared, f"{name}/test.jsonl.gz") for name in ("MultiArith", "AddSub", "SingleEq", "mawps")
    }
    assert {tuple(shared["tests"]): shared["n"] for shared in find_shared_questions(tests)} == {
        ("AddSub", "SingleEq"): 126,
        ("MultiArith", "mawps"): 53,
        ("AddSub", "mawps"): 58,
        ("SingleEq", "mawps"): 62,
    }


def test_a_match_gives_the_training_row():
    train = [
        ("a", "one two three four five six seven eight"),
        ("b", "Tom has 3 apples and then he buys 4 more apples at the shop"),
        ("c", "Tom has 9 apples and then he buys 4 more apples at the shop"),
        ("d", "What is a cat? Answer1: it Answer2: animal"),
    ]
    test = [
        "Tom has 9 apples and then he buys 4 more apples at the shop!",
        "Tom had 3 apples and then he buys 4 more apples at the shop",
        "What is a cat? Answer1: plant Answer2: animal",
        "¿¿ ??",
        "Something else.",
    ]
    assert find_matches(train, test) == {
        "exact": {0: "c"},
        "number-masked": {0: "b"},
        "8-gram": {0: "b", 1: "b"},
        "stem": {0: "c", 2: "d"},
    }


def test_texts_without_letters_do_not_match():
    assert overlap(["你好"], ["再见", ""], method="exact") == []


def test_an_unknown_method_is_an_error_with_the_choices():
    for call in (lambda: overlap([], [], method="same"), lambda: find_leaks(list, [], method="same")):
        with pytest.raises(UserError, match=r"'same' .choices: exact, number-masked, 8-gram, stem"):
            call()


# the second as the embedded world writes it
@pytest.mark.parametrize("change", [str, str.lower])
def test_the_published_wording_is_not_part_of_the_question(change):
    worded = change(
        "Please answer the following question with true or false, question: {}?\n\nAnswer format: true/false"
    )
    train, test = (make_rows(worded.format(text)) for text in ("is a cat an animal", "is a dog an animal"))
    assert question_text(test[0]) == "is a dog an animal?"
    assert count_matches(train, test) == dict.fromkeys(METHODS, 0)


def test_equal_numbers_in_different_notation_are_the_same_answer():
    rows = make_rows("How many?", "how many", "How  many", "Who?")
    for row, answer in zip(rows, ("15", "15.0", "16", "1,000"), strict=True):
        row["answer"] = answer
    assert find_repeats(rows) == {
        "n": 4,
        "repeats": [["r1", "r0"], ["r2", "r0"]],
        "conflicts": [["r2", "r0"]],
    }


LONG = "the quick brown fox jumps over the lazy dog and then it runs far away from here"


@pytest.mark.parametrize("method", [*METHODS, "any"])
def test_a_cleaned_set_has_no_matches_and_loses_little_else(shared, method):
    train = load(shared, TRAINING["mawps/trainset"])
    test = load(shared, "MultiArith/test.jsonl.gz")
    leaks = find_leaks(lambda: train, test, method=method)
    cleaned = [row for row in train if row["id"] not in leaks]
    remaining = count_matches(cleaned, test)
    for single in METHODS if method == "any" else [method]:
        assert count_matches(train, test)[single] > 400
        assert remaining[single] == 0
    assert len(cleaned) > 1000
    assert set(leaks.values()) <= {row["id"] for row in test}


def test_rows_that_together_contain_half_of_a_question_lose_the_rarest_part():
    halves = [
        LONG[:50],
        LONG[30:],
        "the quick brown fox jumps over the lazy cat",
        "unrelated words stand here",
    ]
    common = "the quick brown fox jumps over the lazy dog sleeps"
    train = make_rows(*halves, common, common + " again")
    test = [{"id": "t", "instruction": LONG, "input": "", "answer": "1"}]
    assert overlap([row["instruction"] for row in train], [LONG], method="8-gram") == [0]
    leaks = find_leaks(lambda: train, test, method="8-gram")
    cleaned = [row["instruction"] for row in train if row["id"] not in leaks]
    assert overlap(cleaned, [LONG], method="8-gram") == []
    assert halves[2] in cleaned
    assert common in cleaned


@pytest.mark.parametrize(("method", "expected"), [("exact", [0]), ("number-masked", [0, 1]), ("8-gram", [0])])
def test_overlap_by_each_method(method, expected):
    train = ["Tom has 3 apples and then he buys 4 more apples at the shop."]
    test = [
        train[0].upper(),
        train[0].replace("3", "5").replace("4", "6.5").replace("buys", "buys"),
        "Another one?",
    ]
    assert overlap(train, test, method=method) == expected
