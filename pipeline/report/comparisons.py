"""Methods compared with the bare base and with each other, paired on examples; each table is one family for Holm.

A star speaks of methods. Where each method has one seed, a comparison is about these runs alone, and nothing is starred.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

import pandas as pd

from pipeline.core.text import format_percent, format_points
from pipeline.evaluate import stats
from pipeline.evaluate.stats import AdjustedDifference, Difference
from pipeline.report.data import Cell, ReportData, Section, Selection
from pipeline.report.tables import Table
from pipeline.study.description import MethodDescription, ModelDescription
from pipeline.study.run import BARE

SIGNIFICANT = 0.05
# below it, no test's assumptions hold so well that the digits mean anything
SMALLEST_P_VALUE = 1e-12
# with more methods than this, each is compared with the first alone: all pairs would be too many to read and to correct
MAX_METHODS_FOR_ALL_PAIRS = 8

_INTERVAL = (
    "the interval is a 95 % bootstrap interval over examples and seeds, of the difference of the two accuracies. It is not "
    "corrected for the number of comparisons, so it may exclude zero where there is no star."
)
_POOLED = " The variance between seeds is pooled over the methods of a model, as in the table of accuracies."
_N = "n: number of examples, each answered by all seeds of both sides."
_DETECTABLE = (
    "Detectable: the true difference that four of five repetitions of the study, with the same number of seeds, should find at "
    "p < 0.05 after the correction's first step (power 80 %{simulated}); a smaller difference may go undetected. None: not even "
    "100 points would be found. Empty: a difference was found."
)
# docs/statistics.md has the simulations
_POOLED_POWER = "; 70 to 82 % in simulations"
_POWER_OF_TWO_SEEDS = "; with two seeds and each method's own variance, only 25 to 75 % in simulations, less with more comparisons"
_SINGLE_INTERVAL = (
    "the interval is a 95 % bootstrap interval over examples, not corrected for the number of comparisons. Each adapter has one "
    "seed, so a comparison is about these runs alone: another seed may reverse it, and nothing is starred."
)
_SINGLE_DETECTABLE = (
    "Detectable: the true difference between two such runs that four of five draws of the same number of examples would find "
    "at p < 0.05 after the correction's first step (power 80 %). None: not even 100 points would be found."
)


class BareComparison(NamedTuple):
    """The subject of a comparison with the bare base; ``column`` is a task's title or an average."""

    model: str
    method: str
    column: str


class PairComparison(NamedTuple):
    """The subject of a comparison of two methods of a model."""

    model: ModelDescription
    first: MethodDescription
    second: MethodDescription


_Comparison = TypeVar("_Comparison", bound=Hashable)


def build_comparison_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of comparisons of every section, by file name."""
    tables: dict[str, Table] = {}
    for section in data.sections:
        # each table is a family of its own: the bare base and the other methods are two questions
        if data.has_bare and not data.trains_nothing:
            differences = compare_with_bare(data, section)
            tables[f"difference-{section.name}"] = _build_difference_table(data, section, differences)
            tables[f"tests-{section.name}"] = _build_test_table(data, section, differences)
        if any(len(data.methods_of(model.name)) > 1 for model in data.study.models):
            tables[f"pairs-{section.name}"] = _build_pair_table(data, section)
    return tables


def compare_with_bare(data: ReportData, section: Section) -> dict[BareComparison, AdjustedDifference]:
    """Compare each method with its bare base, on each task and on the averages."""
    differences = {}
    for model in data.study.models:
        for method in data.methods_of(model.name):
            sides = Cell(model.name, method.name, section.arm.name), Cell(model.name, BARE, section.arm.name)
            for column, difference in compare_cells(data, section, *sides):
                differences[BareComparison(model.name, method.name, column)] = difference
    return adjust_family(differences)


def compare_pairs(data: ReportData, section: Section) -> dict[PairComparison, AdjustedDifference]:
    """Compare each model's methods with each other, on the macro average."""
    differences = {}
    for model in data.study.models:
        for methods in _pair_methods(data.methods_of(model.name)):
            first, second = (Cell(model.name, method.name, section.arm.name) for method in methods)
            comparison = PairComparison(model, *methods)
            differences[comparison] = data.compare(first, second, Selection(tuple(section.keys)))
    return adjust_family(differences)


def compare_cells(
    data: ReportData, section: Section, first: Cell, second: Cell
) -> Iterator[tuple[str, Difference]]:
    """Yield the columns of a table of differences, each with its difference."""
    for title, micro in data.list_averages(section).items():
        yield title, data.compare(first, second, Selection(tuple(section.keys), micro))
    for task, key in zip(section.tasks, section.keys, strict=True):
        yield task.title, data.compare(first, second, Selection((key,)))


def adjust_family(differences: Mapping[_Comparison, Difference]) -> dict[_Comparison, AdjustedDifference]:
    """Correct the p-values of a family of comparisons, and compute what each could have detected."""
    return dict(zip(differences, stats.adjust_differences(list(differences.values())), strict=True))


def _build_difference_table(
    data: ReportData, section: Section, differences: Mapping[BareComparison, AdjustedDifference]
) -> Table:
    """Build the differences of each method to its bare base: a column for each task and average."""
    rows, anchors = [], []
    for model in data.study.models:
        for method in data.methods_of(model.name):
            row = {"Model": model.title, "Method": method.title}
            for column in (*data.list_averages(section), *(task.title for task in section.tasks)):
                difference = differences[BareComparison(model.name, method.name, column)]
                row[column] = _format_points(difference, starred=not data.has_one_seed)
            rows.append(row)
            anchors.append(Cell(model.name, method.name, section.arm.name).anchor)
    caption = (
        f"Difference from the bare base in points, {section.arm.name}, protocol {section.protocol}: paired on examples; "
        f"{_describe_interval(data, f'the {len(differences)} comparisons of the table')}"
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _build_test_table(
    data: ReportData, section: Section, differences: Mapping[BareComparison, AdjustedDifference]
) -> Table:
    """Build the list of tests behind the stars of the table of differences."""
    # differences are keyed by names, which are unique; titles need not be
    model_titles = {model.name: model.title for model in data.study.models}
    method_titles = {method.name: method.title for method in data.study.methods}
    rows, anchors = [], []
    for comparison, difference in differences.items():
        rows.append(
            {
                "Model": model_titles[comparison.model],
                "Method": method_titles[comparison.method],
                "Task": comparison.column,
                **format_test(difference, starred=not data.has_one_seed),
            }
        )
        anchors.append(Cell(comparison.model, comparison.method, section.arm.name).anchor)
    single = f" {_SINGLE_INTERVAL[0].upper()}{_SINGLE_INTERVAL[1:]}" if data.has_one_seed else ""
    caption = (
        f"The comparisons with the bare base, {section.arm.name}, protocol {section.protocol}. p-values: McNemar's exact test for a "
        f"task with one run on each side and no clusters, otherwise the paired bootstrap{_describe_tail(len(differences))}. "
        f"p after Holm: corrected over these {len(differences)} comparisons.{single} "
        f"{_N} {_describe_detectable(data)}"
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _build_pair_table(data: ReportData, section: Section) -> Table:
    """Build the comparisons of each model's methods with each other, on the macro average."""
    differences = compare_pairs(data, section)
    rows = [
        {
            "Model": comparison.model.title,
            "Method": comparison.first.title,
            "against": comparison.second.title,
            **format_test(difference, starred=not data.has_one_seed),
        }
        for comparison, difference in differences.items()
    ]
    caption = (
        f"Methods against each other, macro average, {section.arm.name}, protocol {section.protocol}: paired on examples; "
        f"{describe_family(data, len(differences))}"
    )
    return Table(caption, pd.DataFrame(rows))


def _pair_methods(
    methods: Sequence[MethodDescription],
) -> list[tuple[MethodDescription, MethodDescription]]:
    if len(methods) <= MAX_METHODS_FOR_ALL_PAIRS:
        return list(combinations(methods, 2))
    return [(method, methods[0]) for method in methods[1:]]


def _describe_interval(data: ReportData, family: str) -> str:
    if data.has_one_seed:
        return _SINGLE_INTERVAL
    pooled = _POOLED if data.study.seed_variance == "pooled" and len(data.study.methods) > 1 else ""
    return f"{_INTERVAL} Star (*): p < {SIGNIFICANT} after Holm's correction over {family}.{pooled}"


def describe_family(data: ReportData, comparisons: int) -> str:
    """Return the part of a caption that says what interval, star and detectable difference are, of a family of comparisons."""
    return f"{_describe_interval(data, f'these {comparisons} comparisons')} {_N} {_describe_detectable(data)}"


def _describe_tail(comparisons: int) -> str:
    # smaller families can be starred with the bootstrap's smallest p-value
    tail = f" and, below {stats.TAIL_DRAWS / stats.DRAWS:g} the tail of Student's t"
    return tail if comparisons > stats.RESOLVED else ""


def _describe_detectable(data: ReportData) -> str:
    if data.has_one_seed:
        return _SINGLE_DETECTABLE
    is_pooled = data.study.seed_variance == "pooled" and len(data.study.methods) > 1
    own_power = _POWER_OF_TWO_SEEDS if len(data.study.seeds) == 2 else ""
    return _DETECTABLE.format(simulated=_POOLED_POWER if is_pooled else own_power)


def _format_points(difference: AdjustedDifference, *, starred: bool) -> str:
    """Format a difference in points with its interval; with a star if it is significant and may be ``starred``."""
    estimate, low, high = (format_points(difference[key]) for key in ("estimate", "low", "high"))
    star = "*" if starred and difference["holm"] < SIGNIFICANT else ""
    return f"{estimate} [{low}, {high}]{star}"


def format_test(difference: AdjustedDifference, *, starred: bool) -> dict[str, str]:
    """Format a test by column: n, the difference in points with its interval, p-values and the detectable difference."""
    detectable = format_percent(difference["detectable"]) if difference["detectable"] <= 1 else "none"
    # where a difference was found, what else could have been found says nothing
    is_found = starred and difference["holm"] < SIGNIFICANT
    return {
        "n": str(difference["n"]),
        "Difference (points)": _format_points(difference, starred=starred),
        "p": format_p_value(difference["p_value"]),
        "p after Holm": format_p_value(difference["holm"]),
        "Detectable (points)": "" if is_found else detectable,
    }


def format_p_value(value: float) -> str:
    """Format a p-value; one at the resolution of the bootstrap, or too small to be meant literally, becomes a bound."""
    if value > 1 / stats.DRAWS:
        return f"{value:.4f}"
    if value >= 1 / (stats.DRAWS + 1):
        return f"≤ {1 / stats.DRAWS}"
    return f"{value:.1e}" if value > SMALLEST_P_VALUE else f"≤ {SMALLEST_P_VALUE:.0e}"
