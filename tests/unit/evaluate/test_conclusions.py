"""Texts without a stated answer: which number is the conclusion, and that no other number is parsed."""

import gzip
import json
from collections import Counter

import pytest

from pipeline.evaluate.parsing.conclusions import find_conclusion
from pipeline.evaluate.parsing.extract import is_correct, parse
from pipeline.evaluate.parsing.statements import STATEMENT
from pipeline.evaluate.parsing.turns import cut_to_first_answer

OUTCOMES = [
    ("3 + 4 = 7.\n\nTherefore, she has 7 apples.", 7),
    ("3 + 4 = 7. So she has 7.", 7),
    ("She buys 3 and 4, so she has 7 apples.", 7),
    ("Step 1: 3 + 4\nStep 2: Thus the total is $1,234.50.", 1234.5),
    ("6. Therefore, the temperature was -5 degrees.", -5),
    ("Hence the 5th graders earned $673.", 673),
    ("Therefore, the amount of 144 cans and 20 boxes is $12.00.", 12),
    ("Therefore, a 40-pound pack costs $66.", 66),
    ("6 * 2 = 12\nTherefore, 2 slices and 1 cup cost 12 dollars.", 12),
    ("So in total he pays 5 * 4 = $20.", 20),
    ("Therefore, 600 books were not sold.", 600),
    ("Therefore, the load that will not be too much is 52 pounds.", 52),
    ("560 / 10 = 56 nights\nThe crackers will last 56 nights.", 56),  # it repeats the last result
    ("x = 3 * 4 = 12\n\nArabic numerals: 12", 12),
    ("5 * 3 = 15", 15),
    ("$42.", 42),
    ("about 12 square miles", 12),
    ("60 km/h", 60),
    ("He pays $5. He has 3 left.", None),
    ("Now she has 12 apples.", None),
    ("She has 12 apples and 5 oranges.", None),
    ("3 + 4 = 7. He sells each jar for $50.", None),
    ("She runs 3 + 4 = 7 miles. That means she runs 7 * 2 = 14 miles.", None),  # a step, not a conclusion
    ("Therefore, it is 5 or 6.", None),
    ("Therefore, between 5 and 6 remain.", None),
    ("Therefore, there are 38 + x cakes.", None),
    ("So he has 5x.", None),
    ("So x = 40 - 11 - 22", None),
    ("So it is not 5.", None),
    ("So he does not have 5 apples.", None),
    ("So we cannot say, but 5 is likely.", None),
    ("3 + 4 = 7. Therefore, she has 8.", 8),
    (
        "3 + 4 = 7. Therefore, 7 apples and 1 pear, that is 8.",
        None,
    ),  # the result is repeated, and another number stated
    ("It is so far 5 miles.", None),
    ("I have 3 apples.\nSo what?", None),
    ("5 5 5 5", None),
    ("12-15", None),
    ("1999 was a good year for wine", None),
    ("=", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), OUTCOMES)
def test_the_conclusion_is_what_the_last_sentence_states(text, expected):
    assert find_conclusion(text) == expected
    assert parse(text, form="number", parser="strict") == expected
    assert parse(text, form="number", parser="strict", ended=False) is None


def read_unstated_solutions(path):
    """Yield the text and the gold number of each worked solution that does not state its answer."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            text = cut_to_first_answer(row["output"]).text
            if text and not STATEMENT.search(text) and "boxed" not in text:
                yield text, row["answer"]


def count_outcomes(texts):
    counts: Counter[str] = Counter()
    for text, gold in texts:
        value = parse(text, form="number", parser="strict")
        right = is_correct(value, gold, form="number", parser="strict")
        counts["unparsed" if value is None else "right" if right else "wrong"] += 1
    return counts


def test_real_solutions_are_parsed_by_their_conclusion(shared):
    real = shared / "data/real"
    texts = [*read_unstated_solutions(real / "derived/math_10k_partial/train_2120.jsonl.gz")]
    texts += read_unstated_solutions(real / "math_10k_partial/first46.jsonl.gz")
    assert len(texts) == 982
    counts = count_outcomes(texts)
    assert counts["right"] >= 964, counts
    assert counts["wrong"] <= 4, counts  # one of them says "26 billion miles" where the gold answer is 26


def test_real_solutions_without_a_conclusion_stay_unparsed(shared):
    counts = count_outcomes(read_unstated_solutions(shared / "data/real/gsm8k/test.jsonl.gz"))
    assert counts["right"] == 1, counts
    assert counts["wrong"] <= 3, counts  # by the last number 12
