"""The number that a text ends with as its outcome, where it states none as its answer, under the protocol ``strict``."""

import re
from itertools import pairwise

from pipeline.evaluate.scoring.numerals import CURRENCY, Number, numbers_in, plain

SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)[.!?](?=[\s*\"')\]}]|$)|\n|;")
RIVAL = re.compile(
    rf"%?\s*(?:to\s+[-{CURRENCY}(]*\d|(?:(?!\b(?:because|since|as|so|if|when)\b)[^(=\d])*?\b(?:or|and)\s+[-{CURRENCY}(]*\d)"
)
BEFORE_FIRST = re.compile(
    r"[^\w]*(?:(?:[xyn]\s*=|about|approximately|approx\.|roughly|exactly|only|just|Rs\.?)\s*)*[^\w]*"
)
COPULA = re.compile(rf"(?:\b(?:is|are|was|were|be|equals|total\s+of)|=)\s+[-–{CURRENCY}\s]*$")
# "Therefore, ...", "Step 3: So ...", "2 * 3 = 6, so ..."; not "so that", "so far", and not "that means", which goes on
_CONCLUSION = re.compile(
    r"(?:^|[,:]\s+)[^\w]*(?:and\s+)?"
    r"(?:therefore|thus|hence|consequently|in\s+(?:conclusion|total|all)|altogether|so(?!\s+(?:that|far|many|much|on)\b))\b",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"%?\s*(?:[-–+*×÷^=]|/\s*[\d(])|[xyzn]\b")  # "38 + x", "5y": no value yet
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_UNIT = re.compile(r"%?(?:\s*[^\W\d]+(?:/[^\W\d]+)?){0,3}\W*")
_DENIED = re.compile(r"(?:\b(?:not|never|neither|nor)|n['’]t)\s+(?:[^\W\d]+\s+){0,2}[^\w\s]*$", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"\b(?:cannot|can['’]t|not\s+(?:sure|certain|clear|possible)|impossible|unknown|unclear)\b", re.IGNORECASE
)


def _sentences(text: str) -> list[str]:
    """Return the sentences and lines of a plain text that say anything, without their ends."""
    cuts = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    parts = [text[start:end].strip() for start, end in pairwise(cuts)]
    return [part for part in parts if re.search(r"\w", part)]


def outcome(text: str) -> float | None:
    """Return the number that the last sentence of a text states as the outcome; None where it only mentions numbers.

    Of a text of several sentences that is, in the last one, what follows "therefore", "so" or the like: the result of the
    calculation there, its only number, or the one that "is" or "equals" introduces; or, with or without such a word, the
    number that repeats the result of the last calculation before. Where these differ there is none. A calculation at the
    end of several sentences is a step and no conclusion. A text of one sentence may also be a calculation, or nothing
    but a number with its unit.

    Args:
        text: as its writer ended it; a text that was cut off has no last sentence.
    """
    sentences = _sentences(plain(text))
    if not sentences or _UNKNOWN.search(sentences[-1]):
        return None
    last, conclusions = sentences[-1], list(_CONCLUSION.finditer(sentences[-1]))
    if "=" in last:
        return _result(last) if conclusions or len(sentences) == 1 else None
    numbers = _mentioned(last)
    calculations = [sentence for sentence in sentences[:-1] if "=" in sentence]
    before = _result(calculations[-1]) if calculations else None
    found = {number.value for number in numbers if number.value == before and before is not None}
    for conclusion in conclusions[-1:]:
        found |= _concluded(last[conclusion.end() :])
    if len(sentences) == len(numbers) == 1 and _is_all(last, numbers[0]):
        found.add(numbers[0].value)
    return found.pop() if len(found) == 1 else None


def _result(said: str) -> float | None:
    """Return what stands behind the last "=" of a calculation, if it is one number and nothing is left to do."""
    result = said.rpartition("=")[2]
    numbers = numbers_in(result)
    done = len({number.value for number in numbers}) == 1 and not _GOES_ON.match(result, numbers[0].end)
    return numbers[0].value if done and BEFORE_FIRST.fullmatch(result, 0, numbers[0].start) else None


def _is_all(said: str, number: Number) -> bool:
    """Whether a sentence says nothing but a number, with up to three words of a unit."""
    return bool(BEFORE_FIRST.fullmatch(said, 0, number.start) and _UNIT.fullmatch(said, number.end))


def _concluded(said: str) -> set[float | None]:
    """Return the only number of a conclusion, or those that its verb introduces."""
    numbers = _mentioned(said)
    if len({number.value for number in numbers}) > 1:
        numbers = [number for number in numbers if COPULA.search(said, 0, number.start)]
    return {number.value for number in numbers if not RIVAL.match(said, number.end)}


def _mentioned(said: str) -> list[Number]:
    """Return the numbers that could be an outcome: neither "5th" nor "5x", denied or of an unfinished calculation."""
    return [
        number
        for number in numbers_in(said)
        if not (_ORDINAL.match(said, number.end) or _GOES_ON.match(said, number.end))
        and not _DENIED.search(said, 0, number.start)
    ]
