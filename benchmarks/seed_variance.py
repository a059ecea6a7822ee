"""What pooling the variance between seeds, and drawing clusters of examples, does to intervals and tests.

Data are simulated as in ``benchmarks.statistics``: four methods of a model with two seeds each, on the same examples.

    python -m benchmarks.seed_variance                       # minutes on a core; tables of docs/statistics.md
    python -m benchmarks.seed_variance --simulations 100     # a first look
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.statistics import (
    GROUPS,
    LARGEST,
    NORMAL,
    Row,
    coverage_rate,
    draw_answers,
    draw_difficulty,
    format_share,
    make_generator,
    print_table,
    rejection_rate,
)
from pipeline.evaluate import stats
from pipeline.evaluate.pooling import SeedPool

RATES = (0.6, 0.75, 0.85, 0.95)
SIZES = (150, 1000)
SEEDS = 2
# Comparisons in the family of a power analysis: one, and as many as the default study's table of arithmetic has.
FAMILIES = (1, 72)
CLUSTER_SIZE = 10

# Table (methods, seeds, examples) of a study.
Answers = Any


def main() -> None:
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=1000, help="of each setting")
    parser.add_argument("--draws", type=int, default=1000, help="of each bootstrap")
    parser.add_argument("--only", choices=PARTS, help="run this part only")
    options = parser.parse_args()
    for name, part in PARTS.items():
        if options.only in (None, name):
            started = time.process_time()
            print_table(name, list(part(options)))
            print(f"({time.process_time() - started:.0f} CPU-s)\n", flush=True)


def spread_probits(points: float) -> list[float]:
    """Return standard deviations in points, of equal probits, that are ``points`` for the first method."""
    slopes = [NORMAL.pdf(NORMAL.inv_cdf(rate)) for rate in RATES]
    return [points * slope / slopes[0] for slope in slopes]


def list_settings() -> dict[str, list[float]]:
    """Return the standard deviations between the seeds of each method, in points, by setting."""
    equal = spread_probits(1.0)
    return {
        "alike, 0 points": [0.0] * len(RATES),
        "alike, 1 point at 60 %": equal,
        "alike, 3 points at 60 %": spread_probits(3.0),
        "2 points each": [2.0] * len(RATES),
        "alike, 1 point; one 3 times": [equal[0], 3 * equal[1], *equal[2:]],
        "alike, 1 point; one 10 times": [equal[0], 10 * equal[1], *equal[2:]],
    }


def simulate_studies(
    simulations: int, n: int, between: Sequence[float], rates: Sequence[float] = RATES
) -> Answers:
    """Return answers (simulations, methods, seeds, examples)."""
    rng = make_generator((n, *between, *rates))
    examples = draw_difficulty(rng, simulations, n)
    methods = [
        draw_answers(rng, (simulations, SEEDS, n), rate, points, examples)
        for rate, points in zip(rates, between, strict=True)
    ]
    return np.stack(methods, axis=1)


def coverage(options: argparse.Namespace) -> Iterable[Row]:
    """Coverage and width of intervals from a method's own seeds and from the pool."""
    for setting, between in list_settings().items():
        for n in SIZES:
            row: Row = {"seeds vary": setting, "n": n}
            studies = simulate_studies(options.simulations, n, between)
            for name, pools in (("own", own(studies)), ("pooled", pool(studies))):
                by_method = [
                    [
                        stats.estimate_accuracy(study[method], pool=shared[method], draws=options.draws)
                        for study, shared in zip(studies, pools, strict=True)
                    ]
                    for method in range(len(RATES))
                ]
                shares = (coverage_rate(method, rate) for method, rate in zip(by_method, RATES, strict=True))
                row[f"{name}: coverage"] = " / ".join(shares)
                widths = [each["high"] - each["low"] for each in by_method[0]]
                row[f"{name}: width, median / 90 %"] = " / ".join(
                    f"{100 * np.quantile(widths, share):.1f}" for share in (0.5, 0.9)
                )
            yield row


def own(studies: Answers) -> list[list[SeedPool | None]]:
    """Return no pool for any method of the studies."""
    return [[None] * len(study) for study in studies]


def pool(studies: Answers) -> list[list[SeedPool | None]]:
    """Return the pools of each study's methods."""
    return [stats.pool_seeds([[table] for table in study]) for study in studies]


def errors(options: argparse.Namespace) -> Iterable[Row]:
    """How often two equal methods differ significantly, at 5 % and at the far tail."""
    rates = (0.6, *RATES)
    for points in (0.0, 1.0, 3.0):
        for n in SIZES:
            row: Row = {"between seeds (points)": points, "n": n}
            studies = simulate_studies(options.simulations, n, [points, *spread_probits(points)], rates)
            for name, pools in (("own", own(studies)), ("pooled", pool(studies))):
                p_values = [
                    stats.estimate_difference(
                        study[0], study[1], pools=(shared[0], shared[1]), draws=options.draws
                    )["p_value"]
                    for study, shared in zip(studies, pools, strict=True)
                ]
                for level in (0.05, 0.005):
                    count = sum(value < level for value in p_values)
                    row[f"{name}: p < {level}"] = format_share(count, len(p_values))
            yield row


def power(options: argparse.Namespace) -> Iterable[Row]:
    """How often a repetition finds the detectable difference that a study of two seeds states."""
    for name in ("own", "pooled"):
        for comparisons in FAMILIES:
            for n in SIZES:
                stated = np.sort(state_differences(options, n, name, comparisons))
                possible = stated[stated < LARGEST]
                repeated = []
                for group in np.array_split(possible, GROUPS) if len(possible) >= GROUPS else ():
                    half = float(np.median(group)) / 2
                    rates = (0.5 + half, 0.5 - half, *RATES[1:3])
                    repeated += compare_first_two(options, n, name, rates, options.simulations // GROUPS)
                # the bootstrap's resolution is too low for a small level: the tail of Student's t, as in large families
                found = sum(stats.tail_p_value(each) < 0.05 / comparisons for each in repeated)
                yield {
                    "seeds": name,
                    "comparisons": comparisons,
                    "n": n,
                    "detectable (points)": f"{100 * np.median(stated):.1f}",
                    "none": format_share(len(stated) - len(possible), len(stated)),
                    "detected by a repetition": format_share(found, len(repeated)),
                }


def state_differences(options: argparse.Namespace, n: int, name: str, comparisons: int) -> list[float]:
    """Return the detectable differences that studies of two equal methods state."""
    rates = (0.5, 0.5, *RATES[1:3])
    return [
        stats.detectable_difference(each, comparisons=comparisons)
        for each in compare_first_two(options, n, name, rates, options.simulations)
    ]


def compare_first_two(
    options: argparse.Namespace, n: int, name: str, rates: Sequence[float], simulations: int
) -> list[stats.Difference]:
    """Return the comparison of the first two methods, in as many studies, with seeds 1 point apart."""
    studies = simulate_studies(simulations, n, [1.0] * len(rates), rates)
    pools = pool(studies) if name == "pooled" else own(studies)
    return [
        stats.estimate_difference(study[0], study[1], pools=(shared[0], shared[1]), draws=options.draws)
        for study, shared in zip(studies, pools, strict=True)
    ]


def clusters(options: argparse.Namespace) -> Iterable[Row]:
    """Coverage where examples come in clusters of ten that are right or wrong together, for the most part."""
    for seeds in (1, 3):
        for n in (200, 1000):
            rng = make_generator((seeds, n, CLUSTER_SIZE))
            count = options.simulations
            difficulty = rng.normal(0, 2.0, (count, 1, n // CLUSTER_SIZE)).repeat(CLUSTER_SIZE, axis=2)
            answers = difficulty + rng.normal(0, 1.0, (count, seeds, n)) > 0
            keys = [number // CLUSTER_SIZE for number in range(n)]
            row: Row = {"seeds": seeds, "n": n, "clusters": n // CLUSTER_SIZE}
            others = _draw_others(rng, count, n)
            for name, chosen in (("independent", None), ("clusters drawn", keys)):
                estimates = [
                    stats.estimate_accuracy(table, clusters=chosen, draws=options.draws) for table in answers
                ]
                differences = [
                    stats.estimate_difference(*pair, clusters=chosen, draws=options.draws)
                    for pair in zip(answers, others, strict=True)
                ]
                row[f"{name}: coverage"] = coverage_rate(estimates, 0.5)
                row[f"{name}: type I error"] = rejection_rate(differences)
            yield row


def _draw_others(rng: np.random.Generator, simulations: int, n: int) -> Any:
    """Return the answers (simulations, 1, examples) of another method that is right on half of the clusters."""
    difficulty = rng.normal(0, 2.0, (simulations, 1, n // CLUSTER_SIZE)).repeat(CLUSTER_SIZE, axis=2)
    return difficulty + rng.normal(0, 1.0, (simulations, 1, n)) > 0


PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Row]]] = {
    "coverage": coverage,
    "errors": errors,
    "power": power,
    "clusters": clusters,
}

if __name__ == "__main__":
    main()
