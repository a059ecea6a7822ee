"""The choice that a model finds most likely, from the log-likelihoods of an example's choices (parser ``likelihood``).

Three measures: the log-likelihood itself ("raw"), per character ("normalised") and per UTF-8 byte ("by_bytes"). With
log-likelihoods -10 and -12 of choices of 10 and 20 characters, "raw" is the first choice and "normalised" the second
(-1.0 against -0.6 per character). Where the protocol has a neutral prompt there is a fourth ("pmi"): the log-likelihood
less that of the same choice behind the neutral prompt, the pointwise mutual information of question and choice.

Source: arXiv:2104.08315, equation 4, and arXiv:2406.08446 (PMI).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.core.errors import UserError
from pipeline.data.rows import join_question
from pipeline.evaluate.generation.rows import LikelihoodAnswer
from pipeline.evaluate.parsing.options import find_option_texts
from pipeline.evaluate.scoring.rows import JudgedItem, LikelihoodAccuracies
from pipeline.prompts.rows import RenderedExample


class BestChoices(NamedTuple):
    """An example's most likely choice by each measure; None where there is none."""

    raw: str | None
    normalised: str | None
    by_bytes: str | None
    pmi: str | None = None


def fill_continuation(frame: str, *, label: str, text: str) -> str:
    """Return what is scored for a choice: a card's ``continuation`` with the choice's label and words in place."""
    return text.join(part.replace("{label}", label) for part in frame.split("{text}"))


def list_continuations(example: RenderedExample, frame: str) -> list[str]:
    """Return the text that is scored for each choice of an example, by a protocol's ``continuation``.

    Raises:
        UserError: the example has no choices, or states no words for them where the frame needs them.
    """
    choices = example["choices"]
    if len(choices) < 2:
        problem = f"has {len(choices)} choice" if choices else "has no choices"
        raise UserError(f"{example['id']}: {problem}; a likelihood protocol compares two or more")
    question = join_question(example["instruction"], example["input"])
    words = find_option_texts(question, choices, with_punctuation=True)
    if "{text}" in frame and not words:
        raise UserError(
            f"{example['id']}: the question states no words for {'/'.join(choices)}, which the protocol's "
            f"continuation '{frame}' needs; use {{label}}"
        )
    return [fill_continuation(frame, label=label, text=words.get(label, "")) for label in choices]


def find_likeliest(row: LikelihoodAnswer) -> BestChoices:
    """Return an example's choice of greatest log-likelihood, by each measure.

    Of equal values the first choice wins. All are None where a log-likelihood is not finite (null in the file),
    as with a model whose training diverged.
    """
    return BestChoices(
        raw=_best(row, scale_loglikelihoods(row, "raw")),
        normalised=_best(row, scale_loglikelihoods(row, "normalised")),
        by_bytes=_best(row, scale_loglikelihoods(row, "by_bytes")),
        pmi=_best(row, scale_loglikelihoods(row, "pmi")) if "unconditional" in row else None,
    )


def scale_loglikelihoods(row: LikelihoodAnswer, measure: str) -> list[float] | None:
    """Return each choice's log-likelihood by a measure; None if one of them is not finite.

    Args:
        row: the log-likelihoods of an example's choices.
        measure: "raw", "normalised", "by_bytes", or "pmi" for a row with unconditional log-likelihoods.
    """
    lengths: Sequence[int] = [1] * len(row["choices"])
    if measure == "normalised":
        lengths = row["characters"]
    elif measure == "by_bytes":
        lengths = row["bytes"]
    neutral: Sequence[float | None] = row["unconditional"] if measure == "pmi" else [0.0] * len(lengths)
    scaled = []
    for value, length, shift in zip(row["loglikelihoods"], lengths, neutral, strict=True):
        if value is None or shift is None or not math.isfinite(value):
            return None
        scaled.append((value - shift) / length)
    return scaled


def _best(row: LikelihoodAnswer, scaled: Sequence[float] | None) -> str | None:
    return None if scaled is None else row["choices"][scaled.index(max(scaled))]


def harness_accuracies(
    items: Sequence[JudgedItem], *, headline: Literal["raw", "normalised", "pmi"]
) -> LikelihoodAccuracies:
    """Return lm-evaluation-harness's acc, acc_norm, acc_bytes and, with a neutral prompt, acc_mutual_info of judged items.

    Args:
        items: of a likelihood protocol.
        headline: which of them is the task's accuracy.

    Source: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/task.py, ConfigurableTask.process_results.
    """
    n = len(items)
    accuracies: LikelihoodAccuracies = {
        "headline": headline,
        "acc": sum(item["raw"] == item["gold"] for item in items) / n,
        "acc_norm": sum(item["normalised"] == item["gold"] for item in items) / n,
        "acc_bytes": sum(item["by_bytes"] == item["gold"] for item in items) / n,
    }
    if all("pmi" in item for item in items):
        accuracies["acc_mutual_info"] = sum(item["pmi"] == item["gold"] for item in items) / n
    return accuracies
