"""Where a text states its answer, and where the answer ends, for all parsers of the protocol ``strict``."""

import re

# "the (correct) answer (to that) is", "Answer:", "answer =", "the correct option is", "#### " (GSM8K's mark); but steps
# follow "the correct solution:"
STATEMENT = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s+(?:option|choice|ending)|final\s+result)\b"
    r"(?:\s+(?:is|was|are|will\s+be|would\s+be|should\s+be|must\s+be|equals|in|to|for|of)\b[^.\n:=!?]{0,60}?)?"
    r"(?:(?<=\bis)|(?<=\bwas)|(?<=\bare)|(?<=\bbe)|(?<=\bequals)|\s*[:=])(?!\w)(?!\s+(?:correct|right|wrong)\b)(?:\s*[:=])?|####",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"</?s>|<unk>|<pad>|<\|endoftext\|>")
_NEXT_EXAMPLE = re.compile(
    r"#{2,}\s*(?:instruction|input|response)\b\s*:?|^\s*(?:q|question)\s*:", re.I | re.M
)
_HEADING = re.compile(r"#{2,}\s*(?:instruction|input|response)\s*:|^\s*(?:q|question)\s*:", re.I | re.M)
_NEGATION = re.compile(r"[\s:*_\"'(]*(?:not|neither|never|isn't)\b", re.IGNORECASE)


def own_answer(text: str) -> str:
    """Return the text up to where the model starts another example of its own, without special tokens."""
    text = _SPECIAL.sub(" ", text).strip()
    for match in _NEXT_EXAMPLE.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()].strip()
        return own_answer(text[match.end() :])
    return text


def is_complete(text: str) -> bool:
    """Whether a model has answered and begun another example of its own: nothing that follows can change its answer.

    What is complete stays so, whatever is written behind it.
    """
    text = _SPECIAL.sub(" ", text)
    return any(text[: match.start()].strip() for match in _HEADING.finditer(text))


def is_negated(said: str) -> bool:
    """Whether a statement says what the answer is not."""
    return bool(_NEGATION.match(said))
