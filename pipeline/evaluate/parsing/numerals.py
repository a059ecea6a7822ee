r"""The numbers that a text contains, whatever they mean: digits, fractions, exponents, signs, magnitudes and words.

- "1,234.50", "1 000", "1'234" and "1.5 million" are 1234.5, 1000.0, 1234.0 and 1500000.0.
- "3 1/2", "2.5E-3" and "10^3" are 3.5, 0.0025 and 1000.0.
- "-$5" and "negative 5" are -5.0, but the 3 of "10-3" and of "pages 10-3" is 3.0.
- "1.2.3", "3,4", "5:30", "3-4-1", "\sqrt{16}" and "2\pi" are numbers without a value (None).
"""

import math
import re
from dataclasses import dataclass

CURRENCY = "$€£¥₹"
# Digits with the marks that join digits; _read_number decides whether they form a number. After a letter, "_", "^" or a
# point they belong to a name, an exponent or a version.
_DIGITS = re.compile(r"(?<![^\W\d]|[\d^.])(?:\.\d|\d)(?:[\d.,:/^'’]*\d)?")
# "1 000 000"; not "12 345" of a longer row of numbers
_SPACED_THOUSANDS = re.compile(r"\d{1,3}(?: \d{3}){1,6}(?![\d.,:/^'’]*\d)(?! \d)")
_DECIMAL = re.compile(r"\d*\.\d+|\d+")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:['’]\d{3})+(?:\.\d+)?")
_FRACTION = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_POWER_OF_TEN = re.compile(r"10\^(\d{1,3})")
_NEGATIVE_POWER = re.compile(r"\^-(\d{1,3})(?!\w)")
# the fraction of "3 1/2"
_MIXED = re.compile(r" (\d{1,9})/(\d{1,9})(?![\d.,:/^]*\d)")
# "e-3", "× 10^5"
_EXPONENT = re.compile(r"[eE]([+-]?\d{1,9})(?!\w)|\s{0,9}[×x*]\s{0,9}10\^([+-]?\d{1,9})(?!\w)")
# the further digits of "3-4-1", which no calculation follows: a score, a date or a telephone number
_DIGIT_STRING = re.compile(r"(?:[-–]\d+){2,}(?!\s{0,9}[=\d])")
_MAGNITUDES = {
    "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0,
}  # fmt: skip
_MAGNITUDE = re.compile(rf"[\s-]?\s?({'|'.join(_MAGNITUDES)})(?!\w)", re.IGNORECASE)
# "5k"; in "$5M" and "$2bn" only after a currency, since "5 M" may be a unit
_SUFFIX = re.compile(r"(k|K|M|mn|B|bn)(?!\w)")
_SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "mn": 1e6, "B": 1e9, "bn": 1e9}
# "\sqrt{16}", "√16", "log(8)" ahead of a number, and "2\pi", "2√3", "5!", "12 dozens" behind it: values not computed here
_FUNCTION = re.compile(r"(?:\\(?:sqrt|log|ln|sin|cos|tan|binom)|\b(?:sqrt|log)|√)(?:\[\d\])?[\s({\[]{0,3}$")
_FACTOR = re.compile(r"\s?(?:\\?(?:sqrt|pi)\b|π|√|dozens\b)|!(?=\s*[=*×+])")
# a minus before a number, with the space and the currency between them; _is_negative decides what it means
_SIGN = re.compile(rf"(?P<gap_before>\s*+)(?P<minus>[-–])(?P<gap>\s*+)(?P<currency>[{CURRENCY}]?\s?)$")
_SPELLED_SIGN = re.compile(rf"(?P<before>.?)\s*+\b(?P<sign>negative|minus)\s+[{CURRENCY}]?$", re.I | re.S)
# characters before a number that decide its sign
_WINDOW = 40

_ONES = {
    word: float(value)
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10.0 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_WORD = "|".join([*_ONES, *_TENS, *_MAGNITUDES])
_WORDS = re.compile(
    rf"(?:(?P<sign>negative|minus)\s+)?(?:an?\s+(?=hundred|thousand|million|billion|dozen))?"
    rf"(?P<words>(?:{_WORD})\b(?:(?:\s|-|\sand\s){{1,2}}(?:{_WORD})\b){{0,20}})",
    re.IGNORECASE,
)
# What makes words no number: "one of them", "two or three", "two-thirds", "two and a half"
_NOT_ALONE = re.compile(
    rf"(?:\s|-)(?:or|to)\s+(?:{_WORD})\b|"
    r"(?:\s|-)(?:of\b|halves|thirds?\b|fourths?\b|quarters?\b|(?:fif|six|seven|eigh|nin|ten|hundred)ths?\b|"
    r"and\s+(?:a|one)\b|point\b|times\b)|-\w",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number at text[start:end]; ``value`` is None where it has no value that could be stated (1.2.3, 3,4, 5:30)."""

    start: int
    end: int
    value: float | None


def find_numbers(text: str) -> list[Number]:
    """Return the numbers that a text without markup writes in digits, in order."""
    numbers: list[Number] = []
    position = 0
    while match := _DIGITS.search(text, position):
        number = _read_number(text, match)
        numbers.append(number)
        position = number.end
    return numbers


def read_words(text: str, start: int) -> Number | None:
    """Return the number in words that starts exactly at ``start`` ("two hundred fifty", "minus one"), or None."""
    match = _WORDS.match(text, start)
    if not match:
        return None
    value = None if _NOT_ALONE.match(text, match.end()) else _add_words(match["words"])
    return Number(start, match.end(), -value if value is not None and match["sign"] else value)


def _read_number(text: str, match: re.Match[str]) -> Number:
    body, start, end = match[0], match.start(), match.end()
    value: float | None
    spaced, string = _SPACED_THOUSANDS.match(text, start), _DIGIT_STRING.match(text, end)
    if string:
        return Number(start, string.end(), None)
    if spaced:
        value, end = float(spaced[0].replace(" ", "")), spaced.end()
    elif _DECIMAL.fullmatch(body) or _GROUPED.fullmatch(body):
        digits = re.sub(r"[,'’]", "", body)
        value = float(digits)
        mixed, exponent = _MIXED.match(text, end), _EXPONENT.match(text, end)
        power = _NEGATIVE_POWER.match(text, end) if body == "10" else None
        if mixed and body.isdigit() and 0 < int(mixed[1]) < int(mixed[2]):
            value, end = value + int(mixed[1]) / int(mixed[2]), mixed.end()
        elif exponent:
            value, end = float(f"{digits}e{exponent[1] or exponent[2]}"), exponent.end()
        elif power:
            value, end = float(f"1e-{power[1]}"), power.end()
    elif (fraction := _FRACTION.fullmatch(body)) and float(fraction[2]):
        value = float(fraction[1]) / float(fraction[2])
    elif ten := _POWER_OF_TEN.fullmatch(body):
        value = float(f"1e{ten[1]}")
    else:
        value = None
    if value is not None:
        value, end = _scale(text, value, start=start, end=end)
    window = text[max(0, start - _WINDOW) : start]
    if value is None or _FUNCTION.search(window) or _FACTOR.match(text, end):
        return Number(start, end, None)
    value = -value if _is_negative(window, text[end : end + _WINDOW]) else value
    return Number(start, end, value if math.isfinite(value) else None)


def _scale(text: str, value: float, *, start: int, end: int) -> tuple[float | None, int]:
    """Return a number with its magnitude ("1.5 million", "$5k"), and where it ends; None where the magnitude is unclear."""
    factor = 1.0
    while word := _MAGNITUDE.match(text, end):
        factor, end = factor * _MAGNITUDES[word[1].lower()], word.end()
    if factor == 1.0 and (suffix := _SUFFIX.match(text, end)):
        is_money = text[:start].endswith(tuple(CURRENCY)) if start < 2 else text[start - 1] in CURRENCY
        end = suffix.end()
        return (value * _SUFFIXES[suffix[1]] if is_money or suffix[1] == "k" else None), end
    return value * factor, end


def _is_negative(before: str, after: str) -> bool:
    """Return whether the minus before a number is its sign, not a subtraction, a range, a hyphen or a bullet.

    Args:
        before: the characters ahead of the number, up to a few dozen.
        after: the characters behind it, likewise.
    """
    spelled = _SPELLED_SIGN.search(before)
    if spelled:
        return (
            spelled["sign"].lower() == "negative"
            or not re.match(r"[\w)\]}%]", spelled["before"] or " ")
            or bool(re.search(r"\b(?:is|be|was|equals)\s+minus\s+\W?$", before, re.IGNORECASE))
        )
    sign = _SIGN.search(before)
    if not sign:
        return False
    ahead = before[: sign.start()]
    # "- 5 apples" is an item of a list; "-5 apples", and "- 5" alone, are numbers
    if not ahead.strip(" \t\n*_"):
        return not sign["gap"] or not after.strip(" .")
    if sign["gap"]:
        return ahead.rstrip()[-1] in "=(:[{" or bool(re.search(r"\b(?:is|be|was|equals)\s*$", ahead))
    if ahead[-1] in CURRENCY + "=([{:,;<>+*/×÷~≈" or (sign["minus"] == "-" and "\n" in sign["gap_before"]):
        return True
    return bool(sign["gap_before"]) and not (ahead.rstrip()[-1].isdigit() or ahead.rstrip()[-1] in "%)]}")


def _add_words(words: str) -> float | None:
    """Return the value of words of a number, or None where they are several numbers ("two three")."""
    total, group, last = 0.0, 0.0, math.inf
    largest = math.inf
    for word in re.split(r"[\s-]+", words.lower()):
        if word == "and":
            continue
        if word in _MAGNITUDES:
            factor = _MAGNITUDES[word]
            if factor == 100:
                if group >= 100:
                    return None
                group, last = (group or 1) * 100, 100.0
                continue
            if factor >= largest:
                return None
            total, group, last, largest = total + (group or 1) * factor, 0.0, math.inf, factor
        else:
            value = _ONES.get(word, _TENS.get(word, 0.0))
            # "twenty five" and "hundred five", not "five five" or "twenty eleven"
            if value >= last or (value == 0 and (group or total)):
                return None
            group, last = group + value, 10.0 if value >= 20 else 0.0
    return total + group
