"""The option whose own words a text states as its answer, under the parser ``strict``.

With the options {"answer1": "Gravity", "answer2": "the floor", "answer3": "red wine", "answer4": "red"}:

- "The answer is gravity." is answer1: case, edges and articles do not count.
- "The answer is red" is answer4: all words of one option, though part of another.
- "The answer is wine" and "The answer is gravity or red" are None.

With {"A": "1,000", "B": "25%"}, "The answer is $1000." is A: bare numbers are compared by value.
"""

import re
from collections.abc import Mapping

from pipeline.evaluate.parsing.numbers import parse_number
from pipeline.evaluate.parsing.statements import STATEMENT, is_negated

# The letter of an option whose words were given with it: "(A) 21%".
_LETTER_MARK = re.compile(r"^\s*\(?\s?[A-Ea-e]\s?\)\s*")
_ARTICLE = re.compile(r"^(?:the|a|an)\s+")
# marks around an option's words that do not belong to them
_EDGES = " \t\n.,;:!?*_\"'`“”‘’()[]{}$\\"
# "-$1,000", "25 %", "3/4"
_BARE_NUMBER = re.compile(r"[-+]?\s*[$€£¥]?\s*[-+]?\d[\d.,/]*\s*%?")
_CLAIM_END = re.compile(r"[.!?](?=\s|$)|\n")


def parse_option(text: str, options: Mapping[str, str], *, ended: bool = True) -> str | None:
    """Return the label of the option whose words a text states, or None.

    The last "the answer is X" counts, else the text as a whole. X must be all words of an option and nothing else, apart
    from case, edges and an article, or the same number if the option is a bare number. Words that two options share, a
    negation, and part of an option's words give None.

    Args:
        text: the model's own answer.
        options: label -> words; "" where they are unknown.
        ended: whether the model ended the text. If not, the sentence must have ended, since more could have followed.
    """
    words = {label: _normalise(_LETTER_MARK.sub("", option)) for label, option in options.items()}
    statements = list(STATEMENT.finditer(text))
    remainder = text[statements[-1].end() :] if statements else text
    if is_negated(remainder) or not any(words.values()):
        return None
    claims = [remainder.strip()] if ended else []
    if statements and (ended or _CLAIM_END.search(remainder.lstrip(" \t\n:"))):
        claims.append(_cut_to_first_sentence(remainder))
    for claim in claims:
        labels = {label for label, option in words.items() if option and option == _normalise(claim)}
        labels |= _find_equal_numbers(claim, options)
        if labels:
            return labels.pop() if len(labels) == 1 else None
    return None


def _cut_to_first_sentence(claim: str) -> str:
    claim = claim.lstrip(" \t\n:")
    end = _CLAIM_END.search(claim)
    return claim[: end.start()] if end else claim


def _normalise(words: str) -> str:
    return _ARTICLE.sub("", " ".join(words.strip(_EDGES).casefold().split()))


def _find_equal_numbers(claim: str, options: Mapping[str, str]) -> set[str]:
    """Return the labels of bare numbers that equal the claim, a bare number itself; a percent sign must agree."""
    if not _BARE_NUMBER.fullmatch(claim.strip(_EDGES)):
        return set()
    value, percent = parse_number(claim), "%" in claim
    if value is None:
        return set()
    unmarked = {label: _LETTER_MARK.sub("", words) for label, words in options.items()}
    return {
        label
        for label, words in unmarked.items()
        if _BARE_NUMBER.fullmatch(words.strip(_EDGES))
        and ("%" in words) == percent
        and parse_number(words) == value
    }
