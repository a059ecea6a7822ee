"""What the report reads of answers made elsewhere, and their numbers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core.io import read_json
from pipeline.evaluate import clusters, stats
from pipeline.evaluate.references.rows import TaskTies
from pipeline.evaluate.references.tie import TIES
from pipeline.evaluate.scoring.rows import ScoreFile, TaskScore
from pipeline.evaluate.stats import Estimate
from pipeline.params.published.cards import Published, PublishedRow, PublishedTable
from pipeline.report.data import ReportData
from pipeline.study.description import (
    ArmDescription,
    ReferenceDescription,
    StudyDescription,
    TaskDescription,
)
from pipeline.study.references import STORED

AUTHORS = "its authors"


@dataclass(frozen=True)
class ReferenceResult:
    """A reference with its scores and ties."""

    description: ReferenceDescription
    scores: ScoreFile
    ties: Mapping[str, TaskTies]

    @property
    def title(self) -> str:
        """Who answered, in tables: the card's name, and the size where its source states one."""
        card = self.description.card
        return card.name if not card.size or card.size in card.name else f"{card.name}, {card.size}"

    def tasks_of(self, arm: ArmDescription) -> list[TaskDescription]:
        """Return the tasks of an arm that the reference has answers to."""
        return [task for task in arm.tasks if task.name in self.description.protocols]

    def list_readings(self, protocols: Sequence[str]) -> list[str]:
        """Return the readings of its answers: that of the authors if it is stored, then those of the study's protocols."""
        own = {protocol for names in self.description.protocols.values() for protocol in names}
        stored = [STORED] if self.description.card.format.has_stored_reading else []
        return [*stored, *(protocol for protocol in protocols if protocol in own)]

    def score(self, task: str, reading: str) -> TaskScore:
        """Return the score of a task under a reading."""
        return self.scores["tasks"][f"{task}-{reading}"]

    def has_score(self, task: str, reading: str) -> bool:
        """Whether the answers to a task are read so; a protocol may not cover its answers."""
        return f"{task}-{reading}" in self.scores["tasks"]

    def correctness(self, task: str, reading: str) -> dict[str, float]:
        """Return which answers are right (1) or not (0), by the id of the example."""
        return {item["id"]: float(item["correct"]) for item in self.score(task, reading)["items"]}


def read_references(study: StudyDescription) -> list[ReferenceResult]:
    """Read the result files of a study's references."""
    return [
        ReferenceResult(reference, read_json(reference.scores), read_json(reference.answers / TIES))
        for reference in study.references
    ]


def name_reading(reading: str) -> str:
    """Return a reading in words, as the column of a table has it."""
    return AUTHORS if reading == STORED else reading


def estimate_reference(
    data: ReportData, reference: ReferenceResult, tasks: Sequence[TaskDescription], reading: str
) -> Estimate:
    """Return the accuracy of a reference on tasks, every task counting the same, with its interval over examples."""
    values = [reference.correctness(task.name, reading) for task in tasks]
    return stats.estimate_mean_accuracy(
        [[list(by_id.values())] for by_id in values],
        clusters=[
            select_clusters(data, task, list(by_id)) for task, by_id in zip(tasks, values, strict=True)
        ],
    )


def select_clusters(data: ReportData, task: TaskDescription, ids: Sequence[str]) -> list[Hashable] | None:
    """Return the clusters of examples of a task; None where they are independent."""
    # the examples of a task are the same under every protocol
    return clusters.select_clusters(data.find_clusters(f"{task.name}-{task.protocols[0]}"), ids)


class PublishedAverage(NamedTuple):
    """The average of a published row over some tasks, in [0, 1], and the table that it is of."""

    average: float
    table: PublishedTable
    row: PublishedRow


def list_published(
    published: Published, tasks: Sequence[TaskDescription], *, training_set: str = ""
) -> list[PublishedAverage]:
    """Return the rows of a publication that have a figure for each of some tasks, from the table nearest to these tasks.

    Args:
        published: the publication.
        tasks: of the average.
        training_set: of the table; empty: any.
    """
    names = [task.name for task in tasks]
    tables = [
        table
        for table in published.tables
        if set(names) <= set(table.tasks) and training_set in ("", table.training_set)
    ]
    table = min(tables, key=lambda table: len(table.tasks), default=None)
    if table is None:
        return []
    averages = []
    for row in table.rows:
        figures = dict(zip(table.tasks, row.accuracy, strict=True))
        chosen = [figure for name in names if (figure := figures[name]) is not None]
        if len(chosen) == len(names):
            is_whole = row.average is not None and set(names) == set(table.tasks)
            mean = row.average if is_whole and row.average is not None else sum(chosen) / len(chosen)
            averages.append(PublishedAverage(mean / 100, table, row))
    return averages


def find_published_row(
    reference: ReferenceResult, tasks: Sequence[TaskDescription]
) -> PublishedAverage | None:
    """Return the published row that a reference is shown beside; None where there is none for these tasks."""
    card, published = reference.description.card.published, reference.description.published
    if card is None or published is None:
        return None
    rows = list_published(published, tasks)
    return next((row for row in rows if row.row.model == card.model and row.row.is_bare), None)
