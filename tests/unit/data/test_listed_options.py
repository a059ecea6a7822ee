"""The labels that a question offers, however its options are written."""

import gzip
import json

import pytest

from pipeline.core.errors import UserError
from pipeline.data.options import find_option_marks, list_choices
from pipeline.data.records import make_records
from pipeline.evaluate.parsing.options import find_option_texts

WORDS = ("2 kg", "3.5 kg", "no more")


def write_question(mark: str, separator: str) -> str:
    options = separator.join(
        f"{mark.replace('A', letter)} {words}" for letter, words in zip("ABC", WORDS, strict=True)
    )
    return f"How much does vitamin A. weigh?{separator}{options}"


@pytest.mark.parametrize("separator", [" ", "\n", ", "])
@pytest.mark.parametrize("mark", ["(A)", "( A )", "A)", "A )", "[A]", "A.", "A .", "A:", "A :", "**A.**"])
def test_the_options_that_are_there_are_offered(mark, separator):
    question = write_question(mark, separator)
    assert list_choices(question, "letter") == ("A", "B", "C")
    if "*" not in mark:
        assert find_option_texts(question, "ABC") == dict(zip("ABC", WORDS, strict=True))


def test_options_in_the_input_count():
    row = {"instruction": "Choose.", "input": write_question("A.", "\n"), "answer": "B"}
    (record,) = make_records([row], task="t", split="test", answer_form="letter")
    assert record["choices"] == ["A", "B", "C"]
    assert record["input"] == row["input"]


@pytest.mark.parametrize(
    "question",
    [
        "P (A) = 0.2 and P(B) = 0.8. Find P(A/B). (A) 1 (B) 2 (C) 3 (D) 4",
        "The points (A) and (B) are 2 apart. A. 1 B. 2 C. 3 D. 4",
        "Options: A ) A ) 1 , B ) B ) 2 , C ) C ) 3 , D ) D ) 4",
        "Options: A ) A. 1 , B ) B. 2 , C ) C. 3 , D ) D. 4",
        "The ratio A:B is 2. A) 1 B) 2 C) (A) and (B) D) none at 3 A.M.",
        "Which letter? (A) A (B) B (C) C (D) D",
    ],
)
def test_letters_that_mark_no_option_do_not_count(question):
    assert "".join(list_choices(question, "letter")) == "ABCD"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("How much? 1, 2 or 3", "the question lists no options, such as (A), A), [A], A., A:"),
        ("How much? (A) 1", "the question lists no options"),
        ("How much? a. 1 b. 2", "the question lists no options"),
        ("How much? (A) 1 (B) 2 (D) 4", "its options jump from B to D"),
        ("How much? A. 1 B. 2 C. 3 D. 4 E. 5 F. 6", "the question offers F, but letter has only A to E"),
        (
            "A. B. Smith and C. D. Jones share 6. How? (A) 2 (B) 3",
            "its options may be A to D (A.) or A to B ((A))",
        ),
    ],
)
def test_a_question_whose_options_cannot_be_read_is_malformed(question, message):
    row = {"instruction": question, "output": "a", "answer": "A"}
    with pytest.raises(UserError, match="1 malformed rows") as caught:
        list(make_records([row], task="t", split="test", answer_form="letter"))
    assert message in str(caught.value)
    # a mixed set is for training alone, which needs no choices; none are assumed
    (record,) = make_records([row], task="t", split="train", answer_form="mixed", for_training=True)
    assert record["choices"] == []


def test_an_answer_that_is_not_offered_is_malformed():
    row = {"instruction": "How much? A. 1 B. 2 C. 3", "answer": "D"}
    with pytest.raises(UserError, match="answer 'D' is not one of A/B/C"):
        list(make_records([row], task="t", split="test", answer_form="letter"))


@pytest.mark.parametrize(
    ("text", "form", "choices"),
    [
        ("q Answer format: ending1/ending2/ending3", "ending", ("ending1", "ending2", "ending3")),
        ("q\n\nEnding1: a Ending2: b", "ending", ("ending1", "ending2", "ending3", "ending4")),
        ("q\n\nAnswer format: answer1/answer2\nthe input", "answer", ("answer1", "answer2")),
        ("Is it so?", "boolean", ("true", "false")),
    ],
)
def test_labels_are_those_of_the_answer_format(text, form, choices):
    assert list_choices(text, form) == choices


def test_labels_of_another_form_are_refused():
    with pytest.raises(ValueError, match="the question offers yes, but boolean has only true to false"):
        list_choices("q Answer format: yes/no", "boolean")
    with pytest.raises(ValueError, match="the question offers answer6"):
        list_choices("q Answer format: answer1/answer6", "answer")


def test_real_questions_offer_five_options(shared):
    for path, count in (("AQuA/test.jsonl.gz", 254), ("mathqa/test.jsonl.gz", 2985)):
        with gzip.open(shared / "data" / "real" / path, "rt", encoding="utf-8") as lines:
            marks = [find_option_marks(json.loads(line)["instruction"]) for line in lines]
        assert [mark.labels for mark in marks if mark] == [tuple("ABCDE")] * count
