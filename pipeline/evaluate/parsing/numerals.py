r"""The numbers that a text contains, whatever they mean: digits, fractions, exponents, signs, LaTeX and Markdown.

- "1,234.50", "1 000" and "1{,}000" are 1234.5, 1000.0 and 1000.0.
- "3 1/2", "\frac{3}{4}" and "2.5E-3" are 3.5, 0.75 and 0.0025.
- "-$5" is -5.0, but the 3 of "10-3" and of "pages 10-3" is 3.0.
- "1.2.3", "3,4" and "5:30" are numbers without a value (None).
"""

import math
import re
from dataclasses import dataclass

# Replacements that turn LaTeX and Markdown into plain text, in this order.
_MARKUP = [
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
CURRENCY = "$€£¥"
# Digits with the marks that join digits; _read_number decides whether they form a number. After a letter, "_", "^" or a
# point they belong to a name, an exponent or a version.
_DIGITS = re.compile(r"(?<![^\W\d]|[\d^.])(?:\.\d|\d)(?:[\d.,:/^]*\d)?")
# "1 000 000"; not "12 345" of a longer row of numbers
_SPACED_THOUSANDS = re.compile(r"\d{1,3}(?: \d{3})+(?![\d.,:/^]*\d)(?! \d)")
_DECIMAL = re.compile(r"\d*\.\d+|\d+")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_FRACTION = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
# the fraction of "3 1/2"
_MIXED = re.compile(r" (\d+)/(\d+)(?![\d.,:/^]*\d)")
# "e-3", "× 10^5"
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?!\w)|\s*[×x*]\s*10\^([+-]?\d+)(?!\w)")
# a minus before a number, with the space and the currency between them; _is_negative decides what it means
_SIGN = re.compile(rf"(?P<gap_before>\s*)(?P<minus>[-–])(?P<gap>\s*)(?P<currency>[{CURRENCY}]?\s?)$")


@dataclass(frozen=True)
class Number:
    """A number at text[start:end]; ``value`` is None where the digits form no number (1.2.3, 3,4, 5:30)."""

    start: int
    end: int
    value: float | None


def strip_markup(text: str) -> str:
    """Return a text without its LaTeX and Markdown."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def find_numbers(text: str) -> list[Number]:
    """Return the numbers of a text without markup, in order."""
    numbers: list[Number] = []
    position = 0
    while match := _DIGITS.search(text, position):
        number = _read_number(text, match)
        numbers.append(number)
        position = number.end
    return numbers


def _read_number(text: str, match: re.Match[str]) -> Number:
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
    return Number(match.start(), end, value if value is not None and math.isfinite(value) else None)


def _is_negative(text: str, start: int, end: int) -> bool:
    """Return whether the minus before a number is its sign, not a subtraction, a range, a hyphen or a bullet."""
    sign = _SIGN.search(text, 0, start)
    if not sign:
        return False
    before = text[: sign.start()]
    # "- 5 apples" is an item of a list; "-5 apples", and "- 5" alone, are numbers
    if not before.strip(" \t\n*_"):
        return not sign["gap"] or not text[end:].strip(" .")
    if sign["gap"]:
        return before.rstrip()[-1] in "=(:[{" or bool(re.search(r"\b(?:is|be|was|equals)\s*$", before))
    if before[-1] in CURRENCY + "=([{:,;<>+*/×÷~≈" or (sign["minus"] == "-" and "\n" in sign["gap_before"]):
        return True
    return bool(sign["gap_before"]) and not (before.rstrip()[-1].isdigit() or before.rstrip()[-1] in "%)]}")
