"""The expected best score of fewer trials than were run: what a study with a smaller budget would have reported."""

from collections.abc import Sequence
from math import comb, inf
from typing import NamedTuple


class BestTrial(NamedTuple):
    """The place of a trial among the trials of a choice, from 0, and its score."""

    place: int
    score: float


def expect_best(scores: Sequence[float], *, lower: bool) -> list[float]:
    """Return, for 1 to all trials, the expected best score of so many, drawn at random without replacement.

    Exact, since each score is the best of a draw in a known number of the draws. Source: Dodge et al. 2019, arXiv:1909.03004,
    here without replacement.

    Args:
        scores: of the trials; infinite for one that diverged.
        lower: whether a lower score is better.
    """
    ordered = sorted(scores, reverse=not lower)
    count = len(ordered)
    curve = []
    for size in range(1, count + 1):
        # the score at a place is the best where the other trials of the draw come after it
        ways = [comb(count - 1 - place, size - 1) for place in range(count)]
        parts = [number * score for number, score in zip(ways, ordered, strict=True) if number]
        curve.append(inf if any(abs(part) == inf for part in parts) else sum(parts) / comb(count, size))
    return curve


def choose_best(scores: Sequence[float | None], *, lower: bool) -> BestTrial | None:
    """Return the trial with the best score, the first of equal ones; None if all trials diverged.

    Args:
        scores: of the trials; None for one that diverged.
        lower: whether a lower score is better.
    """
    present = [BestTrial(index, score) for index, score in enumerate(scores) if score is not None]
    # min and max return the first of equal ones
    return (min if lower else max)(present, key=lambda trial: trial.score, default=None)
