"""The option whose own words a text states as its answer, under the protocol ``strict``."""

import re
from collections.abc import Mapping

from pipeline.evaluate.scoring.numbers import parse_number
from pipeline.evaluate.scoring.statements import STATEMENT, is_negated

_MARK = re.compile(r"^\s*\(?\s?[A-Ea-e]\s?\)\s*")  # of options given with their letter: "(A) 21%"
_ARTICLE = re.compile(r"^(?:the|a|an)\s+")
_EDGES = " \t\n.,;:!?*_\"'`“”‘’()[]{}$\\"
_BARE_NUMBER = re.compile(r"[-+]?\s*[$€£¥]?\s*[-+]?\d[\d.,/]*\s*%?")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


def parse_option(text: str, options: Mapping[str, str], *, ended: bool = True) -> str | None:
    """Return the label of the one option whose words a text states, or None.

    The last "the answer is X" counts, else the text as a whole. X must be an option's words: all of them and nothing
    else but case, edges and an article, or the same number where the option is a bare number. Words that two options
    share, a negation, and words of which an option is only a part give None.

    Args:
        text: the model's own answer.
        options: label -> words; "" where they are unknown.
        ended: whether the model ended the text. Else the words' sentence must have ended: more could have followed.
    """
    words = {label: _plain(_MARK.sub("", said)) for label, said in options.items()}
    statements = list(STATEMENT.finditer(text))
    said = text[statements[-1].end() :] if statements else text
    if is_negated(said) or not any(words.values()):
        return None
    claims = [said.strip()] if ended else []
    if statements and (ended or _SENTENCE_END.search(said.lstrip(" \t\n:"))):
        claims.append(_first_sentence(said))
    for claim in claims:
        found = {label for label, option in words.items() if option and option == _plain(claim)}
        found |= _equal_numbers(claim, options)
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _first_sentence(said: str) -> str:
    said = said.lstrip(" \t\n:")
    end = _SENTENCE_END.search(said)
    return said[: end.start()] if end else said


def _plain(words: str) -> str:
    return _ARTICLE.sub("", " ".join(words.strip(_EDGES).casefold().split()))


def _equal_numbers(claim: str, options: Mapping[str, str]) -> set[str]:
    """Return the options that are bare numbers and equal the claim, a bare number too; a percent sign must agree."""
    if not _BARE_NUMBER.fullmatch(claim.strip(_EDGES)):
        return set()
    value, percent = parse_number(claim), "%" in claim
    if value is None:
        return set()
    numbers = {
        label: parse_number(said)
        for label, said in ((label, _MARK.sub("", words)) for label, words in options.items())
        if _BARE_NUMBER.fullmatch(said.strip(_EDGES)) and ("%" in said) == percent
    }
    return {label for label, number in numbers.items() if number == value}
