r"""The label that a text states as its answer, under the parser ``strict``: letters, booleans and numbered labels.

- Letters A to E: "The answer is (C) 26" is C; "(A) is too small, (B) too large" is None; "The answer is A train" is None,
  since "A" is the article there; "B. Because (A) is too small." and "Option (B) is the best answer" are B.
- "true" and "false": "The answer is not true, it is false" is false; "true or false" and "It isn't true" are None.
- "answer2", "solution1", "ending3", "option2": "the correct answer is answer 2" is answer2; "answer10" and "Option 1 is
  wrong" are None.
"""

import re
from collections.abc import Mapping

from pipeline.evaluate.parsing.statements import STATEMENT, find_correction, is_negated

# what may stand between "the answer is" and the label: "the answer is: **option (C"
_FILLER = (
    r"(?:\s|[:*_\"'`“‘(\[{$\\,]|\\text|(?:the|option|choice|letter|letters?|clearly|definitely|therefore|thus|then|also"
    r"|most|likely|probably|probable|indeed|actually|simply|still|now|here)\b)*+"
)
# joins a further label, which makes the statement ambiguous: "A or B", "A / B"
_JOIN = r"[\s*_\"'`”’)\]}$]{0,9}(?:or|and|/|,|&|\bversus\b)\s*+(?:also\s+)?"
# "not true, it is ...": the words after which a negated statement names its answer.
_TURN = re.compile(r"^[^.\n]{0,200}?\b(?:but|it\s+is|it's|rather|instead)\b", re.IGNORECASE)
# ahead of a label that is denied: "not ", "isn't quite ", "rule out "
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|no\s+longer|rather\s+than|instead\s+of|rule[sd]?\s+out|eliminat\w+|exclud\w+)|n['’]t)"
    r"\s+(?:(?:the|quite|really|entirely|always|be|option|choice|answer|correct)\s+){0,3}[(*_\"'`]*$",
    re.IGNORECASE,
)
# behind a label that is rejected: ") is too small", " is not", " can be ruled out", " would be wrong"
_REJECTED = re.compile(
    r"[\s)\]}*_\"'`”’:,]{0,6}(?:[^\W\d]+\s+){0,3}?(?:(?:is|are|was|were|does|do|did|can|could|would|should|has|have|will)n['’]?t\b|cannot\b"
    r"|(?:not|too|never|wrong|incorrect|false|unlikely|impossible|irrelevant|ruled\s+out|eliminated|excluded)\b)",
    re.IGNORECASE,
)
_CONCLUDING = re.compile(r"\b(?:so|therefore|thus|hence)\b", re.IGNORECASE)
# A label behind a statement that is further away belongs to something else.
_REACH = 300
# characters between a statement and the words of an option that the label is followed by
_LABEL_REACH = 20
# A text that mentions labels more often states none.
_MOST_MENTIONS = 100
# characters ahead of a label that may deny it
_WINDOW = 60


def parse_label(
    text: str, labels: tuple[str, ...], *, options: Mapping[str, str] | None = None, ended: bool = True
) -> str | None:
    """Return the only label that a text states, as ``labels`` spells it; None for none, or for several.

    The last "the answer is X" that contains a label counts, unless the text takes it back. Without one, a label counts
    if the text mentions no other and begins or ends with it. A single letter counts if the text calls it the correct
    one, if it opens the text as an answer, or if it is bracketed or alone in the last sentence and no other one is.
    What the text rejects ("not B", "(A) is too small") does not count.

    Args:
        text: the model's own answer.
        labels: of the answer form.
        options: label -> the option's words ("" or missing: unknown), which may follow an opening letter.
        ended: whether the model ended the text. If not, only a label at its beginning counts without a statement.
    """
    letters = all(len(label) == 1 for label in labels)
    pattern = _letter_pattern(labels) if letters else _word_pattern(labels)
    spelling = {label.lower(): label for label in labels}
    matches = list(STATEMENT.finditer(text))
    for match in reversed(matches):
        claimed = _find_claimed_labels(text[match.end() : match.end() + _REACH], pattern)
        if claimed:
            correction = find_correction(text, _skip_words(text, match.end(), options or {}))
            if correction:
                start = correction.start
                claimed = [] if start is None else _find_claimed_labels(text[start : start + _REACH], pattern)
            return _single({spelling[re.sub(r"\s", "", label).lower()] for label in claimed})
    lone = (
        _find_lone_letters(text, labels, options or {}, ended)
        if letters
        else _find_lone_words(text, pattern, ended)
    )
    return _single({spelling[re.sub(r"\s", "", label).lower()] for label in lone})


def _skip_words(text: str, start: int, options: Mapping[str, str]) -> int:
    """Return where the words of an option end if they follow a statement ("Answer: B. That was wrong."), else its end."""
    reach = text[start : start + _REACH].casefold()
    ends = [
        reach.find(words.strip(" .,;").casefold()) + len(words)
        for words in options.values()
        if words and 0 <= reach.find(words.strip(" .,;").casefold()) <= _LABEL_REACH
    ]
    return start + max(ends, default=0)


def _single(labels: set[str]) -> str | None:
    return labels.pop() if len(labels) == 1 else None


def _word_pattern(labels: tuple[str, ...]) -> str:
    """Match a label as a whole word, in any case: "answer 2" is answer2, "true-ish" is not true."""
    spaced = [re.sub(r"(\d)$", r"\\s?\1", label) for label in labels]
    return rf"(?<!\w)(?<!\w-)(?P<label>(?i:{'|'.join(spaced)}))(?!-?\w)"


def _letter_pattern(labels: tuple[str, ...]) -> str:
    """Match a letter right after a statement; "a" must be bracketed and "A" must end its phrase, since both are words."""
    letters = "".join(labels)
    unambiguous = letters.replace("A", "")
    end = r"(?=\s*(?:$|[.,;:!?)\]}<\n*\"'”’-]|because\b|since\b|as\b|which\b|or\b|and\b|\())"
    alone = rf"[{unambiguous}{unambiguous.lower()}](?!\w|['’]\w)|A(?!\w|['’]\w){end}|(?<=\()\s?a(?=\s?\))|(?<=['\"‘“`])a(?=['\"’”`])"
    return rf"(?<!\w)(?P<label>{alone})"


def _find_claimed_labels(claim: str, pattern: str) -> list[str]:
    """Return the label right after a statement, and those joined to it by "or" and the like; [] if there is none."""
    if is_negated(claim):
        turn = _TURN.match(claim)
        if not turn:
            return []
        claim = claim[turn.end() :]
        if is_negated(claim):
            return []
    match = re.match(_FILLER + pattern, claim)
    labels = []
    while match:
        labels.append(match["label"].strip())
        claim = claim[match.end() :]
        match = re.match(_JOIN + _FILLER + pattern, claim)
    return labels


def _find_lone_words(text: str, pattern: str, ended: bool) -> set[str]:
    """Return the labels of a text that begins or ends with one; none of them may be denied or rejected."""
    matches = list(re.finditer(pattern, text))
    if not 0 < len(matches) <= _MOST_MENTIONS or any(_is_rejected(text, match) for match in matches):
        return set()
    at_start = not text[: matches[0].start()].strip(" \n*_\"'`(")
    at_end = ended and not text[matches[-1].end() :].strip(" \n*_\"'`).!")
    return {re.sub(r"\s", "", match["label"]).lower() for match in matches} if at_start or at_end else set()


def _is_rejected(text: str, match: re.Match[str]) -> bool:
    """Return whether the words around a label say that it is not the answer."""
    before = text[max(0, match.start() - _WINDOW) : match.start()]
    return bool(_DENIED.search(before) or _REJECTED.match(text, match.end()))


def _find_lone_letters(
    text: str, labels: tuple[str, ...], options: Mapping[str, str], ended: bool
) -> set[str]:
    """Return the letters that are called correct, that open the text, that are bracketed, or that end it."""
    letters = "".join(labels)
    opening = _find_opening_letter(text, letters, options)
    bracketed_opening = re.match(rf"\(?\s?([{letters}])\s?\)", text)
    if not ended:
        return {opening} if opening else {bracketed_opening[1]} if bracketed_opening else set()
    correct = _find_correct_letters(text, letters)
    if correct:
        return correct
    if opening:
        return {opening}
    marks = list(re.finditer(rf"(?<!\w)\(\s?([{letters}])\s?\)", text))
    marks += re.finditer(rf"\\boxed\{{(?:\\text\{{)?\(?([{letters}])\)?\}}", text)
    rejected = [mark for mark in marks if _is_rejected(text, mark)]
    if rejected:
        last = re.split(r"[.!?]\s+|\n+", text.rstrip(" .!*\n"))[-1]
        start = text.rfind(last)
        marks = [
            mark
            for mark in marks
            if mark not in rejected and mark.start() >= start and _CONCLUDING.search(last)
        ]
        return {mark[1] for mark in marks}
    # "A) ..." at the beginning counts like a bracketed letter elsewhere, so two different letters stay ambiguous.
    if marks or bracketed_opening:
        return {*(mark[1] for mark in marks), *([bracketed_opening[1]] if bracketed_opening else [])}
    last = re.split(r"[.!?]\s+|\n+", text.rstrip(" .!*\n"))[-1].strip(" *_\"'`‘’“”")
    last = re.sub(r"^(?:option|choice)\s+", "", last, flags=re.IGNORECASE)
    if last == text.strip(" .!*_\"'`‘’“”\n") and re.fullmatch(r"\(?[a-e]\)?", last):
        last = last.strip("()").upper()
    return {last} if len(last) == 1 and last in letters else set()


def _find_correct_letters(text: str, letters: str) -> set[str]:
    """Return the letters that a text calls correct or best: "B is correct", "Option (A) is the best answer"."""
    correct = re.finditer(
        rf"(?<!\w)\(?([{letters}])\)?\s+(?:is|would\s+be|must\s+be|seems\s+to\s+be)\s+(?:(?:clearly|definitely|therefore|probably)\s+)?"
        rf"(?:the\s+)?(?:most\s+(?:likely|appropriate|suitable|reasonable)\s+(?:answer|option|choice)"
        rf"|best\s+(?:answer|option|choice)|(?:correct|right)(?!\w))",
        text,
    )
    return {
        match[1]
        for match in correct
        if not _DENIED.search(text[max(0, match.start() - _WINDOW) : match.start()])
    }


def _find_opening_letter(text: str, letters: str, options: Mapping[str, str]) -> str | None:
    """Return the letter that a text opens with as its answer: "B. 15", "(B) 20" for that option, a first line "C".

    The letter must be alone in its line, or the words of its option must follow and end the sentence, or a reason must
    follow. A text that lists several options in this way has none.
    """
    mark = rf"[ \t*_\"'`]{{0,5}}(?:(?:option|choice)\s)?\(?\s?(?P<letter>[{letters}])\s?(?P<end>[).:]|[*_]{{0,2}}[.:]|(?=[*_\"'`]*\s*$))[*_]{{0,2}}"
    match = re.match(mark, text, re.IGNORECASE | re.MULTILINE)
    if not match or match["letter"] not in letters:
        return None
    lines = [
        line
        for line in re.finditer(rf"^{mark}", text, re.IGNORECASE | re.MULTILINE)
        if not _is_rejected(text, line)
    ]
    if len({line["letter"].upper() for line in lines}) > 1:
        return None
    rest, words = text[match.end() :], options.get(match["letter"], "").strip(" .,;")
    # "A:" alone is the beginning of an answer
    if not rest.split("\n", 1)[0].strip(" *_\"'`.)"):
        return match["letter"] if ":" not in match["end"] else None
    rest = rest.lstrip(" *_\"'`")
    if words and rest.casefold().startswith(words.casefold()):
        return (
            match["letter"]
            if re.match(
                r"\W*$|[*_\"'`]*(?:[.!]?\s*(?:\n|$)|[.!;]\s|,?\s+(?:because|since|as)\b)", rest[len(words) :]
            )
            else None
        )
    return match["letter"] if re.match(r"(?:because|since)\b", rest, re.IGNORECASE) else None
