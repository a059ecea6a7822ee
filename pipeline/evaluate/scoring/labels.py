"""The label that a text states as its answer, under the protocol ``strict``."""

import re

from pipeline.evaluate.scoring.statements import STATEMENT, is_negated

_FILLER = r"(?:\s|[:*_\"'`“‘(\[{$\\,]|\\text|(?:the|option|choice|letter|letters?|clearly|definitely|therefore|thus|then|also)\b)*"
_JOIN = r"[\s*_\"'`”’)\]}$]*(?:or|and|/|,|&|\bversus\b)\s*(?:also\s+)?"
_TURN = re.compile(r"^[^.\n]*?\b(?:but|it\s+is|it's|rather|instead)\b", re.IGNORECASE)


def parse_label(text: str, labels: tuple[str, ...], *, ended: bool = True) -> str | None:
    """Return the one label that a text states, as ``labels`` spells it; None for none or for two of equal claim.

    The last "the answer is X" that holds a label counts. Without one, a label counts if no other is named and the text
    begins or ends with it; a single letter counts if it is bracketed, or alone in the text or in its last sentence. Of a
    text that the model did not end (``ended``), only its beginning counts so.
    """
    letters = all(len(label) == 1 for label in labels)
    one = _letter_pattern(labels) if letters else _word_pattern(labels)
    spelling = {label.lower(): label for label in labels}
    for match in reversed(list(STATEMENT.finditer(text))):
        said = _claimed(text[match.end() :], one)
        if said:
            return _only({spelling[re.sub(r"\s", "", label).lower()] for label in said})
    lone = _lone_letters(text, labels, ended) if letters else _lone_words(text, one, ended)
    return _only({spelling[re.sub(r"\s", "", label).lower()] for label in lone})


def _only(found: set[str]) -> str | None:
    return found.pop() if len(found) == 1 else None


def _word_pattern(labels: tuple[str, ...]) -> str:
    """A label as a whole word, in any case; "answer 2" is answer2, "true-ish" is not true."""
    spaced = [re.sub(r"(\d)$", r"\\s?\1", label) for label in labels]
    return rf"(?<!\w)(?<!\w-)(?P<label>(?i:{'|'.join(spaced)}))(?!-?\w)"


def _letter_pattern(labels: tuple[str, ...]) -> str:
    """A letter right after a statement. "a" alone may be the article: it must be bracketed, "A" must end its phrase."""
    every = "".join(labels)
    rest = every.replace("A", "")
    end = r"(?=\s*(?:$|[.,;:!?)\]}<\n*\"'”’-]|because\b|since\b|as\b|which\b|or\b|and\b|\())"
    alone = rf"[{rest}{rest.lower()}](?![\w'’])|A(?![\w'’]){end}|(?<=\()\s*a(?=\s*\))"
    return rf"(?<!\w)(?P<label>{alone})"


def _claimed(rest: str, one: str) -> list[str]:
    """Return the label that follows a statement, with those joined to it by "or" and the like; [] if none follows."""
    if is_negated(rest):
        turn = _TURN.match(rest)
        if not turn:
            return []
        rest = rest[turn.end() :]
        if is_negated(rest):
            return []
    match = re.match(_FILLER + one, rest)
    found = []
    while match:
        found.append(match["label"].strip())
        rest = rest[match.end() :]
        match = re.match(_JOIN + _FILLER + one, rest)
    return found


def _lone_words(text: str, one: str, ended: bool) -> set[str]:
    named = list(re.finditer(one, text))
    if not named or any(re.search(r"\b(?:not|n't)\s+$", text[: match.start()]) for match in named):
        return set()
    at_start = not text[: named[0].start()].strip(" \n*_\"'`(")
    at_end = ended and not text[named[-1].end() :].strip(" \n*_\"'`).!")
    return {re.sub(r"\s", "", match["label"]).lower() for match in named} if at_start or at_end else set()


def _lone_letters(text: str, labels: tuple[str, ...], ended: bool) -> set[str]:
    every = "".join(labels)
    bracketed = re.findall(rf"(?<!\w)\(\s*([{every}])\s*\)", text)
    bracketed += re.findall(rf"\\boxed\{{(?:\\text\{{)?\(?([{every}])\)?\}}", text)
    bracketed += re.findall(rf"(?<!\w)([{every}])\s+is\s+(?:the\s+)?(?:correct|right)(?!\w)", text)
    opening = re.match(rf"\(?\s*([{every}])\s*\)", text)
    if not ended and not opening:
        return set()
    if bracketed or opening:
        return {*bracketed, *([opening[1]] if opening else [])}
    last = re.split(r"[.!?]\s+|\n+", text.rstrip(" .!*\n"))[-1].strip(" *_\"'`")
    last = re.sub(r"^(?:option|choice)\s+", "", last, flags=re.IGNORECASE)
    return {last} if len(last) == 1 and last in every else set()
