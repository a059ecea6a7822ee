"""The transfer matrix: each training set against each group of tasks."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.evaluate.stats import Estimate
from pipeline.report.data import Cell, ReportData, Section, Selection, list_sections
from pipeline.study.description import ModelDescription
from pipeline.study.run import BARE


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that an arm evaluates together; the name is that of the first arm which has them."""

    name: str
    tasks: frozenset[str]


@dataclass(frozen=True)
class TransferRow:
    """A method trained on a set, or the bare base, with its macro average for each group of tasks.

    Attributes:
        model: the base.
        method: in tables.
        title: of the method, in tables.
        training_set: "" for the bare base; those of its members for a combination.
        accuracies: by group; a group that no arm of the training set evaluates is left out.
        gains: by group, over the bare base, in shares; empty for the bare base, and in a study without one.
    """

    model: ModelDescription
    method: str
    title: str
    training_set: str
    accuracies: dict[str, Estimate]
    gains: dict[str, float]


def list_groups(data: ReportData, protocol: str) -> list[TaskGroup]:
    """Return the groups of tasks of a study's arms under a protocol; none where no adapter is evaluated on two groups."""
    sections = list_sections(data.study, [protocol])
    groups: dict[frozenset[str], str] = {}
    by_training_set: dict[str, set[frozenset[str]]] = {}
    for section in sections:
        tasks = _name_tasks(section)
        groups.setdefault(tasks, section.arm.name)
        if section.arm.training_set:
            by_training_set.setdefault(section.arm.training_set, set()).add(tasks)
    has_combinations = any(run.combined_sets for run in data.study.runs)
    evaluated_sets = [set(groups)] if has_combinations else by_training_set.values()
    if not any(len(evaluated) > 1 for evaluated in evaluated_sets):
        return []
    return [TaskGroup(name, tasks) for tasks, name in groups.items()]


def list_transfers(data: ReportData, protocol: str) -> Iterator[TransferRow]:
    """Yield the rows of the matrix: for each model the bare base, then each method with each training set."""
    groups = list_groups(data, protocol)
    sections = list_sections(data.study, [protocol])
    training_sets = list(dict.fromkeys(section.arm.training_set for section in sections))
    for model in data.study.models:
        for method, title in data.method_titles(model.name).items():
            # a bare base and a combination are evaluated on the tasks of every arm
            sets = data.find_runs(model.name, method)[0].combined_sets
            everywhere = [" + ".join(sets)] if sets or method == BARE else []
            for training_set in everywhere or training_sets:
                own = [
                    section for section in sections if everywhere or section.arm.training_set == training_set
                ]
                # arms may train on one set in several ways: the first that evaluates a group counts
                by_tasks = {_name_tasks(section): section for section in reversed(own)}
                evaluated = {
                    group.name: by_tasks[group.tasks]
                    for group in groups
                    if group.tasks in by_tasks
                    and data.find_runs(model.name, method, by_tasks[group.tasks].arm.name)
                }
                if evaluated:
                    yield _build_row(data, model, (method, title), training_set, evaluated)


def _build_row(
    data: ReportData,
    model: ModelDescription,
    method: tuple[str, str],
    training_set: str,
    sections: dict[str, Section],
) -> TransferRow:
    name, title = method
    accuracies, gains = {}, {}
    for group, section in sections.items():
        cell = Cell(model.name, name, section.arm.name)
        accuracies[group] = data.average_accuracy(cell, section.keys)
        if data.has_bare and name != BARE:
            bare = Cell(model.name, BARE, section.arm.name)
            gains[group] = data.compare(cell, bare, Selection(tuple(section.keys)))["estimate"]
    return TransferRow(model, name, title, training_set, accuracies, gains)


def _name_tasks(section: Section) -> frozenset[str]:
    return frozenset(task.name for task in section.tasks)
