"""Methods against the bare base and against each other, paired on examples, each table one family under Holm's correction."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar

import pandas as pd

from pipeline.evaluate import stats
from pipeline.evaluate.stats import AdjustedDifference, Difference
from pipeline.report.tables import BARE, MACRO, MICRO, Data, Table, place
from pipeline.study.description import ArmDescription

Family = TypeVar("Family")

SIGNIFICANT = 0.05
MANY = 8  # methods; with more, pairs are those with the first alone


def comparison_tables(data: Data) -> dict[str, Table]:
    """The tables of comparisons of every section, by file name."""
    made: dict[str, Table] = {}
    for arm, protocol in data.parts:
        name = f"{arm.name}-{protocol}"
        if any(run.method == BARE for run in data.study.runs):
            found = against_bare(data, arm, protocol)
            made[f"difference-{name}"] = difference(data, arm, protocol, found)
            made[f"tests-{name}"] = tests(data, arm, protocol, found)
        if len(data.study.methods) > 1:
            made[f"pairs-{name}"] = pairs(data, arm, protocol)
    return made


def against_bare(
    data: Data, arm: ArmDescription, protocol: str
) -> dict[tuple[str, str, str], AdjustedDifference]:
    """Compare each method with its bare base: the difference by (model, method, column)."""
    found = {}
    for model in data.study.models:
        for method in data.study.methods:
            sides = (method.name, BARE)
            for column, one in _differences(data, arm, protocol, model.name, sides):
                found[model.name, method.name, column] = one
    return _corrected(found)


def _differences(
    data: Data, arm: ArmDescription, protocol: str, model: str, sides: tuple[str, str]
) -> Iterator[tuple[str, Difference]]:
    """Compare two methods: column of the table, and what was found."""
    cells = []
    for task in arm.tasks:
        key = f"{task.name}-{protocol}"
        first, second = (data.correct(model, method, arm.name, key) for method in sides)
        cells.append((first, second))
        yield task.title, stats.estimate_difference(first, second)
    yield MACRO, stats.estimate_mean_difference(cells)
    yield MICRO, stats.estimate_mean_difference(cells, micro=True)


def _corrected(found: Mapping[Family, Difference]) -> dict[Family, AdjustedDifference]:
    """Return the comparisons of a family with their corrected p-values and detectable differences."""
    return dict(zip(found, stats.adjust_differences(list(found.values())), strict=True))


def difference(
    data: Data, arm: ArmDescription, protocol: str, found: Mapping[Any, AdjustedDifference]
) -> Table:
    """Accuracy of each method less that of the bare base, on the same examples."""
    rows, places = [], []
    for model in data.study.models:
        for method in data.study.methods:
            row = {"Model": model.title, "Method": method.title}
            for column in _columns(arm):
                row[column] = _points(found[model.name, method.name, column])
            rows.append(row)
            places.append(place(model.name, method.name, arm.name))
    caption = (
        f"Difference to the bare base in points, {arm.name}, protocol {protocol}: paired on examples, {INTERVAL} * p < "
        f"{SIGNIFICANT} after Holm's correction over the {len(found)} comparisons of the table."
    )
    return Table(caption, pd.DataFrame(rows), places)


def _columns(arm: ArmDescription) -> list[str]:
    return [*(task.title for task in arm.tasks), MACRO, MICRO]


def _points(one: AdjustedDifference) -> str:
    """A difference in points with its interval, starred if it is significant."""
    low, high = 100 * one["low"], 100 * one["high"]
    mark = "*" if one["holm"] < SIGNIFICANT else ""
    return f"{100 * one['estimate']:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def _test(one: AdjustedDifference) -> dict[str, str]:
    return {
        "Difference (points)": _points(one),
        "p": p_value(one["p_value"]),
        "p after Holm": p_value(one["holm"]),
        "Detectable (points)": f"{100 * one['detectable']:.1f}" if one["detectable"] <= 1 else "none",
    }


def p_value(value: float) -> str:
    """A p-value for people; below what the bootstrap can tell apart it is a bound."""
    return f"{value:.4f}" if value > 1 / stats.DRAWS else f"≤ {1 / stats.DRAWS}"


INTERVAL = (
    "95 % bootstrap interval over examples and seeds, of each comparison by itself: without the correction, so it may leave "
    "zero out where there is no star;"
)
N = "n: examples, each answered by every seed of both sides."
DETECTABLE = (
    "Detectable: the true difference that four of five repetitions of the study, with as many seeds, would find (power 80 %; "
    "with two seeds about 70 %) at p < 0.05 after the correction's first step; smaller ones may be there unseen; none: not "
    "even 100 points."
)


def tests(data: Data, arm: ArmDescription, protocol: str, found: Mapping[Any, AdjustedDifference]) -> Table:
    """The tests behind the stars of ``difference``."""
    titles = {model.name: model.title for model in data.study.models}
    titles |= {method.name: method.title for method in data.study.methods}
    rows, places = [], []
    for (model, method, column), one in found.items():
        same = {"Model": titles[model], "Method": titles[method], "Task": column, "n": f"{one['n']:.0f}"}
        rows.append({**same, **_test(one)})
        places.append(place(model, method, arm.name))
    caption = (
        f"The comparisons with the bare base, {arm.name}, protocol {protocol}. p: McNemar's exact test where a task has "
        f"one run on both sides, else the paired bootstrap; corrected over these {len(found)}. {N} {DETECTABLE}"
    )
    return Table(caption, pd.DataFrame(rows), places)


def pairs(data: Data, arm: ArmDescription, protocol: str) -> Table:
    """Methods of one model against each other, on the macro average."""
    found = {}
    for model in data.study.models:
        for first, second in _pairs(data.study.methods):
            sides = [
                [
                    data.correct(model.name, method.name, arm.name, f"{task.name}-{protocol}")
                    for task in arm.tasks
                ]
                for method in (first, second)
            ]
            one = stats.estimate_mean_difference(list(zip(*sides, strict=True)))
            found[model.title, first.title, second.title] = one
    rows = [
        {"Model": model, "Method": first, "against": second, "n": f"{one['n']:.0f}", **_test(one)}
        for (model, first, second), one in _corrected(found).items()
    ]
    caption = (
        f"Methods against each other, macro average, {arm.name}, protocol {protocol}: paired on examples, {INTERVAL} * p < "
        f"{SIGNIFICANT} after Holm's correction over these {len(found)}. {N} {DETECTABLE}"
    )
    return Table(caption, pd.DataFrame(rows))


def _pairs(methods: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(methods) <= MANY:
        return list(combinations(methods, 2))
    return [(method, methods[0]) for method in methods[1:]]
