"""The choice that a model finds most likely, from the log-likelihoods of an example's choices (parser ``likelihood``).

Three measures: the log-likelihood itself ("raw"), per character ("normalised") and per UTF-8 byte ("by_bytes"). With
log-likelihoods -10 and -12 of choices of 10 and 20 characters, "raw" is the first choice and "normalised" the second
(-1.0 against -0.6 per character).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.evaluate.generation.rows import LikelihoodAnswer
from pipeline.evaluate.scoring.rows import JudgedItem, LikelihoodAccuracies


class BestChoices(NamedTuple):
    """An example's most likely choice by each measure; None where there is none."""

    raw: str | None
    normalised: str | None
    by_bytes: str | None


def fill_continuation(frame: str, *, label: str, text: str) -> str:
    """Return what is scored for a choice: a card's ``continuation`` with the choice's label and words in place."""
    return text.join(part.replace("{label}", label) for part in frame.split("{text}"))


def find_likeliest(row: LikelihoodAnswer) -> BestChoices:
    """Return an example's choice of greatest log-likelihood, measured in three ways.

    Of equal values the first choice wins. All three are None where a log-likelihood is not finite (null in the file),
    as with a model whose training diverged.
    """
    return BestChoices(
        raw=_best(row, [1] * len(row["choices"])),
        normalised=_best(row, row["characters"]),
        by_bytes=_best(row, row["bytes"]),
    )


def scaled_loglikelihoods(row: LikelihoodAnswer, lengths: Sequence[int]) -> list[float] | None:
    """Return each choice's log-likelihood divided by its length; None if one of them is not finite."""
    scaled = []
    for value, length in zip(row["loglikelihoods"], lengths, strict=True):
        if value is None or not math.isfinite(value):
            return None
        scaled.append(value / length)
    return scaled


def _best(row: LikelihoodAnswer, lengths: Sequence[int]) -> str | None:
    scaled = scaled_loglikelihoods(row, lengths)
    return None if scaled is None else row["choices"][scaled.index(max(scaled))]


def harness_accuracies(
    items: Sequence[JudgedItem], *, headline: Literal["raw", "normalised"]
) -> LikelihoodAccuracies:
    """Return lm-evaluation-harness's acc, acc_norm and acc_bytes of judged items.

    Args:
        items: of a likelihood protocol.
        headline: which of the first two is the task's accuracy.

    Source: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/task.py, ConfigurableTask.process_results.
    """
    n = len(items)
    return {
        "headline": headline,
        "acc": sum(item["raw"] == item["gold"] for item in items) / n,
        "acc_norm": sum(item["normalised"] == item["gold"] for item in items) / n,
        "acc_bytes": sum(item["by_bytes"] == item["gold"] for item in items) / n,
    }
