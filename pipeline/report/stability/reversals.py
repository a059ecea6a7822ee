"""How often the order of two methods reverses when a single condition of the study changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from pipeline.report.comparisons import SIGNIFICANT, compare_pairs
from pipeline.report.data import Cell, ReportData, Section, list_sections, score_key
from pipeline.study.description import (
    ArmDescription,
    ModelDescription,
    TaskDescription,
)

# what two conditions differ in
Axis = Literal["seed", "protocol", "arm"]


class Condition(NamedTuple):
    """What a single accuracy of a method is measured under."""

    arm: str
    protocol: str
    seed: int


class MethodPair(NamedTuple):
    """Two methods by name, in the order of the study."""

    first: str
    second: str


@dataclass(frozen=True)
class PairChange:
    """A pair of methods under two conditions.

    Attributes:
        pair: the methods.
        before: macro average of the first method minus that of the second under one condition, as a share.
        after: the same under the other condition, on the same tasks.
        is_separated: whether the paired test over all seeds separates the two under either condition, after Holm's
            correction.
    """

    pair: MethodPair
    before: float
    after: float
    is_separated: bool

    @property
    def is_reversed(self) -> bool:
        """Whether the order reverses; a difference of zero has no order."""
        return self.before * self.after < 0


@dataclass(frozen=True)
class AxisChanges:
    """All changes of a model's pairs of methods along an axis.

    Attributes:
        model: with its title.
        axis: what the conditions differ in; all else is equal.
        changes: an item for each pair of conditions and of methods.
    """

    model: ModelDescription
    axis: Axis
    changes: Sequence[PairChange]

    def count(self, *, separated: bool) -> tuple[int, int]:
        """Return how many changes reverse an order, and how many changes there are, of separated pairs or of the others."""
        part = [change for change in self.changes if change.is_separated == separated]
        return sum(change.is_reversed for change in part), len(part)


def list_axis_changes(data: ReportData) -> list[AxisChanges]:
    """Return the changes of each model along each axis that the study has.

    Two conditions differ in their seed, in their protocol (the same adapters, evaluated in two ways), or in their arm
    (the same tasks, trained on the same set in two ways). They are compared on the tasks that both have.
    """
    sections = list_sections(data.study, data.study.protocols)
    separated = {_name_section(section): _find_separated(data, section) for section in sections}
    rows = []
    for model in data.study.models:
        by_axis: dict[Axis, list[PairChange]] = {}
        for axis, first, second, changes in _compare_conditions(data, model, sections):
            is_separated = separated[first.arm, first.protocol] | separated[second.arm, second.protocol]
            by_axis.setdefault(axis, []).extend(
                PairChange(pair, before, after, (model.name, pair) in is_separated)
                for pair, before, after in changes
            )
        rows += [AxisChanges(model, axis, changes) for axis, changes in by_axis.items()]
    return rows


def count_lasting_orders(data: ReportData, model: ModelDescription) -> tuple[int, int]:
    """Return for how many pairs of a model's methods one of the two is ahead under all conditions, and of how many pairs.

    A condition in which the two are equal counts for either. A pair whose methods share no arm does not count.
    """
    signs: dict[MethodPair, set[int]] = {}
    for section in list_sections(data.study, data.study.protocols):
        accuracies = _list_accuracies(data, model, section, section.tasks)
        for values in accuracies.values():
            for pair, difference in _subtract_pairs(values):
                signs.setdefault(pair, set()).add(int(np.sign(difference)))
    return sum(not {1, -1} <= seen for seen in signs.values()), len(signs)


def _name_section(section: Section) -> tuple[str, str]:
    return section.arm.name, section.protocol


def _find_separated(data: ReportData, section: Section) -> set[tuple[str, MethodPair]]:
    """Return the model and the pair of methods of each comparison that is significant in a section."""
    if data.has_one_seed or not any(len(data.methods_of(model.name)) > 1 for model in data.study.models):
        return set()
    return {
        (comparison.model.name, _sort_pair(data, comparison.first.name, comparison.second.name))
        for comparison, difference in compare_pairs(data, section).items()
        if difference["holm"] < SIGNIFICANT
    }


def _sort_pair(data: ReportData, first: str, second: str) -> MethodPair:
    order = [method.name for method in data.study.methods]
    return MethodPair(*sorted((first, second), key=order.index))


def _compare_conditions(
    data: ReportData, model: ModelDescription, sections: Sequence[Section]
) -> Iterator[tuple[Axis, Condition, Condition, list[tuple[MethodPair, float, float]]]]:
    """Yield each two conditions that differ in one axis, with the differences of each pair of methods under both."""
    for section in sections:
        accuracies = _list_accuracies(data, model, section, section.tasks)
        for first, second in combinations(accuracies, 2):
            before, after = (Condition(*_name_section(section), seed) for seed in (first, second))
            yield "seed", before, after, _pair_differences(accuracies[first], accuracies[second])
    for earlier, later in combinations(sections, 2):
        axis: Axis = "protocol" if earlier.arm.name == later.arm.name else "arm"
        if axis == "arm" and (
            earlier.protocol != later.protocol or not _are_comparable(earlier.arm, later.arm)
        ):
            continue
        names = {task.name for task in later.tasks}
        tasks = [task for task in earlier.tasks if task.name in names]
        if not tasks:
            continue
        old = _list_accuracies(data, model, earlier, tasks)
        new = _list_accuracies(data, model, later, tasks)
        for seed in sorted(old.keys() & new.keys()):
            before, after = (Condition(*_name_section(section), seed) for section in (earlier, later))
            yield axis, before, after, _pair_differences(old[seed], new[seed])


def _are_comparable(first: ArmDescription, second: ArmDescription) -> bool:
    # other tasks are another question, and so is what another training set teaches
    same_tasks = {task.name for task in first.tasks} == {task.name for task in second.tasks}
    return same_tasks and first.training_set == second.training_set


def _list_accuracies(
    data: ReportData, model: ModelDescription, section: Section, tasks: Sequence[TaskDescription]
) -> dict[int, dict[str, float]]:
    """Return the macro average of each method over ``tasks``, by seed and method."""
    keys = [score_key(task, section.protocol) for task in tasks]
    by_seed: dict[int, dict[str, float]] = {}
    for method in data.methods_of(model.name):
        cell = Cell(model.name, method.name, section.arm.name)
        for seed, accuracy in data.list_seed_accuracies(cell, keys).items():
            if seed is not None:
                by_seed.setdefault(seed, {})[method.name] = accuracy
    return by_seed


def _subtract_pairs(accuracies: dict[str, float]) -> list[tuple[MethodPair, float]]:
    # accuracies are sums of few shares: what differs by rounding alone is equal
    return [
        (MethodPair(first, second), round(accuracies[first] - accuracies[second], 9))
        for first, second in combinations(accuracies, 2)
    ]


def _pair_differences(
    before: dict[str, float], after: dict[str, float]
) -> list[tuple[MethodPair, float, float]]:
    second = dict(_subtract_pairs(after))
    return [(pair, value, second[pair]) for pair, value in _subtract_pairs(before) if pair in second]
