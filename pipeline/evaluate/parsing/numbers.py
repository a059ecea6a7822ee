r"""The number that a text states as its answer, under the parser ``strict``.

- "He has 3 apples. The answer is 7." is 7.0; "#### 1,234.50" is 1234.5; "So \boxed{\frac{1}{2}}" is 0.5.
- "The answer is 18 eggs * $2 = $36." is 36.0: a calculation is worth what follows its last "=".
- "12 * 8 = 96. Answer: 12 bags hold 96 kilos." is 96.0: of several numbers the one that repeats the last result.
- "The answer is 13... wait, it is 12." is 12.0: the correction counts.
- "3 + 4 = 7. Therefore, she has 7 apples." is 7.0, from its conclusion (conclusions.py).
- "The answer is 5 or 6" and "He sells 5 on day 2." are None.
"""

import re
from collections.abc import Callable
from functools import partial

from pipeline.evaluate.parsing.conclusions import (
    BEFORE_FIRST,
    SENTENCE_END,
    UNFINISHED,
    find_conclusion,
    has_rival,
    is_introduced,
    parse_result,
)
from pipeline.evaluate.parsing.markup import strip_markup
from pipeline.evaluate.parsing.numerals import CURRENCY, Number, find_numbers, read_words
from pipeline.evaluate.parsing.statements import STATEMENT, find_correction, is_negated

# After a number: "* 2", "eggs * $2", "plus 5", "% of 20". It begins a calculation, of which only the result is the answer.
_OPERATOR = re.compile(
    rf"%?\s*+(?:[^\W\d]+\s+){{0,2}}?(?:[-+*/×÷–^]|x(?=\s*+[\d{CURRENCY}(])|(?:plus|minus|times|(?:divided|multiplied)\s+by)\s)"
    rf"\s*+[{CURRENCY}(]*+\s*+\.?\d|\s?(?:%|percent)?\s*+of\s+[{CURRENCY}]?\d"
)
# "\sqrt{16} = 4"
_EQUALS = re.compile(r"[^\w=]{0,9}=")
# numbered steps, "step 1" or several items right after a statement
_LIST = re.compile(
    r"\s*+(?:(?<=\n)|(?<=\n[ \t]))\d{1,2}[.)]\s+\S|\s*+step\s+\d|\s*+[-*•]\s+\S[^\n]*+\n\s*+[-*•]\s+\S",
    re.IGNORECASE,
)
# a list of one item
_BULLET = re.compile(r"\A[ \t:]*\n\s*+[-*•]\s+")
_BRACE = re.compile(r"\\f?boxed\s{0,9}\{|[{}]")
_REASON = re.compile(r"\b(?:because|since|as|so|if|when)\b|\(")
# A sentence that is longer than this states nothing.
_LONGEST_CLAIM = 1000


def parse_number(text: str, *, ended: bool = True) -> float | None:
    r"""Return the number that a text states as its answer, else the one that it concludes with, else None.

    Statements are "the answer is X", "Answer: X", "#### X", "\boxed{X}". The last one that contains a number counts, unless
    the text takes it back. In a calculation, the result counts. In a sentence with several numbers, the first after "is"
    counts, or the one that repeats the last result before. Two answers ("5 or 6", "3-5", an unfinished "3 + 4") or digits
    that form no number give None.

    Without a statement the last sentence may state a conclusion (``find_conclusion``); other numbers do not count.

    Args:
        text: the model's own answer.
        ended: whether the model ended it. If not, it has no conclusion, and its last word may be cut off.
    """
    plain = strip_markup(text)
    kept = (
        plain if ended or not plain or plain[-1].isspace() else plain[: len(plain) - len(plain.split()[-1])]
    )
    boxed = _find_last_boxed(kept)
    spans = [match.span() for match in STATEMENT.finditer(kept)]
    later = [span for span in spans if boxed is None or span[0] > boxed[0]]
    limit = len(kept)
    for start, end in reversed(later):
        # "The answer is: 1. Add ..., 2. ...": the statement introduces steps, which may have a conclusion
        if _LIST.match(kept, end):
            return find_conclusion(kept[end:]) if ended else None
        claim = _claimed_sentence(kept, end, limit)
        is_cut = not ended and end + len(claim) >= len(kept.rstrip()) and UNFINISHED.match(plain[len(kept) :])
        # "is", "are", "equals", "to" or "####" is right ahead of the answer, unlike a colon
        is_sentence = kept[end - 1].lower() not in "seo#"
        has_number, value = _parse_claim(
            claim, is_sentence=is_sentence, find_support=partial(_last_result, kept, start)
        )
        if has_number and is_cut:
            return None
        if has_number:
            return _reconcile(kept[end:], _correct(kept, end, value), ended=ended)
        limit = start
    if boxed is not None:
        value = _parse_claim(boxed[1], is_sentence=False)[1]
        return _correct(kept, boxed[0], value)
    if spans:
        return None
    return find_conclusion(kept) if ended else None


def _correct(text: str, start: int, value: float | None) -> float | None:
    """Return a value that was stated at ``start``, or the one that replaces it in the text behind."""
    correction = find_correction(text, start)
    if correction is None:
        return value
    if correction.start is None:
        return None
    claim = _claimed_sentence(text, correction.start, len(text))
    return _parse_claim(claim, is_sentence=False)[1]


def _reconcile(remainder: str, value: float | None, *, ended: bool) -> float | None:
    """Return a value that was stated, unless the text concludes with another one in a sentence of its own."""
    conclusion = find_conclusion(remainder, marked=True) if ended else None
    if conclusion is None or value is None:
        return conclusion if value is None else value
    return value if conclusion == value else None


def _find_last_boxed(text: str) -> tuple[int, str] | None:
    r"""Return where the last complete ``\boxed{...}`` starts and what it contains; braces may be nested.

    Of several in one sentence ("\boxed{5} hours and \boxed{20} minutes") all are returned, from the first on.
    """
    opened: list[tuple[int, int, bool]] = []
    boxes: list[tuple[int, int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace.start(), brace.end(), brace[0] != "{"))
        elif opened:
            start, inside, is_box = opened.pop()
            if is_box:
                boxes.append((start, inside, brace.start()))
    if not boxes:
        return None
    start, inside, end = max(boxes)
    contents = text[inside:end]
    others = [
        box
        for box in boxes[-4:]
        if box[2] < start and not SENTENCE_END.search(text[box[2] : start][-_LONGEST_CLAIM:])
    ]
    if others and any(text[box[1] : box[2]].strip() != contents.strip() for box in others):
        contents = " and ".join([*(text[box[1] : box[2]] for box in others), contents])
    return start, contents


def _claimed_sentence(text: str, start: int, limit: int) -> str:
    """Return what follows a statement up to the end of its sentence, or up to the next statement at ``limit``."""
    claim = text[start : min(limit, start + 2 * _LONGEST_CLAIM)]
    claim = _BULLET.sub("", claim, count=1).lstrip(" \t\n:")
    end = SENTENCE_END.search(claim)
    claim = claim[: end.start()] if end else claim
    return claim if len(claim) < _LONGEST_CLAIM else ""


def _last_result(text: str, end: int) -> float | None:
    """Return the result of the last calculation that ends before a statement, in any line before it."""
    equals = text.rfind("=", 0, end)
    if equals < 0:
        return None
    result = text[equals + 1 : min(end, equals + 100)]
    cut = SENTENCE_END.search(result)
    return parse_result(result[: cut.start()] if cut else result)


def _parse_claim(
    claim: str, *, is_sentence: bool, find_support: Callable[[], float | None] = lambda: None
) -> tuple[bool, float | None]:
    """Return whether a claim contains a number, and its value if it states exactly one.

    Args:
        claim: the words behind a statement.
        is_sentence: whether they are a sentence of their own, as after "Answer:", so that their first number need not be
            the answer.
        find_support: returns the result of the last calculation before, or None.
    """
    numbers = find_numbers(claim)
    opening = BEFORE_FIRST.match(claim)
    words = read_words(claim, opening.end()) if opening else None
    if words and words.value is not None and all(number.start >= words.end for number in numbers):
        numbers = [words, *numbers]
    if not numbers or is_negated(claim):
        return bool(numbers), None
    first = numbers[0]
    if _OPERATOR.match(claim, first.end) or (first.value is None and _EQUALS.match(claim, first.end)):
        _, equals, result = claim.rpartition("=")
        numbers = find_numbers(result) if equals else []
        unclear = not numbers or _OPERATOR.match(result, numbers[0].end) or has_rival(result, numbers[0])
        return True, None if unclear else numbers[0].value
    # reasons and remarks in brackets state no answer, unless they are all there is
    reason = _REASON.search(claim, first.end)
    outer = [number for number in numbers if not reason or number.start < reason.start()]
    values = {number.value for number in outer}
    if len(values) == 1:
        return True, first.value
    rivalled = has_rival(claim, first)
    if BEFORE_FIRST.fullmatch(claim, 0, first.start) and not is_sentence and not rivalled:
        return True, first.value
    stated = {number.value for number in outer if is_introduced(claim, number)}
    if len(stated) == 1 and not rivalled:
        return True, stated.pop()
    return True, _find_supported(claim, outer, find_support())


def _find_supported(claim: str, numbers: list[Number], support: float | None) -> float | None:
    """Return the only number of a claim that equals the last result, unless another one is joined to it."""
    equal = [index for index, number in enumerate(numbers) if support is not None and number.value == support]
    if len(equal) != 1:
        return None
    index = equal[0]
    # the 6 of "5 6 dollar toys" does not compete with the result 5
    neighbour = numbers[index + 1].start if index + 1 < len(numbers) else len(claim)
    joined = claim[numbers[index].end : neighbour].strip() and has_rival(claim, numbers[index])
    joined = joined or (index > 0 and has_rival(claim, numbers[index - 1]))
    return None if joined else support
