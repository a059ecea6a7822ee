r"""Where a text states its answer, for every answer form of the parser ``strict``, and where it takes one back.

- ``STATEMENT`` finds the words that introduce an answer: "The answer (in dollars) is 5", "Answer: B", "#### 12", "The
  correct option is (C)", a heading "Final Answer"; not "the answer is correct", "the correct solution: 3 + 4" or
  "#### Day 2".
- ``is_negated(" not 5")`` is true: the words that follow a statement deny an answer.
- ``find_correction("13... wait, it is 12.", 0)`` says that the answer follows "it is".
"""

import re
from typing import NamedTuple

# Matches "the (correct) answer (to that) is", "Answer:", "answer =", "the correct option is", a line that is nothing but
# "Final Answer", and "####" (GSM8K's mark) before a number or a label. Not "the correct solution:", which introduces steps.
STATEMENT = re.compile(
    r"\b(?:answers?(?:\s?\([^()\n]{0,60}\))?|ans(?=\s?[.:])|(?:correct|right|best)\s+(?:option|choice|ending)|final\s+result)"
    r"(?!\w)(?:,?\s{1,9}(?:is|was|are|will\s+be|would\s+be|should\s+be|must\s+be|equals|comes\s+(?:out\s+)?to|in|to|for|of)\b"
    r"[^.\n:=!?]{0,60}?)?"
    r"(?:(?<=\bis)|(?<=\bwas)|(?<=\bare)|(?<=\bbe)|(?<=\bequals)|(?<=\bcomes\sto)|(?<=\bout\sto)|(?<=\bans)\."
    r"|\s{0,9}[:=→]|\s[–—](?=\s))(?!\w)(?!\s+(?:correct|right|wrong)\b)(?:\s{0,9}[:=])?"
    r"|(?<!\#)\#{4}(?!\#)(?=[^\S\n]*+(?:[-+$€£¥₹(\\]{0,3}\s?\.?\d(?!\d?[.)]\s+\w)"
    r"|\(?[a-e]\)?[^\S\n]*+$|(?:true|false|(?:answer|solution|option|ending)\s?\d)\b))"
    r"|^[^\w\n]{0,12}(?:the\s+)?(?:final\s+|correct\s+)?answer[^\w\n]{0,6}$",
    re.IGNORECASE | re.MULTILINE,
)
_NEGATION = re.compile(
    r"[\s:*_\"'(]{0,20}(?:(?:definitely|certainly|clearly|obviously|probably|likely)\s+)?(?:not|neither|never|no\s+longer|isn['’]?t)\b",
    re.IGNORECASE,
)
# "wait, ...", "no, ...", "that is wrong": what was stated does not hold.
_RETRACTION = re.compile(
    r"(?:^|[.!?…;:,\n(—–-]\s{0,4})(?:(?:oh|but|hmm+|no|ah|well)\b[\s,.!…-]{1,5}){0,2}"
    r"(?:wait\b(?=\s*(?:$|[,.!?:…—–-])|\s+(?:no|that|i|it|this|let|a)\b)|hold\s+on\b|scratch\s+that\b|correction\b(?=\s*[:,])"
    r"|oops\b|on\s+second\s+thoughts?\b|i\s+(?:made\s+(?:a|an)\s+\w{0,12}\s?(?:mistake|error)|was\s+wrong|misread|miscalculated)\b"
    r"|(?:that|this)(?:['’]s|\s+is|\s+was)(?:\s+not\s+(?:right|correct)|\s+(?:wrong|incorrect))\b)",
    re.IGNORECASE,
)
# "Actually, it is ...": only with an answer behind it, since "Actually, he could ..." takes nothing back.
_HESITATION = re.compile(
    r"(?:^|[.!?…;,\n(—–-]\s{0,4})(?:actually|sorry|or\s+rather|no)\b(?!\s+\w+ly\b)", re.I
)
_RESTATEMENT = re.compile(
    r"[^.!?\n]{0,80}?\b(?:it|that|this|(?:the\s+)?(?:answer|result|total))"
    r"(?:['’]s|\s+(?:is|was|should\s+be|would\s+be|must\s+be|equals))(?!\s+(?:wrong|incorrect|not\b|right\b|correct\b))"
    r"(?:\s+(?:actually|really|in\s+fact))?",
    re.IGNORECASE,
)
# how far behind a retraction its answer is looked for
_REACH = 300


class Correction(NamedTuple):
    """Where the answer starts that replaces another one; None where none does, so that the text has no answer."""

    start: int | None


def is_negated(claim: str) -> bool:
    """Return whether the words that follow a statement say what the answer is not."""
    return bool(_NEGATION.match(claim))


def find_correction(text: str, start: int) -> Correction | None:
    """Return what becomes of the answer that was stated at ``start``; None where it stands."""
    retractions = list(_RETRACTION.finditer(text, start))
    hesitations = list(_HESITATION.finditer(text, retractions[-1].end() if retractions else start))
    for mark in reversed(hesitations[-3:]):
        restated = _RESTATEMENT.match(text, mark.end(), mark.end() + _REACH)
        if restated:
            return Correction(restated.end())
    if not retractions:
        return None
    position = retractions[-1].end()
    sentences = list(re.finditer(r"[^.!?\n]+[.!?\n]*", text[position : position + _REACH]))
    for sentence in reversed(sentences):
        restated = _RESTATEMENT.match(text, position + sentence.start(), position + sentence.end())
        if restated:
            return Correction(restated.end())
    return Correction(_skip_to_bare_answer(text, position))


def _skip_to_bare_answer(text: str, position: int) -> int | None:
    """Return the position if nothing but an answer follows a retraction ("wait, 12."), else None."""
    bare = re.compile(r"[\s,.:!…—–-]{0,9}(?=[$€£(\\]{0,2}[\dA-E]\w{0,12}[\W\d]{0,12}$)").match(text, position)
    return bare.end() if bare else None
