"""Arithmetic stories of one to three steps, each of which belongs to one split, by a hash of its text."""

import random
import zlib
from typing import NamedTuple

from pipeline.data.world.lexicon import (
    ANOTHER_PERSON,
    CHANGE,
    GAIN,
    GOODS,
    HOW_MANY,
    LOSS,
    MAX_NUMBER,
    NAMES,
    START,
    START_TIMES,
)

# Tenths of all stories. Pretraining has its own, so that adapters are trained on stories that are new to the base model.
SPLIT_TENTHS = {"test": (0, 1), "validation": (2,), "train": (3, 4, 5), "pretraining": (6, 7, 8, 9)}


class Story(NamedTuple):
    """A story, its question, its equations (the rationale) and its result."""

    text: str
    question: str
    equations: str
    result: int
    name: str
    goods: str


def story_split(text: str) -> str:
    """Return the split that the story with this text belongs to."""
    tenth = zlib.crc32(text.encode()) % 10
    return next(split for split, tenths in SPLIT_TENTHS.items() if tenth in tenths)


def draw_story(rng: random.Random, split: str, *, steps: int, distract: bool = False) -> Story:
    """Draw a story of a split with ``steps`` equations; ``distract`` adds a sentence about another person."""
    while True:
        candidate = _draw_any_story(rng, steps=steps, distract=distract)
        if story_split(candidate.text) == split:
            return candidate


def draw_equation(rng: random.Random, operator: str) -> tuple[int, int, int]:
    """Draw ``a``, ``b`` and the result of ``a operator b``, all within the world's numbers."""
    if operator == "+":
        a = rng.randint(1, MAX_NUMBER - 1)
        b = rng.randint(1, MAX_NUMBER - a)
        return a, b, a + b
    if operator == "-":
        a = rng.randint(2, MAX_NUMBER)
        b = rng.randint(1, a - 1)
        return a, b, a - b
    a = rng.randint(2, 6)
    b = rng.randint(2, MAX_NUMBER // a)
    return a, b, a * b


def _draw_any_story(rng: random.Random, *, steps: int, distract: bool) -> Story:
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    style = rng.randrange(2)
    sentences: list[str] = []
    equations: list[str] = []
    if rng.random() < 0.25:
        a, b, current = draw_equation(rng, "*")
        sentences.append(START_TIMES[style].format(n=name, a=a, b=b, g=goods))
        equations.append(f"{a} * {b} = {current}.")
    else:
        current = rng.randint(3, MAX_NUMBER - 3)
        sentences.append(START[style].format(n=name, a=current, g=goods))
    while len(equations) < steps:
        operator = "+" if current < 2 else "-" if current >= MAX_NUMBER else rng.choice("+-")
        b = rng.randint(1, MAX_NUMBER - current if operator == "+" else current - 1)
        verb = rng.choice(GAIN if operator == "+" else LOSS)
        sentences.append(CHANGE[style].format(n=name, verb=verb, b=b, g=goods))
        after = current + b if operator == "+" else current - b
        equations.append(f"{current} {operator} {b} = {after}.")
        current = after
    if distract:
        person = rng.choice([n for n in NAMES if n != name])
        sentences.insert(
            rng.randint(0, 1), ANOTHER_PERSON.format(n=person, a=rng.randint(2, MAX_NUMBER), g=goods)
        )
    question = HOW_MANY[style].format(g=goods, n=name)
    return Story(" ".join(sentences), question, " ".join(equations), current, name, goods)
