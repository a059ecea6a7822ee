"""From a model's text to its answer: the published parsers (``paper``) and ours (``strict``)."""

import math
import re
from collections.abc import Mapping, Sequence

from pipeline.core.errors import UserError
from pipeline.evaluate.scoring.labels import parse_label
from pipeline.evaluate.scoring.numbers import parse_number
from pipeline.evaluate.scoring.option_words import parse_option
from pipeline.evaluate.scoring.options import labelled
from pipeline.evaluate.scoring.rows import ParsedAnswer
from pipeline.evaluate.scoring.statements import own_answer
from pipeline.params.resolve import answer_form_of

Choices = Sequence[str] | Mapping[str, str] | None

PARSERS = ("paper", "strict")
RESPONSE_MARK = "### Response:"
TOLERANCE = 1e-3

# What an answer looks like; numbers have no labels.
LABELS: dict[str, tuple[str, ...]] = {
    "number": (),
    "letter": ("A", "B", "C", "D", "E"),
    "boolean": ("true", "false"),
    "solution": ("solution1", "solution2"),
    "answer": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ending": ("ending1", "ending2", "ending3", "ending4"),
    "option": ("option1", "option2"),
}


def parse_answer(
    text: str, *, task: str, protocol: str, choices: Choices = None, ended: bool = True
) -> ParsedAnswer:
    """Return the answer that a model's text gives: a float, a label as the data has it, or None (unparsable).

    Args:
        text: what the model wrote after its prompt.
        task: a dataset of params/datasets, in any case ("svamp", "AQuA"); its card says what answers look like.
        protocol: "paper" (the published rules, quirks included) or "strict" (the stated answer, never a guess).
        choices: what this example offers, and "strict" takes nothing else: labels, or label -> the option's words, or
            the words alone in the order of the labels. Stated words count as their option. None: all labels of the form.
        ended: whether the model ended the text. Of one that a token limit cut off "strict" reads no conclusion.

    Raises:
        UserError: unknown task or protocol.

    Source:
        "paper": AGI-Edgerunners/LLM-Adapters @8166572, evaluate.py and commonsense_evaluate.py.

    Example:
        >>> parse_answer("A: The answer is (C).", task="aqua", protocol="strict")
        'C'
        >>> parse_answer("The answer is salt.", task="piqa", protocol="strict", choices=["sand", "salt"])
        'solution2'
    """
    return parse(text, form=answer_form_of(task.lower()), parser=protocol, choices=choices, ended=ended)


def parse(text: str, *, form: str, parser: str, choices: Choices = None, ended: bool = True) -> ParsedAnswer:
    """Return the answer as ``parse_answer`` does, for a form of answers ("number", "letter", ...) instead of a task."""
    if form not in LABELS:
        raise UserError(f"answer_form: unknown '{form}' (choices: {', '.join(LABELS)})")
    if parser not in PARSERS:
        raise UserError(f"protocol: unknown '{parser}' (choices: {', '.join(PARSERS)})")
    if parser == "paper":
        return _paper(text, form)
    return _strict(text, form, choices, ended)


def published_response(prompt: str, text: str) -> str:
    """Return the part that the published code judges: from the first response mark to the next, wherever they stand.

    So an instruction that holds the mark itself is judged in place of the answer: kept, as it is what was published.
    """
    parts = (prompt + text).split(RESPONSE_MARK)
    return (parts[1] if RESPONSE_MARK in prompt else parts[0].removeprefix(prompt)).strip()


def is_correct(parsed: ParsedAnswer, gold: str, *, form: str, parser: str) -> bool:
    """Whether a parsed answer is the gold answer.

    Labels must be equal. Numbers may differ by 0.001 under "paper"; under "strict" by 0.001 or by 0.1 % of the gold
    answer, whichever is less, so that 0 is not accepted for 0.001.
    """
    if parsed is None:
        return False
    if form != "number":
        return parsed == gold
    wanted = gold_number(gold)
    scale = 1.0 if parser == "paper" else min(1.0, abs(wanted))
    return abs(float(parsed) - wanted) <= TOLERANCE * scale


def gold_number(gold: str) -> float:
    """Return a gold answer as a number.

    Raises:
        ValueError: it is none, or not finite.
    """
    value = float(gold.replace(",", ""))
    if not math.isfinite(value):
        raise ValueError(gold)
    return value


def _paper(text: str, form: str) -> ParsedAnswer:
    """The published rules; they know no choices and no token limit, and cut at a second response mark."""
    text = text.split(RESPONSE_MARK)[0].strip()
    if form == "number":
        numbers = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
        value = float(numbers[-1]) if numbers else math.inf
        return value if math.isfinite(value) else None
    found = re.search("|".join(LABELS[form]), text)
    return found[0] if found else None


def _strict(text: str, form: str, choices: Choices, ended: bool) -> ParsedAnswer:
    text = own_answer(text)
    if form == "number":
        return parse_number(text, ended=ended)
    label, options = parse_label(text, LABELS[form], ended=ended), labelled(choices, LABELS[form])
    if label is None:
        return parse_option(text, options, ended=ended)
    return label if label in options else None
