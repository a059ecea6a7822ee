r"""Where a text states its answer, and where the answer ends, for every answer form of the parser ``strict``.

- ``STATEMENT`` finds the words that introduce an answer: "The answer is 5", "Answer: B", "#### 12", "The correct option
  is (C)"; it does not match "the answer is correct" or "the correct solution: 3 + 4".
- ``cut_to_first_answer("The answer is 5.\n\n### Instruction:\nNext?")`` is "The answer is 5.".
- ``is_negated(" not 5")`` is true: the words that follow a statement deny an answer.
"""

import re

# Matches "the (correct) answer (to that) is", "Answer:", "answer =", "the correct option is" and "####" (GSM8K's mark).
# Not "the correct solution:", which introduces steps.
STATEMENT = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s+(?:option|choice|ending)|final\s+result)\b"
    r"(?:\s+(?:is|was|are|will\s+be|would\s+be|should\s+be|must\s+be|equals|in|to|for|of)\b[^.\n:=!?]{0,60}?)?"
    r"(?:(?<=\bis)|(?<=\bwas)|(?<=\bare)|(?<=\bbe)|(?<=\bequals)|\s*[:=])(?!\w)(?!\s+(?:correct|right|wrong)\b)(?:\s*[:=])?|####",
    re.IGNORECASE,
)
_SPECIAL_TOKEN = re.compile(r"</?s>|<unk>|<pad>|<\|endoftext\|>")
_NEXT_EXAMPLE = re.compile(
    r"#{2,}\s*(?:instruction|input|response)\b\s*:?|^\s*(?:q|question)\s*:", re.I | re.M
)
# Unlike _NEXT_EXAMPLE it needs the colon: while a text is being generated, "### Input" may still become another word.
_HEADING = re.compile(r"#{2,}\s*(?:instruction|input|response)\s*:|^\s*(?:q|question)\s*:", re.I | re.M)
_NEGATION = re.compile(r"[\s:*_\"'(]*(?:not|neither|never|isn't)\b", re.IGNORECASE)


def cut_to_first_answer(text: str) -> str:
    """Return the text without special tokens, up to where the model starts another example of its own."""
    text = _SPECIAL_TOKEN.sub(" ", text).strip()
    for match in _NEXT_EXAMPLE.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()].strip()
        return cut_to_first_answer(text[match.end() :])
    return text


def is_complete(text: str) -> bool:
    """Return whether a model has answered and begun another example, so that nothing that follows changes its answer.

    A complete text stays complete, whatever is appended to it.
    """
    text = _SPECIAL_TOKEN.sub(" ", text)
    return any(text[: match.start()].strip() for match in _HEADING.finditer(text))


def is_negated(claim: str) -> bool:
    """Return whether the words that follow a statement say what the answer is not."""
    return bool(_NEGATION.match(claim))
