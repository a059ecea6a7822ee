"""Intervals, paired comparisons and corrections for many comparisons, over test examples and training seeds.

A method's results on a task are a table of right and wrong, seeds x examples; every seed answers the same examples.
Two things vary by chance: which examples were asked, and which seeds were trained. One run is a plain rate and gets
Wilson's interval. Several get a hierarchical bootstrap that draws both:

- examples with replacement, each with its answers of all seeds kept together (the same example is no fresh evidence
  for the second seed);
- seeds with replacement, for all tasks of a mean together (one adapter answers them all). Seeds differ also because
  each is unsure of single examples, which the first draw has already; so deviations between seeds are scaled to the
  variance that is left when this noise is taken out (a two-way analysis of variance).

A few seeds tell their own spread badly. So each draw is stretched as Student's t is to the normal, with Satterthwaite's
degrees of freedom: as many as examples where seeds agree, seeds - 1 where seeds are all that varies (Satterthwaite 1946,
Biometrics Bulletin 2, 110-114; for tables crossed like these Hillis 2007, Statistics in Medicine 26, 596-619).

A table that is all right or all wrong would give an interval of no width; so the draws, never the estimate, take two
right and two wrong pseudo-examples for a rate (Agresti and Coull 1998) and one for each side for a difference (Bonett and
Price 2012; of several seeds a smaller one, as means of answers are), shared out over the tasks of a mean. A rate's
deviations are added on the log-odds scale, on which nothing impossible lies. Intervals are percentiles of the draws;
equal inputs give equal results. How often they cover the truth: docs/statistics.md. scipy and statsmodels are imported
when they are used.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

Runs = Sequence[Sequence[float]]

LEVEL = 0.95
DRAWS = 10_000
POWER = 0.8
ERRORS = 100  # values that a standard error may have had, where power is averaged over them
MANY = 10_000  # degrees of freedom; from here on Student's t is the normal


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
    """Return a method's accuracy on a task over its seeds, with its interval: of one run Wilson's, else the bootstrap's.

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
    tasks: Sequence[Runs], *, micro: bool = False, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Return the average of a method's accuracies over tasks, as ``accuracy`` does for one; "n" is their sum.

    Args:
        tasks: for each its table (seeds, examples).
        micro: each example counts the same, so a task by its size; else (macro) each task counts the same.
        level: of the interval.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: tasks of different numbers of seeds.
    """
    pairs = [(_table(runs), None) for runs in tasks]
    found = _bootstrap(pairs, weights=_weights(pairs, micro=micro), level=level, draws=draws, seed=seed)
    if len(tasks) == len(tasks[0]) == 1:
        right, n = round(sum(tasks[0][0])), len(tasks[0][0])
        found["low"], found["high"] = wilson_interval(right, n, level=level)
    return {key: value for key, value in found.items() if key not in ("p_value", "error", "freedom")}


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
        {"estimate" (in [-1, 1]), "low", "high", "p_value" (two-sided), "error" (the standard error) and "freedom" (its
        degrees of freedom) for ``detectable``, "n", "seeds"}. The p-value is McNemar's exact one where both sides are
        one run, else of the bootstrap: how often a draw is further from the estimate than zero is; it cannot be less
        than 1 / (draws + 1).

    Raises:
        ValueError: the two sides have not the same number of examples.
    """
    found = mean_difference([(first, second)], level=level, draws=draws, seed=seed)
    if len(first) == len(second) == 1:
        found |= {"p_value": mcnemar(first[0], second[0]), "continuity": 1 / len(first[0])}
    return found


def mean_difference(
    tasks: Sequence[tuple[Runs, Runs]],
    *,
    micro: bool = False,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """Return the average over tasks of ``paired_difference``, macro or ``micro`` as ``mean_accuracy`` has it.

    Raises:
        ValueError: sides of different examples, or tasks of different numbers of seeds.
    """
    pairs = [(_table(first), _table(second)) for first, second in tasks]
    return _bootstrap(pairs, weights=_weights(pairs, micro=micro), level=level, draws=draws, seed=seed)


def detectable(
    difference: Mapping[str, float], *, alpha: float = 1 - LEVEL, power: float = POWER, comparisons: int = 1
) -> float:
    """Return the smallest true difference that such data would have shown: found significant with probability ``power``.

    That is a number of standard errors, as many as a repetition of the study needs for this power: ``_reach``. With one
    run a side it is z[1 - alpha/2] + z[power]; with few seeds it is more, since both this study's error and the
    repetition's are guesses from them. McNemar's exact test asks for about one example more (Edwards' correction for
    continuity). In [0, inf); more than 1 means that no difference would have been shown.

    Args:
        difference: what ``paired_difference`` or ``mean_difference`` returns.
        alpha: of the two-sided test.
        power: probability of a significant result, if the difference is that large.
        comparisons: of a family; alpha is shared out over it, which is the first step of Holm's correction.

    Source: Bloom 1995, Evaluation Review 19, 547-556; Edwards 1948, Psychometrika 13, 185-187; for the mean of the power
    over what is not known, Spiegelhalter and Freedman 1986, Statistics in Medicine 5, 1-13.
    """
    reach = _reach(difference["freedom"], alpha=alpha / comparisons, power=power)
    return reach * difference["error"] + difference.get("continuity", 0.0)


@cache
def _reach(freedom: float, *, alpha: float, power: float) -> float:
    """Return how many of its estimated standard errors a difference must be for a repetition to find it.

    The repetition estimates its error anew, so its test has a noncentral t distribution, whose noncentrality is itself
    known only through this study's estimate: the power is the mean over both errors, scaled chi of ``freedom`` degrees.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi2, norm, t

    if freedom == math.inf:
        return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    quantiles = (np.arange(ERRORS) + 0.5) / ERRORS
    errors = np.sqrt(chi2.ppf(quantiles, freedom) / freedom)
    limits = t.ppf(1 - alpha / 2, freedom) * errors

    def missing(reach: float) -> float:
        return float(ndtr(reach * errors[:, None] - limits).mean() - power)

    most = 1.0
    while missing(most) < 0:
        most *= 2
    return float(brentq(missing, 0, most, rtol=1e-6))


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


def _weights(pairs: Sequence[tuple[Any, Any | None]], *, micro: bool) -> list[float]:
    """Return what each task counts in an average; the sum is 1."""
    sizes = [first.shape[1] if micro else 1 for first, _ in pairs]
    return [size / sum(sizes) for size in sizes]


def _bootstrap(
    pairs: Sequence[tuple[Any, Any | None]],
    *,
    weights: Sequence[float],
    level: float,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """Return the average over tasks of (first - second), its interval and p-value; a second of None is a rate."""
    import numpy as np

    generator = np.random.default_rng(seed)
    estimate, middle, variance, drawn = 0.0, 0.0, 0.0, np.zeros(draws)
    for (first, second), weight in zip(pairs, weights, strict=True):
        if second is not None and first.shape[1] != second.shape[1]:
            raise ValueError(f"{first.shape[1]} examples against {second.shape[1]}")
        each = first.mean(axis=0) - (0 if second is None else second.mean(axis=0))
        means, centre, spread = _draw_examples(each, _extra(first, second), weight, draws, generator)
        estimate += weight * float(each.mean())
        middle += weight * centre
        variance += weight**2 * spread
        drawn += weight * means
    sides = [[first for first, _ in pairs], [second for _, second in pairs if second is not None]]
    seeds = [_draw_seeds(side, weights, draws, generator) for side in sides if side]
    drawn_variance = variance + sum(one["between"] for one in seeds)
    variance = max(variance - sum(one["noise"] for one in seeds), 0.0) + sum(one["floored"] for one in seeds)
    freedom = _freedom(variance, seeds)
    stretch = math.sqrt(variance / drawn_variance) * (
        1 if freedom == math.inf else np.sqrt(freedom / generator.chisquare(freedom, size=draws))
    )
    moved = sum(one["drawn"] * sign for one, sign in zip(seeds, (1, -1), strict=False))
    if sides[1]:
        drawn = middle + stretch * (drawn - middle + moved)
    else:
        drawn = _on_log_odds(drawn, middle, moved, stretch)
    low, high = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]), -1 if sides[1] else 0, 1)
    further = int((np.abs(drawn - middle) >= abs(estimate)).sum())
    return {
        "estimate": estimate,
        "low": min(float(low), estimate),
        "high": max(float(high), estimate),
        "p_value": (1 + further) / (draws + 1),
        "error": math.sqrt(variance),
        "freedom": freedom,
        "n": sum(first.shape[1] for first, _ in pairs),
        "seeds": len(pairs[0][0]),
    }


def _extra(first: Any, second: Any | None) -> list[float]:
    """Return the pseudo-examples' values, as far from each other as single answers, averaged over seeds, can be."""
    if second is None:
        return [0, 0, 1, 1]
    reach = math.sqrt((1 / len(first) + 1 / len(second)) / 2)
    return [-reach, reach]


def _on_log_odds(drawn: Any, middle: float, moved: Any, stretch: Any) -> Any:
    """Return drawn rates, stretched from ``middle`` and with the seeds' deviations ``moved``, as rates again."""
    import numpy as np

    with np.errstate(divide="ignore", over="ignore"):
        odds = np.log(drawn / (1 - drawn))
        centre = math.log(middle / (1 - middle))
        return 1 / (1 + np.exp(-(centre + stretch * (odds - centre + moved / (middle * (1 - middle))))))


def _freedom(variance: float, seeds: Sequence[Mapping[str, Any]]) -> float:
    """Return Satterthwaite's degrees of freedom of a variance of which the seeds' parts are estimated from few."""
    uncertain = sum(one["measured"] ** 2 / (one["seeds"] - 1) for one in seeds if one["seeds"] > 1)
    freedom = variance**2 / uncertain if uncertain else math.inf
    return freedom if freedom < MANY else math.inf


def _draw_examples(
    each: Any, extra: Sequence[float], weight: float, draws: int, generator: Any
) -> tuple[Any, float, float]:
    """Return the means (draws,) of examples drawn with replacement, what they vary around, and their variance.

    ``extra`` examples count as ``weight`` of one. Values repeat (k seeds leave k + 1 of them), so drawing how often each
    value comes is the same and quick.
    """
    import numpy as np

    values, places = np.unique(np.concatenate([each, extra]), return_inverse=True)
    counts = np.bincount(places, weights=[1.0] * len(each) + [weight] * len(extra))
    n = len(each) + round(weight * len(extra))
    shares = counts / counts.sum()
    centre = float(shares @ values)
    variance = float(shares @ (values - centre) ** 2) / n
    return generator.multinomial(n, shares, size=draws) @ values / n, centre, variance


def _draw_seeds(
    tables: Sequence[Any], weights: Sequence[float], draws: int, generator: Any
) -> dict[str, Any]:
    """Return what drawing seeds does to one side's average over tasks.

    Variances are of the mean over seeds, under these keys: "measured", of the seeds' accuracies as they are; "noise", what
    of it comes of single answers; "floored", measured, but at least halfway to the noise that it must hold; "between",
    what is left without the noise, to which the deviations "drawn" (draws,) are scaled. "seeds" is how many.
    """
    import numpy as np

    seeds = len(tables[0])
    if any(len(table) != seeds for table in tables):
        raise ValueError("tasks have different numbers of seeds")
    if seeds == 1:
        none = dict.fromkeys(("measured", "noise", "floored", "between"), 0.0)
        return {**none, "drawn": np.zeros(draws), "seeds": 1}
    level = sum(weight * table.mean(axis=1) for weight, table in zip(weights, tables, strict=True))
    measured = float(level.var(ddof=1)) / seeds
    noise = sum(weight**2 * _noise(table) for weight, table in zip(weights, tables, strict=True)) / seeds
    between = max(measured - noise, 0.0)
    scale = math.sqrt(between / measured * seeds / (seeds - 1)) if between else 0.0
    drawn = scale * (level - level.mean())[generator.integers(seeds, size=(draws, seeds))].mean(axis=1)
    floored = measured + max(noise - measured, 0.0) / 2
    return {
        "measured": measured,
        "noise": noise,
        "floored": floored,
        "between": between,
        "drawn": drawn,
        "seeds": seeds,
    }


def _noise(table: Any) -> float:
    """Return the variance of one seed's accuracy that comes of answers being unsure: the residual of seeds + examples."""
    seeds, n = table.shape
    if n == 1:
        return 0.0
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((rest**2).sum() / (seeds - 1) / (n - 1) / n)
