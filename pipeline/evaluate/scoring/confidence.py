"""What log-likelihoods of choices say beyond accuracy: how far a model's confidence can be trusted.

The probability of a choice is the softmax of the log-likelihoods over an example's choices, each normalised as the
protocol's accuracy is ("headline"). An answer's confidence is the probability of its choice.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

from pipeline.evaluate.generation.rows import LikelihoodAnswer
from pipeline.evaluate.scoring.choices import scale_loglikelihoods

BINS = 10


def choice_probabilities(row: LikelihoodAnswer, headline: str) -> list[float] | None:
    """Return the probability of each choice; None if a log-likelihood is not finite.

    Args:
        row: the log-likelihoods of an example's choices.
        headline: "raw", "normalised" or "pmi", as in the task's score.
    """
    logits = scale_loglikelihoods(row, headline)
    if logits is None:
        return None
    # the shift avoids overflow
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the expected calibration error with ten bins of equal width, in [0, 1].

    The mean over answers of |accuracy - mean confidence| of the answer's bin; bin m holds confidences in
    ((m - 1) / 10, m / 10].

    Args:
        confidences: probability of each answer, in (0, 1].
        correct: whether each answer is right.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    edges = [number / BINS for number in range(1, BINS)]
    totals = [0.0] * BINS
    for confidence, right in zip(confidences, correct, strict=True):
        # a bin's share times its gap is |sum of (right - confidence)| / n, so no counts are needed
        totals[bisect_left(edges, confidence)] += right - confidence
    return sum(abs(total) for total in totals) / len(confidences)


def brier_score(probabilities: Sequence[Sequence[float]], gold: Sequence[int]) -> float:
    """Return the mean of half the squared distance between the probabilities and the truth, in [0, 1].

    Brier's own sum over choices is twice that and lies in [0, 2]; half of it is, for two choices, the squared error of
    either probability.

    Args:
        probabilities: of each example's choices.
        gold: index of each example's right choice.

    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2, equation 2.
    """
    total = 0.0
    for row, right in zip(probabilities, gold, strict=True):
        total += sum((value - (index == right)) ** 2 for index, value in enumerate(row))
    return total / 2 / len(gold)


def accuracy_at_coverage(confidences: Sequence[float], correct: Sequence[bool], *, coverage: float) -> float:
    """Return the accuracy of the most confident answers, which a model would give if it might abstain.

    Of answers with equal confidence each counts with the same weight, so their order does not matter.

    Args:
        confidences: of each answer.
        correct: whether each answer is right.
        coverage: share of the answers that count, in (0, 1].

    Source: Geifman and El-Yaniv 2017, arXiv:1705.08500, equations 1 and 2 (one less the selective risk).
    """
    by_confidence: dict[float, list[bool]] = {}
    for confidence, right in zip(confidences, correct, strict=True):
        by_confidence.setdefault(confidence, []).append(right)
    kept = coverage * len(confidences)
    remaining, right_answers = kept, 0.0
    for confidence in sorted(by_confidence, reverse=True):
        group = by_confidence[confidence]
        count = min(remaining, float(len(group)))
        right_answers += count * sum(group) / len(group)
        remaining -= count
    return right_answers / kept
