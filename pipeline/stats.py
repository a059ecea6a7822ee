"""Intervals, paired comparisons and corrections for many comparisons, over test examples and training seeds.

A method's results on a task are a table of right and wrong, seeds x examples; every seed answers the same examples.
Two things vary by chance: which examples were asked, and which seeds were trained. So the bootstrap draws both:

- examples with replacement, each with its answers of all seeds kept together (the same example is no fresh evidence
  for the second seed);
- seeds with replacement, for all tasks of a mean together (one adapter answers them all). A draw of k seeds spreads
  too little by (k - 1) / k, much for two or three seeds, so deviations between seeds are widened by sqrt(k / (k - 1)).

The two parts are added (Owen 2007, the pigeonhole bootstrap, for tables crossed in this way). With one seed the
interval covers examples only. A table that is all right or all wrong would give an interval of no width; so the draws,
never the estimate, take two right and two wrong pseudo-examples for a rate (Agresti and Coull 1998) and one for each
side for a difference (Bonett and Price 2012), shared out over the tasks of a mean. Intervals are percentiles of the
draws, cut to what is possible and widened to hold the estimate; equal inputs give equal results. scipy and statsmodels
are imported when they are used.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

Runs = Sequence[Sequence[float]]

LEVEL = 0.95
DRAWS = 10_000


def wilson_interval(correct: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a rate, in [0, 1].

    Written out because scoring runs once for each model and importing statsmodels costs a second there; a test holds it
    to ``statsmodels.stats.proportion.proportion_confint(method="wilson")``.

    Raises:
        ValueError: not 0 <= correct <= n, or no example.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} right of {n} examples")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, shrink = correct / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    return (0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half)


def accuracy(runs: Runs, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Return a method's accuracy on a task over its seeds, with its interval.

    Args:
        runs: (seeds, examples) of right (1, True) and wrong (0, False).
        level: of the interval.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        {"estimate", "low", "high", "n" (examples), "seeds"}.
    """
    return mean_accuracy([runs], level=level, draws=draws, seed=seed)


def mean_accuracy(
    tasks: Sequence[Runs], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Return the macro average of a method's accuracies over tasks, as ``accuracy`` does for one; "n" is their sum."""
    one_side = [_table(runs) for runs in tasks]
    found = _bootstrap([(table, None) for table in one_side], level=level, draws=draws, seed=seed)
    return {key: value for key, value in found.items() if key != "p_value"}


def paired_difference(
    first: Runs, second: Runs, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Return how much more accurate ``first`` is than ``second`` on the same examples.

    Args:
        first: (seeds, examples) of right and wrong.
        second: the same for the other; a bare base is one run.
        level: of the interval.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        {"estimate" (in [-1, 1]), "low", "high", "p_value" (two-sided), "n", "seeds"}. The p-value is McNemar's exact
        one where both sides are one run, else of the bootstrap: how often a draw is further from the estimate than
        zero is; it cannot be less than 1 / (draws + 1).

    Raises:
        ValueError: the two sides have not the same number of examples.
    """
    found = mean_difference([(first, second)], level=level, draws=draws, seed=seed)
    if len(first) == len(second) == 1:
        found["p_value"] = mcnemar(first[0], second[0])
    return found


def mean_difference(
    tasks: Sequence[tuple[Runs, Runs]], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Return the mean over tasks of ``paired_difference``, each task with equal weight.

    Raises:
        ValueError: sides of different examples, or tasks of different numbers of seeds.
    """
    pairs = [(_table(first), _table(second)) for first, second in tasks]
    return _bootstrap(pairs, level=level, draws=draws, seed=seed)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of McNemar's exact test on two runs over the same examples."""
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    table = [[pairs.count((a, b)) for b in (True, False)] for a in (True, False)]
    return float(exact_test(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method for being one family of comparisons."""
    if not len(p_values):
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]]


def _table(runs: Runs) -> Any:
    """Return runs as an array (seeds, examples)."""
    import numpy as np

    if not len(runs) or len({len(run) for run in runs}) != 1 or not len(runs[0]):
        raise ValueError("runs must be one or more, of the same examples, at least one")
    return np.asarray(runs, dtype=float)


def _bootstrap(
    pairs: Sequence[tuple[Any, Any | None]], *, level: float, draws: int, seed: int
) -> dict[str, float]:
    """Return the mean over tasks of (first - second), its interval and p-value; a second of None is a rate."""
    import numpy as np

    generator = np.random.default_rng(seed)
    spread = np.zeros(draws)
    estimates = []
    for first, second in pairs:
        if second is not None and first.shape[1] != second.shape[1]:
            raise ValueError(f"{first.shape[1]} examples against {second.shape[1]}")
        each = first.mean(axis=0) - (0 if second is None else second.mean(axis=0))
        extra = [0, 0, 1, 1] if second is None else [-1, 1]
        estimates.append(each.mean())
        spread += _draw_examples(each, extra, 1 / len(pairs), draws, generator) - each.mean()
    sides = [[first for first, _ in pairs]]
    if pairs[0][1] is not None:
        sides.append([second for _, second in pairs])
    for side in sides:
        spread += _draw_seeds(side, draws, generator) * (1 if side is sides[0] else -1)
    estimate = float(np.mean(estimates))
    drawn = estimate + spread / len(pairs)
    least = 0.0 if pairs[0][1] is None else -1.0
    low, high = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]), least, 1)
    further = int((np.abs(drawn - drawn.mean()) >= abs(estimate)).sum())
    return {
        "estimate": estimate,
        "low": min(float(low), estimate),
        "high": max(float(high), estimate),
        "p_value": (1 + further) / (draws + 1),
        "n": sum(first.shape[1] for first, _ in pairs),
        "seeds": len(pairs[0][0]),
    }


def _draw_examples(each: Any, extra: Sequence[float], weight: float, draws: int, generator: Any) -> Any:
    """Return the means (draws,) of examples drawn with replacement, ``extra`` ones counting as ``weight`` of one.

    Values repeat (k seeds leave k + 1 of them), so drawing how often each value comes is the same and quick.
    """
    import numpy as np

    values, places = np.unique(np.concatenate([each, extra]), return_inverse=True)
    counts = np.bincount(places, weights=[1.0] * len(each) + [weight] * len(extra))
    n = len(each) + round(weight * len(extra))
    return generator.multinomial(n, counts / counts.sum(), size=draws) @ values / n


def _draw_seeds(tables: Sequence[Any], draws: int, generator: Any) -> Any:
    """Return the deviations (draws,) that drawing seeds makes to a sum over tasks of one side's accuracies."""
    import numpy as np

    seeds = len(tables[0])
    if any(len(table) != seeds for table in tables):
        raise ValueError("tasks have different numbers of seeds")
    if seeds == 1:
        return np.zeros(draws)
    level = sum(table.mean(axis=1) for table in tables)
    deviations = (level - level.mean()) * math.sqrt(seeds / (seeds - 1))
    return deviations[generator.integers(seeds, size=(draws, seeds))].mean(axis=1)
