r"""The label that a text states as its answer, under the parser ``strict``: letters, booleans and numbered labels.

- Letters A to E: "The answer is (C) 26" is C; "(A) is too small, (B) too large" is None; "The answer is A train" is None,
  since "A" is the article there.
- "true" and "false": "The answer is not true, it is false" is false; "true or false" is None.
- "answer2", "solution1", "ending3", "option2": "the correct answer is answer 2" is answer2; "answer10" is None.
"""

import re

from pipeline.evaluate.parsing.statements import STATEMENT, is_negated

# what may stand between "the answer is" and the label: "the answer is: **option (C"
_FILLER = r"(?:\s|[:*_\"'`“‘(\[{$\\,]|\\text|(?:the|option|choice|letter|letters?|clearly|definitely|therefore|thus|then|also)\b)*"
# joins a further label, which makes the statement ambiguous: "A or B", "A / B"
_JOIN = r"[\s*_\"'`”’)\]}$]*(?:or|and|/|,|&|\bversus\b)\s*(?:also\s+)?"
# "not true, it is ...": the words after which a negated statement names its answer.
_TURN = re.compile(r"^[^.\n]*?\b(?:but|it\s+is|it's|rather|instead)\b", re.IGNORECASE)


def parse_label(text: str, labels: tuple[str, ...], *, ended: bool = True) -> str | None:
    """Return the only label that a text states, as ``labels`` spells it; None for none, or for several.

    The last "the answer is X" that contains a label counts. Without one, a label counts if the text mentions no other
    and begins or ends with it. A single letter counts if it is bracketed, or alone in the text or in its last sentence.

    Args:
        text: the model's own answer.
        labels: of the answer form.
        ended: whether the model ended the text. If not, only a label at its beginning counts without a statement.
    """
    letters = all(len(label) == 1 for label in labels)
    pattern = _letter_pattern(labels) if letters else _word_pattern(labels)
    spelling = {label.lower(): label for label in labels}
    for match in reversed(list(STATEMENT.finditer(text))):
        claimed = _find_claimed_labels(text[match.end() :], pattern)
        if claimed:
            return _single({spelling[re.sub(r"\s", "", label).lower()] for label in claimed})
    lone = _find_lone_letters(text, labels, ended) if letters else _find_lone_words(text, pattern, ended)
    return _single({spelling[re.sub(r"\s", "", label).lower()] for label in lone})


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
    alone = rf"[{unambiguous}{unambiguous.lower()}](?![\w'’])|A(?![\w'’]){end}|(?<=\()\s*a(?=\s*\))"
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
    """Return the labels of a text that begins or ends with one; none of them may be negated."""
    matches = list(re.finditer(pattern, text))
    if not matches or any(re.search(r"\b(?:not|n't)\s+$", text[: match.start()]) for match in matches):
        return set()
    at_start = not text[: matches[0].start()].strip(" \n*_\"'`(")
    at_end = ended and not text[matches[-1].end() :].strip(" \n*_\"'`).!")
    return {re.sub(r"\s", "", match["label"]).lower() for match in matches} if at_start or at_end else set()


def _find_lone_letters(text: str, labels: tuple[str, ...], ended: bool) -> set[str]:
    """Return the letters that are bracketed, boxed, called correct, or alone in the last sentence."""
    letters = "".join(labels)
    marked = re.findall(rf"(?<!\w)\(\s*([{letters}])\s*\)", text)
    marked += re.findall(rf"\\boxed\{{(?:\\text\{{)?\(?([{letters}])\)?\}}", text)
    marked += re.findall(rf"(?<!\w)([{letters}])\s+is\s+(?:the\s+)?(?:correct|right)(?!\w)", text)
    opening = re.match(rf"\(?\s*([{letters}])\s*\)", text)
    if not ended and not opening:
        return set()
    # "A) ..." at the beginning counts like a bracketed letter elsewhere, so two different letters stay ambiguous.
    if marked or opening:
        return {*marked, *([opening[1]] if opening else [])}
    last = re.split(r"[.!?]\s+|\n+", text.rstrip(" .!*\n"))[-1].strip(" *_\"'`")
    last = re.sub(r"^(?:option|choice)\s+", "", last, flags=re.IGNORECASE)
    return {last} if len(last) == 1 and last in letters else set()
