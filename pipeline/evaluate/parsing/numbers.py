r"""The number that a text states as its answer, under the parser ``strict``.

- "He has 3 apples. The answer is 7." is 7.0; "#### 1,234.50" is 1234.5; "So \boxed{\frac{1}{2}}" is 0.5.
- "The answer is 18 eggs * $2 = $36." is 36.0: a calculation is worth what follows its last "=".
- "3 + 4 = 7. Therefore, she has 7 apples." is 7.0, from its conclusion (conclusions.py).
- "The answer is 5 or 6" and "He sells 5 on day 2." are None.
"""

import re

from pipeline.evaluate.parsing.conclusions import BEFORE_FIRST, COPULA, RIVAL, SENTENCE_END, find_conclusion
from pipeline.evaluate.parsing.numerals import CURRENCY, find_numbers, strip_markup
from pipeline.evaluate.parsing.statements import STATEMENT, is_negated

# After a number: "* 2", "eggs * $2". It begins a calculation, of which only the result is the answer.
_OPERATOR = re.compile(
    rf"%?\s*(?:[^\W\d]+\s+){{0,2}}(?:[-+*/×÷–^]|x(?=\s*[\d{CURRENCY}(]))\s*[{CURRENCY}(]*\s*\.?\d"
)
# numbered steps, or "step 1", right after a statement
_LIST = re.compile(r"\s*\n\s*\d{1,2}[.)]\s+\S|\s*step\s+\d", re.IGNORECASE)
# The token limit may have cut the last word: "12" of "120".
_CUT_WORD = re.compile(r"\S+$")
_BOXED = re.compile(r"\\f?boxed\s*\{")


def parse_number(text: str, *, ended: bool = True) -> float | None:
    r"""Return the number that a text states as its answer, else the one that it concludes with, else None.

    Statements are "the answer is X", "Answer: X", "#### X" and "\boxed{X}"; the last one that contains a number counts.
    The first number of a statement is the answer, unless it begins a calculation: then what follows the last "=" is.
    A statement of two numbers ("5 or 6", "3-5", an unfinished "3 + 4") or of digits that form no number gives None.

    Without a statement the last sentence may state a conclusion (``find_conclusion``); other numbers do not count.

    Args:
        text: the model's own answer.
        ended: whether the model ended it. If not, it has no conclusion, and its last word may be cut off.
    """
    text = text if ended else _CUT_WORD.sub("", text)
    boxed = _find_last_boxed(text)
    statements = [match for match in STATEMENT.finditer(text) if boxed is None or match.start() > boxed[0]]
    for match in reversed(statements):
        remainder = text[match.end() :]
        # "The answer is: 1. Add ..., 2. ...": the statement introduces steps, which may have a conclusion
        if _LIST.match(remainder):
            return find_conclusion(remainder) if ended else None
        has_number, value = _parse_claim(_claimed_sentence(remainder))
        if has_number:
            return value
    if boxed is not None:
        return _parse_claim(strip_markup(boxed[1]))[1]
    if statements or STATEMENT.search(text):
        return None
    return find_conclusion(text) if ended else None


def _find_last_boxed(text: str) -> tuple[int, str] | None:
    r"""Return where the last complete ``\boxed{...}`` starts and what it contains; braces may be nested."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for index in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return match.start(), text[match.end() : index]
    return None


def _claimed_sentence(remainder: str) -> str:
    """Return what follows a statement up to the end of its sentence, without markup."""
    remainder = strip_markup(remainder.lstrip(" \t\n:"))
    end = SENTENCE_END.search(remainder)
    return remainder[: end.start()] if end else remainder


def _parse_claim(claim: str) -> tuple[bool, float | None]:
    """Return whether a claim contains a number, and its value if it states exactly one."""
    numbers = find_numbers(claim)
    if not numbers or is_negated(claim):
        return bool(numbers), None
    first = numbers[0]
    if _OPERATOR.match(claim, first.end):
        _, equals, result = claim.rpartition("=")
        numbers = find_numbers(result) if equals else []
        if not numbers or _OPERATOR.match(result, numbers[0].end):
            return True, None
        return True, numbers[0].value
    values = {number.value for number in numbers}
    if len(values) == 1:
        return True, first.value
    if RIVAL.match(claim, first.end):
        return True, None
    if BEFORE_FIRST.fullmatch(claim, 0, first.start):
        return True, first.value
    stated = [number.value for number in numbers if COPULA.search(claim, 0, number.start)]
    return True, stated[0] if len(stated) == 1 else None
