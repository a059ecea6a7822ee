"""Strict parsing of values in every notation inside sentences, and of texts that state nothing: random, but seeded."""

import math
import random
from collections.abc import Callable

import pytest

from pipeline.evaluate.parsing.extract import LABELS, parse

CASES = 400
Case = tuple[str, float]


def grouped(rng: random.Random) -> Case:
    value = rng.randrange(1000, 10**9)
    mark = rng.choice([",", "{,}", " ", "\u202f", "\u00a0"])
    return f"{value:,}".replace(",", mark), value


def decimal(rng: random.Random) -> Case:
    text = f"{rng.uniform(0, 999):.{rng.randint(1, 4)}f}"
    return (text.removeprefix("0") if rng.random() < 0.3 else text), float(text)


def grouped_decimal(rng: random.Random) -> Case:
    text = f"{rng.uniform(1000, 10**7):,.2f}"
    return text, float(text.replace(",", ""))


def fraction(rng: random.Random) -> Case:
    above, below = rng.randint(1, 99), rng.randint(2, 99)
    form = rng.choice(["{}/{}", r"\frac{{{}}}{{{}}}", r"\dfrac{{{}}}{{{}}}", r"$\frac{{{}}}{{{}}}$"])
    return form.format(above, below), above / below


def mixed(rng: random.Random) -> Case:
    below = rng.randint(3, 20)
    whole, above = rng.randint(1, 99), rng.randint(1, below - 1)
    form = rng.choice(["{} {}/{}", r"{}\frac{{{}}}{{{}}}", r"$ {}\frac{{{}}}{{{}}} $"])
    return form.format(whole, above, below), whole + above / below


def percent(rng: random.Random) -> Case:
    value = rng.choice([rng.randint(0, 100), round(rng.uniform(0, 100), 1)])
    return f"{value}" + rng.choice(["%", " %", r"\%", " percent"]), value


def money(rng: random.Random) -> Case:
    text = f"{rng.uniform(0, 10**5):,.2f}"
    return rng.choice(["$", r"\$", "€", "£", "€ "]) + text, float(text.replace(",", ""))


def unit(rng: random.Random) -> Case:
    value = rng.randint(0, 5000)
    suffix = rng.choice(
        ["kg", " km/h", " apples", " cm^2", " square feet", "°", " hours", " dollars per day"]
    )
    return f"{value}{suffix}", value


def scientific(rng: random.Random) -> Case:
    digits, power = rng.randint(1, 99) / 10, rng.randint(-9, 9)
    form = rng.choice(["{}e{}", "{}E{}", "{} × 10^{}", "{} x 10^{}", r"{} \times 10^{{{}}}", "{}*10^{}"])
    return form.format(digits, power), digits * 10.0**power


def negative(rng: random.Random) -> Case:
    value = rng.randint(1, 999)
    form = rng.choice(["-{}", "\u2212{}", "-${}", "$-{}$", "(-{})", "- {}", "-{} degrees", "**-{}**"])
    return form.format(value), -value


def boxed(rng: random.Random) -> Case:
    text, value = rng.choice([grouped_decimal, decimal, fraction_in_latex, plain])(rng)
    unit = rng.choice(["", r"\text{ cm}", r"\,\text{apples}", r"\%"])
    return rf"\boxed{{{text}{unit}}}", value


def fraction_in_latex(rng: random.Random) -> Case:
    above, below = rng.randint(1, 99), rng.randint(2, 99)
    return rf"\frac{{{above}}}{{{below}}}", above / below


def plain(rng: random.Random) -> Case:
    value = rng.randrange(10**4)
    return str(value), value


FORMS: list[Callable[[random.Random], Case]] = [
    plain, grouped, decimal, grouped_decimal, fraction, mixed, percent, money, unit, scientific, negative, boxed,
]  # fmt: skip

# What precedes an answer: other numbers, calculations, subtractions, a rejected answer.
AHEAD = [
    "",
    "He has 12 apples and eats 5, so 12-5=7 are left. ",
    "First, 3 + 4 = 7.\nThen 7 * 2 = 14.\n",
    "In 2019 there were 1,000 of them. ",
    "The answer is 3. Wait, that is wrong. ",
    "Step 1: x - 4 = 10\nStep 2: x = 14\n\n",
]
STATED = [
    "The answer is {}.",
    "the final answer is: {}.",
    "Therefore, the correct answer is {}",
    "Answer: {}",
    "So the answer would be {}.",
    "#### {}",
    "**Answer:** {}",
    "The answer is {}. I checked it twice.",
]
CONCLUDED = [
    "Therefore, the result is {}.",
    "So she pays {}.",
    "Thus, in the end it is {}",
    "Hence the outcome was {}.",
    "The rest goes away, so what is left is {}.",
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_stated_value_is_parsed_in_any_form(form):
    rng = random.Random(f"stated {form.__name__}")
    for _ in range(CASES):
        written, value = form(rng)
        text = rng.choice(AHEAD) + rng.choice(STATED).format(written)
        parsed = parse(text, form="number", parser="strict")
        assert parsed is not None, text
        assert math.isclose(parsed, value, rel_tol=1e-9), (text, value)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_concluded_value_is_parsed_in_any_form(form):
    rng = random.Random(f"concluded {form.__name__}")
    ahead = [text for text in AHEAD if "answer" not in text]
    for _ in range(CASES):
        written, value = form(rng)
        if written.startswith("- "):  # "she pays - 5" is a dash
            written, value = written[2:], -value
        text = rng.choice(ahead) + rng.choice(CONCLUDED).format(written)
        parsed = parse(text, form="number", parser="strict")
        assert parsed is not None, text
        assert math.isclose(parsed, value, rel_tol=1e-9), (text, value)


NAMES = ["Tom", "the bakery", "each of the 12 boxes", "a farmer", "Mrs. Lee", "COVID-19", "the class of 2019"]
SENTENCES = [
    "{a} has {n} apples and {m} pears.",
    "{a} sold {n} of them.",
    "there were {n} kilometres to go on day {m}.",
    "that means {a} pays ${n}.",
    "{n}-{m} is the score.",
    "it happened at {n}:30 on page {m}.",
    "{a} costs between {n} and {m} dollars.",
    "let x be {n}.",
    "we know that {n} + x < {m}.",
    "{n}) buy it 2) sell it",
    "I am not sure about {n}.",
    "it is not {n}.",
    "version {n}.{m}.1 came out.",
    "{n} or {m}?",
    "{n} + {m}",
]


def test_a_text_without_a_statement_gives_no_number():
    rng = random.Random("nothing stated")
    for _ in range(20 * CASES):
        values = {"n": rng.randint(2, 99), "m": rng.randint(100, 199)}
        sentences = [
            rng.choice(SENTENCES).format(a=rng.choice(NAMES), **values) for _ in range(rng.randint(1, 4))
        ]
        text = rng.choice([" ", "\n"]).join(sentences)
        assert parse(text, form="number", parser="strict") is None, text


def test_a_number_cut_off_by_the_token_limit_is_never_parsed_as_a_shorter_number():
    rng = random.Random("cut")
    for _ in range(10 * CASES):
        written, value = rng.choice([plain, grouped_decimal, decimal, money])(rng)
        text = "The answer is " + written
        cut = text[: rng.randint(len("The answer is "), len(text))]
        assert parse(cut, form="number", parser="strict", ended=False) is None, (cut, value)


LABEL_FRAMES = [
    "The answer is {}.",
    "the correct answer is {}",
    "Answer: {}",
    "Answer: **{}**",
    "The final answer is ({}).",
    "Let us see what each says. The answer is {}.",
    "The correct answer is: {}\n\n### Instruction:\nanother",
]


@pytest.mark.parametrize("form", [form for form in LABELS if form != "number"])
def test_a_stated_label_is_parsed_in_any_sentence(form):
    rng = random.Random(f"label {form}")
    for _ in range(CASES):
        label = rng.choice(LABELS[form])
        text = rng.choice(LABEL_FRAMES).format(label)
        assert parse(text, form=form, parser="strict") == label, text


WORDS = [
    "A",
    "man",
    "Each",
    "day",
    "Every",
    "cat",
    "Because",
    "Did",
    "Elephants",
    "Can",
    "A",
    "bird",
    "bring",
    "Dogs",
    "eat",
    "All",
    "Bears",
    "drink",
    "Coffee",
    "and",
    "a",
    "dance",
    "solution",
    "answer",
    "option",
    "ending",
    "truth",
    "falsely",
    "optional",
    "best",
    "end",
    "true-ish",
    "A",
    "B",
    "C",
]


@pytest.mark.parametrize("form", [form for form in LABELS if form != "number"])
def test_a_text_without_a_stated_label_gives_none(form):
    rng = random.Random(f"no label {form}")
    for _ in range(5 * CASES):
        sentences = [rng.choice(WORDS) for _ in range(rng.randint(2, 8))]
        text = " ".join(sentences) + " again."
        assert parse(text, form=form, parser="strict") is None, text
