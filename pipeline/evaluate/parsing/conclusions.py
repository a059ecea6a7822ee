"""The number that a text concludes with, where no number is stated as the answer, under the parser ``strict``.

- "3 + 4 = 7. Therefore, she has 7 apples." is 7.0: its last sentence begins with "Therefore".
- "560 / 10 = 56 nights. The crackers will last 56 nights." is 56.0: the last sentence repeats the last result.
- "5 * 3 = 15" and "about 12 square miles" are 15.0 and 12.0: a single sentence that is nothing else.
- "He pays $5. He has 3 left." and "Therefore, it is 5 or 6." are None.
"""

import re
from itertools import pairwise

from pipeline.evaluate.parsing.markup import strip_markup
from pipeline.evaluate.parsing.numerals import CURRENCY, Number, find_numbers

# Not the point of "Mr." or "3.5": white space, a closing mark or nothing follows an end.
SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bRs)(?<!\bapprox)(?<!\bca)[.!?](?=[\s*\"')\]}]|$)|\n|;"
)
# What follows a number if a second number competes with it: "to 7", "or 6", "apples and 4 pears", ", 19", " 6", "more than
# 3". The search ends at a reason ("because ..."), a bracket or a calculation.
_RIVAL = re.compile(
    rf"%?(?:\s*+to\s+[-{CURRENCY}(]*+\d"
    rf"|(?:(?!\b(?:because|since|as|so|if|when)\b)[^(=\d]){{0,200}}?\b(?:or|and)\s+[-{CURRENCY}(]*+\d"
    rf"|(?:\s*+[,;/&]|(?:\s+[^\W\d]+){{1,2}},)\s*+(?:(?:and|or)\s+)?[-{CURRENCY}]?\d"
    rf"(?![\d.,]*+\s*+(?:[-+*/×÷=<>x]|more\b|less\b|fewer\b|times\b))"
    rf"|\s+[{CURRENCY}]?\d|\s+(?:[^\W\d]+\s+){{0,2}}(?:more|less|fewer|times)\s+(?:than|as\s+\w+\s+as)\s+[{CURRENCY}]?\d)"
)
# What may precede a number that is the whole claim: "x =", "about", "only", "Rs." and punctuation.
BEFORE_FIRST = re.compile(
    r"\W*+(?:(?:[xyn]\s*+=|(?:about|approximately|approx|roughly|around|nearly|exactly|only|just|Rs|USD|US|a\s+total\s+of)\b)\W*+)*+"
)
# "is", "equals", "total of" or "=" right before a number
_COPULA = re.compile(rf"(?:\b(?:is|are|was|were|be|equals|total\s+of)|=)\s+[-–{CURRENCY}\s]*$")
# "Therefore, ...", "Step 3: So ...", "2 * 3 = 6, so ..."; not "so that" or "so far", nor "that means", which continues
_CONCLUSION = re.compile(
    r"(?:^|[,:]\s)[^\w]{0,20}(?:and\s+)?"
    r"(?:therefore|thus|hence|consequently|in\s+(?:conclusion|total|all)|altogether|so(?!\s+(?:that|far|many|much|on)\b))\b",
    re.IGNORECASE,
)
# "38 + x", "5y": no value yet
UNFINISHED = re.compile(r"%?\s*+(?:[-–+*×÷^=]|/\s*+[\d(])|[xyzn]\b")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
# up to three words: "square miles", "km/h"
_UNIT = re.compile(r"%?(?:\s*+[^\W\d]++(?:/[^\W\d]++)?){0,3}\W*+")
# "not 5", "never had 5"
_DENIED = re.compile(r"(?:\b(?:not|never|neither|nor)|n['’]t)\s+(?:[^\W\d]+\s+){0,2}[^\w\s]*$", re.IGNORECASE)
# "It is impossible to say whether 5 or 6 are left" concludes nothing.
_UNKNOWN = re.compile(
    r"\b(?:cannot|can['’]t|not\s+(?:sure|certain|clear|possible)|impossible|unknown|unclear)\b", re.IGNORECASE
)
# A last sentence of more characters concludes nothing.
_LONGEST_SENTENCE = 1000
# characters ahead of a number that say what it is
_WINDOW = 60


def find_conclusion(text: str, *, marked: bool = False) -> float | None:
    """Return the number that the last sentence of a text states as its outcome; None where it only mentions numbers.

    In a text of several sentences it is, after "therefore", "so" or the like in the last one, the result of a
    calculation, the only number, or the number that "is" or "equals" introduces. With or without such a word, it may be
    the number that repeats the result of the last calculation before. Where these differ there is no conclusion. A
    calculation at the end of several sentences is a step, not a conclusion, unless the sentence before has the same left
    side ("score = 24 + 8", "score = 32"). A text of one sentence may also be a
    calculation, or nothing but a number with its unit.

    Args:
        text: as the model ended it; a text that was cut off has no last sentence.
        marked: accept only a sentence with "therefore", "so" or the like, which is not the only one.
    """
    sentences = _split_sentences(strip_markup(text))
    if not sentences or len(sentences[-1]) > _LONGEST_SENTENCE or _UNKNOWN.search(sentences[-1]):
        return None
    last, conclusions = sentences[-1], list(_CONCLUSION.finditer(sentences[-1]))
    if marked and (len(sentences) == 1 or not conclusions):
        return None
    if "=" in last:
        if len(sentences) > 1 and _repeats_left_side(sentences[-2], last):
            return parse_result(last)
        # If a calculation at the end of several sentences counted, two to three times as many intermediate results
        # would pass for answers (docs/evaluation.md).
        is_single = len({number.value for number in find_numbers(last.rpartition("=")[2])}) == 1
        return parse_result(last) if is_single and (conclusions or len(sentences) == 1) else None
    numbers = _find_candidates(last)
    calculation = next((sentence for sentence in reversed(sentences[:-1]) if "=" in sentence), None)
    result = parse_result(calculation) if calculation else None
    values = {number.value for number in numbers if number.value == result and result is not None}
    for conclusion in conclusions[-1:]:
        values |= _parse_conclusion(last[conclusion.end() :])
    if len(sentences) == len(numbers) == 1 and _is_only_number(last, numbers[0]):
        values.add(numbers[0].value)
    return values.pop() if len(values) == 1 else None


def _repeats_left_side(before: str, last: str) -> bool:
    """Return whether two calculations are steps of one: "score = 24 + 8" and "score = 32"."""
    left, _, right = last.partition("=")
    return "=" not in right and before.partition("=")[0].strip() == left.strip() and "=" in before


def parse_result(sentence: str) -> float | None:
    """Return the number right behind the last "=" of a calculation, if it is finished and no other number competes."""
    result = sentence.rpartition("=")[2][:_LONGEST_SENTENCE]
    first = next(iter(find_numbers(result)), None)
    if first is None or not BEFORE_FIRST.fullmatch(result, 0, first.start):
        return None
    return None if UNFINISHED.match(result, first.end) or has_rival(result, first) else first.value


def has_rival(sentence: str, number: Number) -> bool:
    """Return whether a second number competes with a number: "5 or 6", "5, 6", "5 more than 6"."""
    return bool(_RIVAL.match(sentence, number.end))


def is_introduced(sentence: str, number: Number) -> bool:
    """Return whether "is", "equals" or the like stands right before a number."""
    return bool(_COPULA.search(sentence, max(0, number.start - _WINDOW), number.start))


def _split_sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text that contain a word, without their ends."""
    cuts = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    parts = [text[start:end].strip() for start, end in pairwise(cuts)]
    return [part for part in parts if re.search(r"\w", part)]


def _is_only_number(sentence: str, number: Number) -> bool:
    """Return whether a sentence is nothing but a number, with up to three words of a unit."""
    return bool(BEFORE_FIRST.fullmatch(sentence, 0, number.start) and _UNIT.fullmatch(sentence, number.end))


def _parse_conclusion(sentence: str) -> set[float | None]:
    """Return the only number of a conclusion, else those that its verb introduces; none with a rival ("5 or 6")."""
    numbers = _find_candidates(sentence)
    if len({number.value for number in numbers}) > 1:
        numbers = [number for number in numbers if is_introduced(sentence, number)]
    return {number.value for number in numbers if not has_rival(sentence, number)}


def _find_candidates(sentence: str) -> list[Number]:
    """Return the numbers that could be an outcome: not "5th", not "5x", not denied, not in an unfinished calculation."""
    return [
        number
        for number in find_numbers(sentence)
        if not (_ORDINAL.match(sentence, number.end) or UNFINISHED.match(sentence, number.end))
        and not _DENIED.search(sentence, max(0, number.start - _WINDOW), number.start)
    ]
