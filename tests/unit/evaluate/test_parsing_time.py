"""Every parser on long texts that are made to be hard: linear time, and no exception on any text."""

import random
import time

import pytest

from pipeline.data.options import find_option_marks
from pipeline.evaluate.parsing.extract import LABELS, parse, published_response
from pipeline.evaluate.parsing.options import find_option_texts
from pipeline.evaluate.parsing.turns import is_complete

LENGTH = 100_000
# of the texts of the quick test
SHORT = 20_000
# CPU-seconds for LENGTH characters; quadratic time takes minutes
LIMIT = 1.0
UNITS = [
    "#", "## ", "####\n", "#### 5 ", "\n", "\r", " ", "\t\n", "5", "5 ", "1 111", "1,", "1.", "1'", "1/", "1^", "1-", "-", "- 5", "-\n", "$",
    "$5", "(", ")", "((5))", "{", "}", "\\boxed{", "\\boxed{5}", "\\text{", "\\frac{1}{", "$x$", "**", "**a", "__", "<", "<<", "<<1", "<think>",
    "</think>", "<think></think>", "[INST]", "<|im_start|>", "</s>", "<answer>", "</answer>", "Q:\n", "Q:", "Question 2:\n", "Problem 2:\n",
    "### Question:\n", "### Input values\n", "Human:\n", "the answer is ", "the answer is 5 ", "the answer is not ", "Answer:\n", "answer ",
    "answer (", "the answer to ", "ans. ", "correct option ", "#### B\n", "(A)", "(A) ", "(A) (B) ", "A. ", "A: ", "\nA: ", "B or ", "A", "a",
    "true ", "not true ", "isn't true, ", "answer1 ", "answer1 or ", "answer 1: salt ", "wait, ", "wait, no, it is ", "actually, ", "no, ",
    "oops. ", "that is wrong. ", "so ", "so, ", ", so", "therefore, 5 ", "=", "= 5 ", "x = 5\n", "5 * ", "5 + 5 = ", "5 and ", "or 5 ", "5 to ",
    "million ", "5 million", "twenty ", "one hundred ", "negative ", "minus 5 ", "½", "5½", "٥", "é", "\u202f5", "😀", "\x00", "%", "5% of ",
    "I hope this helps! ", "Let me know ", "is ", "is not ", "is too ", "eliminate ", ";", "a b c d. ", "\\", "\\sqrt{", "√5", "e5", "1e5", "10^3",
    "5 apples, 6 ", "step 1 ", "\n1. x", "\n- 5", "because ", "solution ", "answer format: ", "answer format:\n", "e", "10^", "||", "~",
]  # fmt: skip
FRAMES = [
    "{}",
    "The answer is {}",
    "{}\nThe answer is 5",
    "x{}y",
    "5 {} 6.",
    "<think>{}",
    "{}\nTherefore, 5 {}",
]


def fill(frame, unit, length=LENGTH):
    return frame.format(*[unit * (length // len(unit) // frame.count("{}"))] * frame.count("{}"))


def parse_with_all(text, forms=("number", "letter", "boolean", "answer")):
    """Read a text with every parser, and return the slowest one's seconds and name."""
    seconds = {}
    calls = {
        f"{parser} {form}": (parse, {"form": form, "parser": parser})
        for parser in ("paper", "strict")
        for form in forms
    }
    for name, (function, settings) in calls.items():
        for ended in (
            (True, False) if name in ("strict number", "strict letter", "strict boolean") else (True,)
        ):
            start = time.process_time()
            function(text, ended=ended, **settings)
            seconds[f"{name} {ended}"] = time.process_time() - start
    others = {
        "stop rule": lambda: is_complete(text),
        "options": lambda: find_option_texts(text, ["A", "B", "C"]),
        "labelled options": lambda: find_option_texts(text, ["answer1", "answer2"]),
        "published response": lambda: published_response(text, text),
    }
    for name, call in others.items():
        start = time.process_time()
        call()
        seconds[name] = time.process_time() - start
    return max((value, name) for name, value in seconds.items())


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("frame", FRAMES)
def test_long_texts_are_parsed_in_linear_time(frame):
    slow = {}
    for unit in UNITS:
        value, name = parse_with_all(fill(frame, unit))
        if value > LIMIT:
            slow[unit] = (name, round(value, 1))
    assert not slow


def test_the_reported_texts_are_parsed_in_linear_time():
    """Texts of a fifth of the length: in quadratic time one of them would still take 20 seconds."""
    for unit in ["#", "the answer is ", "Q:\n", "5 ", "\\boxed{", "(A) "]:
        value, name = parse_with_all(fill("{}", unit, SHORT), forms=("number", "letter"))
        assert value < LIMIT, (unit, name)


def test_no_text_raises():
    """Random mixtures of the same pieces, with choices and without."""
    rng = random.Random("mixtures")
    for _ in range(250):
        text = "".join(rng.choice(UNITS) * rng.choice([1, 1, 1, 2, 30]) for _ in range(rng.randint(1, 12)))
        for form, labels in LABELS.items():
            choices = rng.choice([None, list(labels), [rng.choice(UNITS) for _ in labels]])
            value = parse(text, form=form, parser="strict", choices=choices or None, ended=rng.random() < 0.7)
            assert value is None or isinstance(value, float if form == "number" else str)
        parse(text, form="number", parser="paper")
        is_complete(text)
        find_option_texts(text, ["A", "B"])
        try:
            find_option_marks(text)
        except ValueError:
            # two lists of options: refused with its reason
            continue
