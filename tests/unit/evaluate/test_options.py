"""Options: their words in an instruction, and an answer that states words instead of a label."""

import pytest

from pipeline.evaluate import parse_answer
from pipeline.evaluate.parsing.options import find_option_texts

WORDS = {"answer1": "Gravity", "answer2": "the floor", "answer3": "red wine", "answer4": "red"}
LETTERS = {"A": "23.65", "B": "1,000", "C": "25%", "D": "25", "E": "None of these"}


@pytest.mark.parametrize(
    ("instruction", "choices", "words"),
    [
        (
            "Q?\n\nAnswer1: salt Answer2: wet sand.\n\nAnswer format: answer1/answer2",
            2,
            ["salt", "wet sand."],
        ),
        (
            "Q?\n\nSolution1: Go.\n\nSolution2: Stay: wait.\n\nAnswer format: x",
            "solution",
            ["Go.", "Stay: wait."],
        ),
        (
            "_ ran.\n\nOption1: Sarah Option2: Maria Answer format: option1/option2",
            "option",
            ["Sarah", "Maria"],
        ),
        ("what? answer choices: (A) 2 (B) 3/4 (C) 5 %", "ABC", ["2", "3/4", "5 %"]),
        ("what? a) no. options: A ) 2 , B ) 3", "AB", ["2", "3"]),
        ("Is (B) first? (A) one (B) two", "AB", ["one", "two"]),
        ("Q?\n\nAnswer1: salt\n\nAnswer format: answer1/answer2", 2, None),
        ("Q?\n\nAnswer1: Answer2: sand", 2, None),
    ],
)
def test_words_follow_their_labels(instruction, choices, words):
    labels = (
        list(choices)
        if choices in ("ABC", "AB")
        else [f"{'answer' if choices == 2 else choices}{n}" for n in (1, 2)]
    )
    assert find_option_texts(instruction, labels) == (dict(zip(labels, words, strict=True)) if words else {})


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("If f(A) = f(B) then? A. four B. nine", ["four", "nine"]),
        ("A line runs through the points (A) and (B). Which? [A] salt [B] sand", ["salt", "sand"]),
        ("Which points, (A), (B) or (C), are inside?\nA: salt\nB: sand\nC: ice", ["salt", "sand", "ice"]),
        # doubled marks are read as before
        ("Options: A ) A . 0.6 , B ) B . 1.2", ["A . 0.6", "B . 1.2"]),
    ],
)
def test_letters_of_the_question_mark_no_options(question, words):
    labels = "ABC"[: len(words)]
    assert find_option_texts(question, labels) == dict(zip(labels, words, strict=True))


def test_a_likelihood_is_of_the_options_own_words():
    question = "She runs. Ending1: , then falls; Ending2: and jumps, Answer format: ending1/ending2"
    labels = ["ending1", "ending2"]
    assert find_option_texts(question, labels) == {"ending1": "then falls", "ending2": "and jumps"}
    whole = find_option_texts(question, labels, with_punctuation=True)
    assert whole == {"ending1": ", then falls;", "ending2": "and jumps,"}
    # commas between lettered options are no words
    listed = find_option_texts("how many? options: A ) 2 , B ) 3", "AB", with_punctuation=True)
    assert listed == {"A": "2", "B": "3"}


def test_true_and_false_are_their_own_words():
    assert find_option_texts("Is it? Answer format: true/false", ["true", "false"]) == {
        "true": "true",
        "false": "false",
    }


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is gravity.", "answer1"),
        ("the correct answer is The Floor", "answer2"),
        ("The answer is: a red wine.", "answer3"),
        ("The answer is red", "answer4"),  # all of one option, though a part of another
        ("Gravity", "answer1"),
        ("The answer is answer3: red", "answer3"),  # the label takes precedence
        ("The answer is gravity. It pulls.", "answer1"),
        ("The answer is not gravity.", None),
        ("The answer is gravity or red.", None),
        ("The answer is red wine and cheese.", None),
        ("Gravity pulls, but the floor holds.", None),
        ("The answer is wine.", None),
    ],
)
def test_stated_words_select_their_option(text, label):
    assert parse_answer(text, task="arc-easy", protocol="strict", choices=WORDS) == label
    assert parse_answer(text, task="arc-easy", protocol="strict", choices=list(WORDS.values())) == label


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("20 + 3.65. The answer is 23.65.", "A"),
        ("The answer is $1000.", "B"),
        ("The answer is 25%", "C"),
        ("The answer is 25.0", "D"),
        ("The answer is none of these.", "E"),
        ("The answer is D.", "D"),
        ("The answer is 24.", None),
        ("so 20 + 5 = 25", None),  # a calculation states no option
        ("The answer is 25 or 26", None),
    ],
)
def test_a_bare_number_selects_its_option(text, letter):
    assert parse_answer(text, task="aqua", protocol="strict", choices=LETTERS) == letter
    marked = [f"({label}) {words}" for label, words in LETTERS.items()]
    assert parse_answer(text, task="aqua", protocol="strict", choices=marked) == letter


def test_words_of_two_options_select_none():
    options = {"A": "25", "B": "25.0", "C": "Red", "D": "red"}
    for text in ("The answer is 25", "The answer is red"):
        assert parse_answer(text, task="aqua", protocol="strict", choices=options) is None


def test_words_count_only_if_known_and_never_under_the_published_rules():
    assert parse_answer("The answer is gravity.", task="arc-easy", protocol="strict") is None
    assert parse_answer("The answer is gravity.", task="arc-easy", protocol="paper", choices=WORDS) is None
