"""Coverage of the report's intervals and power of its comparisons, on simulated data with a known truth.

An answer is right if mean + seed + example + noise > 0, with normal terms: some examples are harder for all seeds, and some
seeds are better on all examples. So the true accuracy is known exactly. As in a study, the data vary with the sampled
examples, the seeds and the noise of single answers. All intervals and p-values come from ``pipeline.evaluate.stats``, with
fewer draws than in a report.

    python -m benchmarks.statistics                       # minutes on a core; the tables of docs/statistics.md
    python -m benchmarks.statistics --simulations 200     # a first look
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from pipeline.evaluate import stats
from pipeline.evaluate.stats import Difference, Estimate

NORMAL = NormalDist()
# Standard deviation of the examples' difficulty, relative to the noise: half of the variance is shared.
HARD = 1.0
SIZES = (50, 150, 1000)
RATES = (0.5, 0.9)
# Groups of repeated studies; each group has one true difference.
GROUPS = 20
# The largest simulated difference of two accuracies.
LARGEST = 0.95
# Standard deviation of the seeds' true accuracies, in percentage points.
BETWEEN = (0, 1, 3)

Row = dict[str, str | float]


def main() -> None:
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000, help="of each setting")
    parser.add_argument("--draws", type=int, default=1000, help="of each bootstrap")
    parser.add_argument("--only", choices=PARTS, help="run this part only")
    options = parser.parse_args()
    print(f"{options.simulations} simulations a setting, {options.draws} draws an interval\n")
    for name, part in PARTS.items():
        if options.only in (None, name):
            started = time.process_time()
            print_table(name, list(part(options)))
            print(f"({time.process_time() - started:.0f} CPU-s)\n", flush=True)


def single_run(options: argparse.Namespace) -> Iterable[Row]:
    """Wilson's interval of a single run."""
    for n in SIZES:
        for rate in (0.05, 0.2, 0.5, 0.8, 0.95):
            runs = simulate_runs(options.simulations, seeds=1, n=n, rate=rate, setting=(n, rate))
            estimates = [stats.estimate_accuracy(run, draws=2) for run in runs]
            yield {"n": n, "accuracy": rate, "coverage": coverage_rate(estimates, rate)}


def several_runs(options: argparse.Namespace) -> Iterable[Row]:
    """The bootstrap's interval of several seeds on a task."""
    for seeds in (2, 3, 5):
        for between in BETWEEN:
            row: Row = {"seeds": seeds, "between seeds (points)": between}
            for n in SIZES:
                for rate in RATES:
                    runs = simulate_runs(options.simulations, seeds=seeds, n=n, rate=rate, between=between)
                    estimates = [stats.estimate_accuracy(table, draws=options.draws) for table in runs]
                    row[f"n {n}, {100 * rate:.0f} %"] = coverage_rate(estimates, rate)
            yield row


def averages(options: argparse.Namespace) -> Iterable[Row]:
    """Macro and micro averages of four tasks of unequal size and difficulty, seeds shared by the tasks."""
    tasks = [(50, 0.4), (100, 0.6), (200, 0.8), (400, 0.95)]
    for seeds in (1, 3, 5):
        for between in BETWEEN[: 1 if seeds == 1 else None]:
            row: Row = {"seeds": seeds, "between seeds (points)": between}
            tables = simulate_tasks(options.simulations, tasks, seeds=seeds, between=between)
            for name, micro in (("macro", False), ("micro", True)):
                weights = [n if micro else 1 for n, _ in tasks]
                truth = sum(w * p for w, (_, p) in zip(weights, tasks, strict=True)) / sum(weights)
                estimates = [
                    stats.estimate_mean_accuracy(tasks_of_study, micro=micro, draws=options.draws)
                    for tasks_of_study in tables
                ]
                row[name] = coverage_rate(estimates, truth)
            yield row


def differences(options: argparse.Namespace) -> Iterable[Row]:
    """Paired comparisons: coverage of the interval, and how often a difference is called significant."""
    for first, second in ((1, 1), (2, 1), (3, 1), (5, 1), (2, 2), (3, 3), (5, 5)):
        for n in SIZES:
            row: Row = {"seeds": f"{first} against {second}", "n": n}
            for effect in (0.0, 0.1):
                estimates = compare_methods(options, seeds=(first, second), n=n, rates=(0.6 + effect, 0.6))
                row[f"coverage, {100 * effect:.0f} points"] = coverage_rate(estimates, effect)
                if not effect:
                    row["type I error"] = rejection_rate(estimates)
            yield row


def one_seed(options: argparse.Namespace) -> Iterable[Row]:
    """Two equal methods of one seed each: how often their runs differ significantly because their seeds differ."""
    for between in (0.0, 1.0, 1.7, 3.0):
        row: Row = {"between seeds (points)": between}
        for n in SIZES:
            estimates = compare_methods(
                options, seeds=(1, 1), n=n, rates=(0.6, 0.6), between=between, setting=(between,)
            )
            row[f"n {n}"] = rejection_rate(estimates)
        yield row


def detectable(options: argparse.Namespace) -> Iterable[Row]:
    """How often a repetition of a study finds the detectable difference that the study states."""
    for first, second in ((1, 1), (2, 1), (3, 1), (5, 1), (2, 2), (3, 3), (5, 5)):
        for n in SIZES:
            median, none, estimates = repeat_studies(options, seeds=(first, second), n=n)
            yield {
                "seeds": f"{first} against {second}",
                "n": n,
                "detectable (points)": f"{100 * median:.1f}",
                "none": f"{100 * none:.1f}",
                "detected by a repetition": rejection_rate(estimates),
            }


def families(options: argparse.Namespace) -> Iterable[Row]:
    """Holm's correction: how often a table without any difference shows one."""
    for first, second in ((1, 1), (3, 3)):
        runs = [
            compare_methods(options, seeds=(first, second), n=150, rates=(0.6, 0.6), setting=(k,))
            for k in range(10)
        ]
        tables = [[difference["p_value"] for difference in family] for family in zip(*runs, strict=True)]
        plain = sum(min(family) < 0.05 for family in tables)
        corrected = sum(min(stats.adjust_p_values(family)) < 0.05 for family in tables)
        yield {
            "seeds": f"{first} against {second}",
            "comparisons": 10,
            "any p < 0.05": format_share(plain, len(tables)),
            "after Holm": format_share(corrected, len(tables)),
        }


def simulate_runs(
    simulations: int,
    *,
    seeds: int,
    n: int,
    rate: float,
    between: float = 0.0,
    setting: Sequence[float] = (),
) -> Any:
    """Return right and wrong answers, (simulations, seeds, examples), of runs with a true accuracy of ``rate``."""
    rng = make_generator((seeds, n, rate, between, *setting))
    return draw_answers(rng, (simulations, seeds, n), rate, between, draw_difficulty(rng, simulations, n))


def make_generator(setting: Sequence[float]) -> np.random.Generator:
    """Return a random generator that depends on the setting only."""
    return np.random.default_rng([round(1000 * value) for value in setting])


def draw_difficulty(rng: np.random.Generator, simulations: int, n: int) -> Any:
    """Return how easy each example is, (simulations, 1, examples)."""
    return rng.normal(0, HARD, (simulations, 1, n)).astype(np.float32)


def draw_answers(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    rate: float,
    between: float,
    examples: Any,
    skill: Any = None,
) -> Any:
    """Return right and wrong answers to examples of this difficulty; ``skill`` (simulations, seeds, 1) is standard normal."""
    # derivative of the accuracy with respect to the latent mean
    slope = NORMAL.pdf(NORMAL.inv_cdf(rate)) / math.sqrt(1 + HARD**2)
    spread = between / 100 / slope
    mean = NORMAL.inv_cdf(rate) * math.sqrt(1 + HARD**2 + spread**2)
    skill = rng.normal(size=(*shape[:2], 1)) if skill is None else skill
    noise = rng.standard_normal(shape, dtype=np.float32)
    return noise + examples + (mean + spread * skill).astype(np.float32) > 0


def simulate_tasks(
    simulations: int, tasks: Sequence[tuple[int, float]], *, seeds: int, between: float
) -> list[list[Any]]:
    """Return a table for each simulation and task (examples, accuracy); the skill of a seed is the same on all tasks."""
    rng = make_generator((seeds, between, len(tasks)))
    skill = rng.normal(size=(simulations, seeds, 1))
    tables = [
        draw_answers(rng, (simulations, seeds, n), rate, between, draw_difficulty(rng, simulations, n), skill)
        for n, rate in tasks
    ]
    return [list(study) for study in zip(*tables, strict=True)]


def compare_methods(
    options: argparse.Namespace,
    *,
    seeds: tuple[int, int],
    n: int,
    rates: tuple[float, float],
    between: float | None = None,
    simulations: int | None = None,
    setting: Sequence[float] = (),
) -> list[Difference]:
    """Return comparisons of two methods with these true accuracies on the same examples.

    The accuracies of a method's seeds have a standard deviation of ``between`` points. None: of 1 point, and none for a
    single run, whose comparison is about that run alone.
    """
    count = simulations or options.simulations
    rng = make_generator((*seeds, n, rates[0] - rates[1], *setting))
    examples = draw_difficulty(rng, count, n)
    sides = [
        draw_answers(rng, (count, k, n), rate, float(k > 1) if between is None else between, examples)
        for k, rate in zip(seeds, rates, strict=True)
    ]
    return [stats.estimate_difference(*pair, draws=options.draws) for pair in zip(*sides, strict=True)]


def repeat_studies(
    options: argparse.Namespace, *, seeds: tuple[int, int], n: int
) -> tuple[float, float, list[Difference]]:
    """Return the detectable differences of studies of two equal methods, and studies of methods that differ by as much.

    The first value is the median of the detectable differences, the second the share that is larger than any possible
    difference. The remaining studies are repeated in ``GROUPS`` groups, each with the median difference of its studies.
    """
    simulations = options.simulations
    first = compare_methods(options, seeds=seeds, n=n, rates=(0.5, 0.5), setting=(1,))
    stated = np.sort([stats.detectable_difference(difference) for difference in first])
    possible = stated[stated < LARGEST]
    estimates: list[Difference] = []
    for group in np.array_split(possible, GROUPS) if len(possible) >= GROUPS else ():
        half = float(np.median(group)) / 2
        estimates += compare_methods(
            options,
            seeds=seeds,
            n=n,
            rates=(0.5 + half, 0.5 - half),
            simulations=simulations // GROUPS,
            setting=(2,),
        )
    return float(np.median(stated)), 1 - len(possible) / simulations, estimates


def coverage_rate(estimates: Sequence[Estimate], truth: float) -> str:
    """Return the share of intervals that contain the truth, in percent."""
    return format_share(
        sum(estimate["low"] <= truth <= estimate["high"] for estimate in estimates), len(estimates)
    )


def rejection_rate(estimates: Sequence[Difference]) -> str:
    """Return the share of comparisons that are significant at 5 %, in percent."""
    return format_share(sum(difference["p_value"] < 0.05 for difference in estimates), len(estimates))


def format_share(count: int, total: int) -> str:
    """Return a share as percent."""
    return f"{100 * count / total:.1f}"


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a Markdown table."""
    print(f"## {title}\n")
    columns = list(rows[0])
    cells = [[str(row[name]) for name in columns] for row in rows]
    for line in (columns, ["---"] * len(columns), *cells):
        print(f"| {' | '.join(line)} |")
    print()


PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Row]]] = {
    "one-run": single_run,
    "several-runs": several_runs,
    "averages": averages,
    "differences": differences,
    "one-seed": one_seed,
    "detectable": detectable,
    "families": families,
}

if __name__ == "__main__":
    main()
