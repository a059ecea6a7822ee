"""The number that a text states as its answer, under the protocol ``strict``."""

import math
import re
from dataclasses import dataclass

from pipeline.evaluate.statements import STATEMENT, is_negated

# LaTeX and Markdown to plain text, in this order
_PLAIN = [
    (re.compile(r"\*\*(\S(?:.*?\S)?)\*\*"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(\d)\s*\\[dt]?frac\{([\d.]+)\}\{([\d.]+)\}"), r"\1 \2/\3"),
    (re.compile(r"\\[dt]?frac\{([\d.]+)\}\{([\d.]+)\}"), r"\1/\2"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
    (re.compile(r"\\div\b"), "÷"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:left|right|!|,|;|quad|displaystyle)"), ""),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\^\{(-?\d+)\}"), r"^\1"),
    (re.compile(r"\$([^$\n]*[^$\s\\])\$(?!\d)"), r" \1 "),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"[\u00a0\u2009\u202f]"), " "),
    (re.compile("\u2212"), "-"),
]
_CURRENCY = "$€£¥"
# A run of digits and the marks that join digits; whether it is one number is decided after. A letter, "_", "^" or
# a point before it means that it is part of a name, an exponent or a version.
_BLOB = re.compile(r"(?<![^\W\d]|[\d^.])(?:\.\d|\d)(?:[\d.,:/^]*\d)?")
_SPACED_THOUSANDS = re.compile(r"\d{1,3}(?: \d{3})+(?![\d.,:/^]*\d)(?! \d)")
_DECIMAL = re.compile(r"\d*\.\d+|\d+")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_FRACTION = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_MIXED = re.compile(r" (\d+)/(\d+)(?![\d.,:/^]*\d)")
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?!\w)|\s*[×x*]\s*10\^([+-]?\d+)(?!\w)")
_SIGN = re.compile(rf"(?P<gap_before>\s*)(?P<minus>[-–])(?P<gap>\s*)(?P<currency>[{_CURRENCY}]?\s?)$")
_OPERATOR = re.compile(
    rf"%?\s*(?:[^\W\d]+\s+){{0,2}}(?:[-+*/×÷–^]|x(?=\s*[\d{_CURRENCY}(]))\s*[{_CURRENCY}(]*\s*\.?\d"
)
_RIVAL = re.compile(
    rf"%?\s*(?:to\s+[-{_CURRENCY}(]*\d|(?:(?!\b(?:because|since|as|so|if|when)\b)[^(=\d])*?\b(?:or|and)\s+[-{_CURRENCY}(]*\d)"
)
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)[.!?](?=[\s*\"')\]}]|$)|\n|;")
_LIST = re.compile(r"\s*\n\s*\d{1,2}[.)]\s+\S|\s*step\s+\d", re.IGNORECASE)
_BEFORE_FIRST = re.compile(
    r"[^\w]*(?:(?:[xyn]\s*=|about|approximately|approx\.|roughly|exactly|only|just|Rs\.?)\s*)*[^\w]*"
)
_COPULA = re.compile(rf"(?:\b(?:is|are|was|were|be|equals|total\s+of)|=)\s+[-–{_CURRENCY}\s]*$")
_BOXED = re.compile(r"\\f?boxed\s*\{")


@dataclass(frozen=True)
class _Number:
    """A number in a text; ``value`` is None where the digits form no number (1.2.3, 3,4, 5:30)."""

    start: int
    end: int
    value: float | None


def parse_number(text: str) -> float | None:
    r"""Return the answer that a text states, else its last number; None where that is no number.

    Statements are "the answer is X", "Answer: X", "#### X" and "\boxed{X}"; the last one that holds a number counts.
    In a statement the first number is the answer, unless it begins a calculation: then what follows the last "=" is.
    A statement of two numbers ("5 or 6", "3-5", an unfinished "3 + 4") or of digits that form no number gives None.
    """
    boxed = _last_boxed(text)
    stated = [match for match in STATEMENT.finditer(text) if boxed is None or match.start() > boxed[0]]
    for match in reversed(stated):
        rest = text[match.end() :]
        if _LIST.match(rest):
            return None
        found, value = _claim(_sentence(rest))
        if found:
            return value
    if boxed is not None:
        return _claim(_plain(boxed[1]))[1]
    if stated or STATEMENT.search(text):
        return None
    numbers = _numbers(_plain(text))
    return numbers[-1].value if numbers else None


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
    rest = _plain(rest.lstrip(" \t\n:"))
    end = _SENTENCE_END.search(rest)
    return rest[: end.start()] if end else rest


def _plain(text: str) -> str:
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


def _claim(said: str) -> tuple[bool, float | None]:
    """Return whether a statement holds a number, and the number if it states one and only one."""
    numbers = _numbers(said)
    if not numbers or is_negated(said):
        return bool(numbers), None
    first = numbers[0]
    if _OPERATOR.match(said, first.end):
        _, equals, result = said.rpartition("=")
        numbers = _numbers(result) if equals else []
        if not numbers or _OPERATOR.match(result, numbers[0].end):
            return True, None
        return True, numbers[0].value
    values = {number.value for number in numbers}
    if len(values) == 1:
        return True, first.value
    if _RIVAL.match(said, first.end):
        return True, None
    if _BEFORE_FIRST.fullmatch(said, 0, first.start):
        return True, first.value
    told = [number.value for number in numbers if _COPULA.search(said, 0, number.start)]
    return True, told[0] if len(told) == 1 else None


def _numbers(text: str) -> list[_Number]:
    """Return the numbers of a plain text, in order."""
    found: list[_Number] = []
    position = 0
    while match := _BLOB.search(text, position):
        number = _number_at(text, match)
        found.append(number)
        position = number.end
    return found


def _number_at(text: str, match: re.Match[str]) -> _Number:
    body, end = match[0], match.end()
    value: float | None
    spaced = _SPACED_THOUSANDS.match(text, match.start())
    if spaced:
        value, end = float(spaced[0].replace(" ", "")), spaced.end()
    elif _DECIMAL.fullmatch(body) or _GROUPED.fullmatch(body):
        value = float(body.replace(",", ""))
        mixed, exponent = _MIXED.match(text, end), _EXPONENT.match(text, end)
        if mixed and body.isdigit() and 0 < int(mixed[1]) < int(mixed[2]):
            value, end = value + int(mixed[1]) / int(mixed[2]), mixed.end()
        elif exponent:
            digits = f"{body.replace(',', '')}e{exponent[1] or exponent[2]}"
            value, end = float(digits), exponent.end()
    elif (fraction := _FRACTION.fullmatch(body)) and float(fraction[2]):
        value = float(fraction[1]) / float(fraction[2])
    else:
        value = None
    if value is not None and _is_negative(text, match.start(), end):
        value = -value
    return _Number(match.start(), end, value if value is not None and math.isfinite(value) else None)


def _is_negative(text: str, start: int, end: int) -> bool:
    """Whether the minus before a number is its sign, and neither a subtraction, a range, a hyphen nor a bullet."""
    sign = _SIGN.search(text, 0, start)
    if not sign:
        return False
    before = text[: sign.start()]
    if not before.strip():  # "- 5 apples" is an item of a list, "-5 apples" and "- 5" alone are numbers
        return not sign["gap"] or not text[end:].strip(" .")
    if sign["gap"]:
        return before.rstrip()[-1] in "=(:[{" or bool(re.search(r"\b(?:is|be|was|equals)\s*$", before))
    if before[-1] in _CURRENCY + "=([{:,;<>+*/×÷~≈" or (sign["minus"] == "-" and "\n" in sign["gap_before"]):
        return True
    return bool(sign["gap_before"]) and not (before.rstrip()[-1].isdigit() or before.rstrip()[-1] in "%)]}")
