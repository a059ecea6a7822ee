"""From a model's text to its answer, by the published rules (parser ``paper``) or by ours (parser ``strict``).

The rules depend on the task's answer form: a number, a letter (A to E), or a label ("true", "solution2", "answer3", ...).

| text                                   | form    | paper     | strict    |
|----------------------------------------|---------|-----------|-----------|
| "3 + 4 = 7. The answer is 7 apples."   | number  | 7.0       | 7.0       |
| "It is 7. I checked it 2 times."       | number  | 2.0       | None      |
| "A: The answer is (C)."                | letter  | "A"       | "C"       |
| "It is answer1 or answer2."            | answer  | "answer1" | None      |

``paper`` takes the last number or the first label of the text. ``strict`` takes what the text states as its answer
(numbers.py, labels.py, option_words.py), and None where it states nothing or two things. ``math_verify`` takes what the
package math-verify reads (symbolic.py).
"""

import math
import re
from collections.abc import Mapping, Sequence

from pipeline.core.errors import UserError
from pipeline.core.numbers import gold_number
from pipeline.data.options import LABELS
from pipeline.evaluate.parsing.labels import parse_label
from pipeline.evaluate.parsing.markup import format_plainly
from pipeline.evaluate.parsing.numbers import parse_number
from pipeline.evaluate.parsing.option_words import parse_option
from pipeline.evaluate.parsing.options import map_options
from pipeline.evaluate.parsing.symbolic import parse_with_math_verify
from pipeline.evaluate.parsing.turns import cut_to_first_answer
from pipeline.evaluate.scoring.rows import ParsedAnswer, Parser
from pipeline.params.protocols import Protocol
from pipeline.params.reading import PARAMS, read_card
from pipeline.params.resolve import answer_form_of

# Labels, label -> the option's words, or the words alone in the order of the labels.
Choices = Sequence[str] | Mapping[str, str] | None

# The parsers of texts; the parser "likelihood" reads no text.
PARSERS: tuple[Parser, ...] = ("paper", "strict", "math_verify")
RESPONSE_MARK = "### Response:"
# of a number, as in the published evaluate.py
TOLERANCE = 1e-3


def parse_answer(
    text: str,
    *,
    task: str,
    protocol: str | None = None,
    parser: str | None = None,
    choices: Choices = None,
    ended: bool = True,
) -> ParsedAnswer:
    """Return the answer that a model's text gives: a float, a label as the data has it, or None (unparsable).

    Args:
        text: what the model wrote after its prompt.
        task: a dataset of params/datasets, in any case ("svamp", "AQuA"); its card states the answer form.
        protocol: a protocol of params/protocols, which determines the parser, or a parser.
        parser: instead of ``protocol``: "paper" (the published rules, quirks included) or "strict" (the stated answer,
            never a guess) or "math_verify" (numbers only, by the package of that name).
        choices: what this example offers, and "strict" accepts nothing else: labels, or label -> the option's words, or
            the words alone in the order of the labels. An option stated in its own words counts. None: all labels of
            the answer form.
        ended: whether the model ended the text. From a text cut off by a token limit "strict" takes no conclusion.

    Raises:
        UserError: unknown task, protocol or parser; a protocol that compares likelihoods; not exactly one of
            ``protocol`` and ``parser``.

    Source:
        "paper": AGI-Edgerunners/LLM-Adapters @8166572, evaluate.py and commonsense_evaluate.py.

    Example:
        >>> parse_answer("A: The answer is (C).", task="aqua", protocol="strict")
        'C'
        >>> parse_answer("The answer is salt.", task="piqa", parser="strict", choices=["sand", "salt"])
        'solution2'
    """
    if (protocol is None) == (parser is None):
        raise UserError("parse_answer: needs either protocol or parser")
    if parser is None:
        parser = find_parser(str(protocol))
    return parse(text, form=answer_form_of(task.lower()), parser=parser, choices=choices, ended=ended)


def find_parser(protocol: str) -> Parser:
    """Return the parser of a protocol; a parser's name is taken as it is.

    Raises:
        UserError: no such protocol, or one that compares likelihoods.
    """
    if protocol in PARSERS:
        return protocol
    names = sorted(path.stem for path in (PARAMS / "protocols").glob("*.yaml"))
    cards: dict[str, Protocol] = {name: read_card("protocols", name) for name in names}
    if protocol not in cards:
        others = [name for name in names if name not in PARSERS and cards[name].parser in PARSERS]
        raise UserError(f"protocol: unknown '{protocol}' (choices: {', '.join([*PARSERS, *others])})")
    if cards[protocol].parser not in PARSERS:
        raise UserError(f"protocol: '{protocol}' compares likelihoods and parses no text")
    return cards[protocol].parser


def parse(text: str, *, form: str, parser: str, choices: Choices = None, ended: bool = True) -> ParsedAnswer:
    """Return the answer as ``parse_answer`` does, for an answer form ("number", "letter", ...) instead of a task."""
    if form not in LABELS:
        raise UserError(f"answer_form: unknown '{form}' (choices: {', '.join(LABELS)})")
    if parser not in PARSERS:
        raise UserError(f"parser: unknown '{parser}' (choices: {', '.join(PARSERS)})")
    if parser == "paper":
        return _parse_as_published(text, form)
    if parser == "math_verify":
        if form != "number":
            raise UserError(f"parser: 'math_verify' reads numbers, not answers of the form '{form}'")
        return parse_with_math_verify(cut_to_first_answer(text).text)
    return _parse_strictly(text, form, choices, ended)


def published_response(prompt: str, text: str) -> str:
    """Return the part that the published code judges: from the first response mark to the next, wherever they are.

    If the instruction itself contains the mark, that code judges the instruction instead of the answer. We keep this
    quirk, since it is what was published.
    """
    parts = (prompt + text).split(RESPONSE_MARK)
    return (parts[1] if RESPONSE_MARK in prompt else parts[0].removeprefix(prompt)).strip()


def is_correct(parsed: ParsedAnswer, gold: str, *, form: str, parser: str) -> bool:
    """Return whether a parsed answer equals the gold answer.

    Labels must be equal. Numbers may differ by 0.001 under "paper"; under "strict" by 0.001 or by 0.1 % of the gold
    answer, whichever is less, so that 0 is not accepted for 0.001.
    """
    if parsed is None:
        return False
    if form != "number":
        return parsed == gold
    gold_value = gold_number(gold)
    scale = 1.0 if parser == "paper" else min(1.0, abs(gold_value))
    return abs(float(parsed) - gold_value) <= TOLERANCE * scale


def _parse_as_published(text: str, form: str) -> ParsedAnswer:
    """Apply the published rules, which know neither choices nor a token limit and cut at a second response mark."""
    text = text.split(RESPONSE_MARK)[0].strip()
    if form == "number":
        numbers = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
        value = float(numbers[-1]) if numbers else math.inf
        return value if math.isfinite(value) else None
    label = re.search("|".join(LABELS[form]), text)
    return label[0] if label else None


def _parse_strictly(text: str, form: str, choices: Choices, ended: bool) -> ParsedAnswer:
    """Return the stated number, else the stated label, else the option whose words are stated."""
    text, ended = cut_to_first_answer(text, ended=ended)
    if form == "number":
        return parse_number(text, ended=ended)
    text, options = format_plainly(text), map_options(choices, LABELS[form])
    label = parse_label(text, LABELS[form], options=options, ended=ended)
    if label is None:
        return parse_option(text, options, ended=ended)
    return label if label in options else None
