"""The number that a text states as its answer, under the protocol ``strict``."""

import re

from pipeline.evaluate.scoring.conclusions import BEFORE_FIRST, COPULA, RIVAL, SENTENCE_END, outcome
from pipeline.evaluate.scoring.numerals import CURRENCY, numbers_in, plain
from pipeline.evaluate.scoring.statements import STATEMENT, is_negated

_OPERATOR = re.compile(
    rf"%?\s*(?:[^\W\d]+\s+){{0,2}}(?:[-+*/×÷–^]|x(?=\s*[\d{CURRENCY}(]))\s*[{CURRENCY}(]*\s*\.?\d"
)
_LIST = re.compile(r"\s*\n\s*\d{1,2}[.)]\s+\S|\s*step\s+\d", re.IGNORECASE)
_CUT_WORD = re.compile(r"\S+$")
_BOXED = re.compile(r"\\f?boxed\s*\{")


def parse_number(text: str, *, ended: bool = True) -> float | None:
    r"""Return the number that a text states as its answer, else the one that it ends with as its outcome, else None.

    Statements are "the answer is X", "Answer: X", "#### X" and "\boxed{X}"; the last one that holds a number counts.
    In a statement the first number is the answer, unless it begins a calculation: then what follows the last "=" is.
    A statement of two numbers ("5 or 6", "3-5", an unfinished "3 + 4") or of digits that form no number gives None.

    Without a statement the last sentence may state the outcome (``outcome``); other numbers are not read.

    Args:
        text: the model's own answer.
        ended: whether the model ended it. Else it has no outcome, and its last word may be the beginning of a longer one.
    """
    text = text if ended else _CUT_WORD.sub("", text)
    boxed = _last_boxed(text)
    stated = [match for match in STATEMENT.finditer(text) if boxed is None or match.start() > boxed[0]]
    for match in reversed(stated):
        rest = text[match.end() :]
        if _LIST.match(rest):
            return outcome(rest) if ended else None
        found, value = _claim(_sentence(rest))
        if found:
            return value
    if boxed is not None:
        return _claim(plain(boxed[1]))[1]
    if stated or STATEMENT.search(text):
        return None
    return outcome(text) if ended else None


def _last_boxed(text: str) -> tuple[int, str] | None:
    r"""Return where the last whole ``\boxed{...}`` starts and what it holds; braces may be nested."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for index in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return match.start(), text[match.end() : index]
    return None


def _sentence(rest: str) -> str:
    """Return what a statement says: up to the end of its sentence, in plain text."""
    rest = plain(rest.lstrip(" \t\n:"))
    end = SENTENCE_END.search(rest)
    return rest[: end.start()] if end else rest


def _claim(said: str) -> tuple[bool, float | None]:
    """Return whether a statement holds a number, and the number if it states one and only one."""
    numbers = numbers_in(said)
    if not numbers or is_negated(said):
        return bool(numbers), None
    first = numbers[0]
    if _OPERATOR.match(said, first.end):
        _, equals, result = said.rpartition("=")
        numbers = numbers_in(result) if equals else []
        if not numbers or _OPERATOR.match(result, numbers[0].end):
            return True, None
        return True, numbers[0].value
    values = {number.value for number in numbers}
    if len(values) == 1:
        return True, first.value
    if RIVAL.match(said, first.end):
        return True, None
    if BEFORE_FIRST.fullmatch(said, 0, first.start):
        return True, first.value
    told = [number.value for number in numbers if COPULA.search(said, 0, number.start)]
    return True, told[0] if len(told) == 1 else None
