"""The subjects of a report's numbers: sections of the report, cells of their tables, and the answers that a number is of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.evaluate.scoring.metrics import ACCURACY, Metric
from pipeline.study.description import ArmDescription, StudyDescription, TaskDescription
from pipeline.study.run import BARE


class Cell(NamedTuple):
    """The subject of a cell in a table: one model with one method in one arm, over all seeds."""

    model: str
    method: str
    arm: str

    @property
    def anchor(self) -> str:
        """The id on the page of the cell's first run; a bare base is the same run in every arm."""
        # names have dashes but no slash
        return f"runs/{self.model}/{self.method}" + ("" if self.method == BARE else f"/{self.arm}")


class Selection(NamedTuple):
    """The answers that a number is of.

    Attributes:
        keys: of one or more tasks in a score file.
        micro: whether every example counts the same in their average, rather than every task.
        metric: a proportion.
        excluded: ids of examples that are left out.
    """

    keys: tuple[str, ...]
    micro: bool = False
    metric: Metric = ACCURACY
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """A section of the report: an arm, with those of its tasks that are evaluated under one protocol."""

    arm: ArmDescription
    protocol: str

    @property
    def name(self) -> str:
        """The end of the names of the section's tables and figures."""
        return f"{self.arm.name}-{self.protocol}"

    @property
    def tasks(self) -> Sequence[TaskDescription]:
        """The tasks, in the order of the study."""
        return self.arm.tasks

    @property
    def keys(self) -> list[str]:
        """For each task its key in a score file."""
        return [score_key(task, self.protocol) for task in self.tasks]


def list_sections(study: StudyDescription, protocols: Sequence[str]) -> list[Section]:
    """Return each arm under each of ``protocols`` that covers any of its tasks."""
    sections = []
    for arm in study.arms:
        for protocol in protocols:
            tasks = [task for task in arm.tasks if protocol in task.protocols]
            if tasks:
                sections.append(Section(replace(arm, tasks=tasks), protocol))
    return sections


def score_key(task: TaskDescription, protocol: str) -> str:
    """Return the key of a task under a protocol in a score file."""
    return f"{task.name}-{protocol}"
