"""The order of a model's methods by their average, and which of them the paired tests separate from the first."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from pipeline.evaluate import stats
from pipeline.report.comparisons import (
    MAX_METHODS_FOR_ALL_PAIRS,
    SIGNIFICANT,
    compare_pairs,
    compare_with_bare,
)
from pipeline.report.data import Cell, ReportData, Section, Selection
from pipeline.report.tables import MACRO
from pipeline.study.run import BARE

# best: separated from every other method; tie: the first and those that are not separated from it
Verdict = Literal["best", "tie", ""]


@dataclass(frozen=True)
class Ranking:
    """The methods of a model in a section of the report, the bare base among them.

    Attributes:
        model: name of its card.
        order: names of the methods, by macro average, the highest first.
        ties: those of the others that no test separates from the first.
        is_tested: whether tests of methods exist: each adapter has several seeds, and there are two methods to compare.
    """

    model: str
    order: tuple[str, ...]
    ties: tuple[str, ...]
    is_tested: bool

    @property
    def best(self) -> str | None:
        """The method that is separated from every other method; None where there is none."""
        return self.order[0] if self.is_tested and not self.ties else None

    @property
    def has_single_method(self) -> bool:
        """Whether the bare base is all that the only adapter is compared with."""
        return len(self.order) == 2 and BARE in self.order

    def judge(self, method: str) -> Verdict:
        """Return whether a method is the best, one of those that tie, or neither."""
        if not self.is_tested:
            return ""
        if method == self.best:
            return "best"
        return "tie" if self.ties and method in (self.order[0], *self.ties) else ""


def rank_methods(data: ReportData, section: Section) -> dict[str, Ranking]:
    """Return the ranking of each model's methods in a section, by model.

    The tests are those of the section's tables of comparisons, with their correction: adapters against each other, and
    against the bare base. With more methods than a table lists pairs of, the first is compared with each other one, and
    the p-values are corrected for all pairs that it could have been.
    """
    orders = {model.name: order_methods(data, section, model.name) for model in data.study.models}
    if data.has_one_seed:
        return {model: Ranking(model, order, ties=(), is_tested=False) for model, order in orders.items()}
    p_values = correct_p_values(data, section)
    rankings = {}
    for model, order in orders.items():
        pairs = p_values[model]
        ties = tuple(name for name in order[1:] if pairs[frozenset((order[0], name))] >= SIGNIFICANT)
        rankings[model] = Ranking(model, order, ties, is_tested=len(order) > 1)
    return rankings


def order_methods(data: ReportData, section: Section, model: str) -> tuple[str, ...]:
    """Return the methods of a model and its bare base, the highest macro average first."""
    averages = {
        method: data.average_accuracy(Cell(model, method, section.arm.name), section.keys)["estimate"]
        for method in data.method_titles(model)
        if data.find_runs(model, method, section.arm.name)
    }
    # sorted keeps the study's order among equal averages
    return tuple(sorted(averages, key=averages.__getitem__, reverse=True))


def correct_p_values(data: ReportData, section: Section) -> dict[str, Mapping[frozenset[str], float]]:
    """Return the corrected p-value of each tested pair of methods, by model."""
    p_values: dict[str, dict[frozenset[str], float]] = {model.name: {} for model in data.study.models}
    if data.has_bare:
        for (model, method, column), difference in compare_with_bare(data, section).items():
            if column == MACRO:
                p_values[model][frozenset((method, BARE))] = difference["holm"]
    if max(len(data.methods_of(model.name)) for model in data.study.models) > MAX_METHODS_FOR_ALL_PAIRS:
        return {
            model: pairs | _bound_pairs_of_first(data, section, model) for model, pairs in p_values.items()
        }
    for pair, difference in compare_pairs(data, section).items():
        p_values[pair.model.name][frozenset((pair.first.name, pair.second.name))] = difference["holm"]
    return dict(p_values)


def _bound_pairs_of_first(data: ReportData, section: Section, model: str) -> dict[frozenset[str], float]:
    """Return the p-value of each pair of a model's first adapter, corrected for all pairs of the section's methods."""
    all_pairs = sum(len(list(combinations(data.methods_of(other.name), 2))) for other in data.study.models)
    adapters = [name for name in order_methods(data, section, model) if name != BARE]
    if len(adapters) < 2:
        return {}
    first, *others = adapters
    sides = [Cell(model, first, section.arm.name), *(Cell(model, name, section.arm.name) for name in others)]
    differences = [data.compare(sides[0], side, Selection(tuple(section.keys))) for side in sides[1:]]
    bounds = stats.bound_p_values(differences, comparisons=all_pairs)
    return {frozenset((first, name)): bound for name, bound in zip(others, bounds, strict=True)}
