"""The text of a question, and what the methods of the audit compare of it."""

import re
from collections.abc import Callable, Iterable, Iterator

from pipeline.audit.rows import Question

METHODS = ("exact", "number-masked", "8-gram", "stem")
# all methods together, where a training set is cleaned
ANY = "any"
GRAM_SIZE = 8
# the smallest share of a question's 8-grams that makes it a match
GRAM_SHARE = 0.5

Gram = tuple[str, ...]

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
_NOT_LETTER_OR_DIGIT = re.compile(r"[^a-z0-9]+")
# The published commonsense prompts share their wording, which would count as common 8-grams.
_PUBLISHED_WORDING = re.compile(
    r"Please [^:\n]*: *(.*?)\s*Answer format:[^\n]*\s*", re.DOTALL | re.IGNORECASE
)
_OPTIONS = re.compile(
    r"\s(?:(?:answer|option|ending|solution)1:|answer choices:|the options:)", re.IGNORECASE
)


def question_text(row: Question) -> str:
    """Return the question of a row: instruction and input, without the wording of a published prompt."""
    text = f"{row['instruction']} {row['input']}".strip()
    match = _PUBLISHED_WORDING.fullmatch(text)
    return match[1] if match else text


def identified_questions(rows: Iterable[Question]) -> Iterator[tuple[str, str]]:
    """Yield (id, question) of each row."""
    return ((row["id"], question_text(row)) for row in rows)


def split_words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case."""
    return _WORD.findall(text.lower())


def letters_and_digits(text: str) -> str:
    """Return the ASCII letters and digits of a text, in lower case."""
    return _NOT_LETTER_OR_DIGIT.sub("", text.lower())


def _stem_key(text: str) -> str:
    return letters_and_digits(_OPTIONS.split(text, maxsplit=1)[0])


def _masked_key(text: str) -> str:
    return " ".join(["#" if word[0].isdigit() else word for word in split_words(text)])


def word_grams(text: str) -> Iterator[Gram]:
    """Return the 8-grams of a text: all runs of eight words."""
    words = split_words(text)
    return zip(*(words[start:] for start in range(GRAM_SIZE)), strict=False)


# method -> key of a question; questions with equal keys match, but an empty key matches nothing
KEYS: dict[str, Callable[[str], str]] = {
    "exact": letters_and_digits,
    "number-masked": _masked_key,
    "stem": _stem_key,
}
