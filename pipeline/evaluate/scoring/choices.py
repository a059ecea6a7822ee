"""The choice that a model finds likeliest: from the log-likelihoods of an example's choices to its answer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# What a log-likelihood is divided by, under the names that lm-evaluation-harness has for the three accuracies.
# Source: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/task.py, ConfigurableTask.process_results.
METRICS = {"raw": "acc", "normalised": "acc_norm", "by_bytes": "acc_bytes"}


def continuation(frame: str, *, label: str, text: str) -> str:
    """Return what is scored for a choice: a card's ``continuation`` with the choice's label and words in place."""
    return text.join(part.replace("{label}", label) for part in frame.split("{text}"))


def likeliest(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the choice of greatest log-likelihood: "raw", "normalised" (a character) and "by_bytes" (a UTF-8 byte).

    Of equal ones the first. None where a log-likelihood is not finite (null), as of a model whose training diverged.

    Args:
        row: of a likelihood protocol's answers: choices, loglikelihoods, characters and bytes, in one order.
    """
    ones = [1] * len(row["choices"])
    lengths = {"raw": ones, "normalised": row["characters"], "by_bytes": row["bytes"]}
    return {name: _best(row["choices"], row["loglikelihoods"], length) for name, length in lengths.items()}


def _best(choices: Sequence[str], values: Sequence[float | None], lengths: Sequence[int]) -> str | None:
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    each = [float(value or 0) / length for value, length in zip(values, lengths, strict=True)]
    return choices[each.index(max(each))]


def accuracies(items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return lm-evaluation-harness's acc, acc_norm and acc_bytes of judged examples."""
    return {
        metric: sum(item[name] == item["gold"] for item in items) / len(items)
        for name, metric in METRICS.items()
    }
