"""Rows of publications as references of a study: each has a name, and a table that is nearest to the tasks beside it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.params.published.cards import (
    Measurement,
    Published,
    PublishedFigure,
    PublishedRow,
    PublishedTable,
)
from pipeline.params.reading import read_card
from pipeline.params.studies import Arm
from pipeline.study.followups.match import match_rows

if TYPE_CHECKING:
    from pipeline.study.grid import Study


@dataclass(frozen=True)
class TableRow:
    """A row of a table of a publication. A point of a figure is a row with an average alone."""

    published: Published
    table: PublishedTable
    row: PublishedRow

    @property
    def measurement(self) -> Measurement:
        """How its figures were measured."""
        return self.published.measurements[self.row.measurement or self.table.measurement]

    @property
    def source(self) -> str:
        """The place of the row: an address, or a place in the publication."""
        return self.published.locate(self.row.source or self.table.source)

    @property
    def is_trained(self) -> bool:
        """Whether its model was trained on the table's training set; otherwise only the tasks matter."""
        return not self.row.is_bare

    def list_figures(self, tasks: Collection[str]) -> dict[str, float]:
        """Return the published accuracies, in [0, 1], of those of the tasks that have one."""
        pairs = zip(self.table.tasks, self.row.accuracy, strict=True)
        return {task: figure / 100 for task, figure in pairs if task in tasks and figure is not None}

    def average(self, tasks: Collection[str]) -> float | None:
        """Return the published macro average over exactly these tasks, in [0, 1]; None: a figure is missing."""
        if self.row.average is not None and set(tasks) == set(self.table.tasks):
            return self.row.average / 100
        figures = self.list_figures(tasks)
        return sum(figures.values()) / len(figures) if figures and len(figures) == len(set(tasks)) else None


@dataclass(frozen=True)
class RowReference:
    """A row of a publication under its name; the publication may print it in several tables.

    Attributes:
        name: CARD/MODEL/METHOD, or CARD/MODEL for a model without an adapter.
        rows: the row in each of these tables.
    """

    name: str
    rows: Sequence[TableRow]


def find_nearest_table(
    tables: Sequence[PublishedTable], tasks: Collection[str], *, training_set: str
) -> PublishedTable | None:
    """Return the table of a training set with most of some tasks, and fewest others if several have; None: none has any."""
    chosen = [
        table for table in tables if table.training_set == training_set and set(tasks) & set(table.tasks)
    ]
    return max(
        chosen, key=lambda table: (len(set(tasks) & set(table.tasks)), -len(table.tasks)), default=None
    )


def find_nearest_row(
    reference: RowReference, tasks: Collection[str], *, training_set: str | None
) -> TableRow | None:
    """Return a reference's row of the table that is nearest to some tasks; None: no table can stand beside them.

    Args:
        reference: the row under its name.
        tasks: those of a run or an arm.
        training_set: what the adapters of the run or arm were trained on; None: nothing, so that any table will do.
    """
    chosen = [
        row
        for row in reference.rows
        if set(tasks) & set(row.table.tasks)
        and (not row.is_trained or training_set in (None, row.table.training_set))
    ]
    return max(
        chosen,
        key=lambda row: (
            row.table.training_set == training_set,
            len(set(tasks) & set(row.table.tasks)),
            -len(row.table.tasks),
        ),
        default=None,
    )


def list_row_references(study: "Study") -> dict[str, RowReference]:
    """Return every row of a study's publications by name: of the card that it compares with, and of its follow-ups."""
    rows: dict[str, list[TableRow]] = {}
    for card in list_publications(study):
        published: Published = read_card("published", card)
        for table in (*published.tables, *map(_as_table, published.figures)):
            for row in table.rows:
                rows.setdefault(name_row(card, row), []).append(TableRow(published, table, row))
    return {name: RowReference(name, same) for name, same in rows.items()}


def list_publications(study: "Study") -> list[str]:
    """Return the cards of published figures that a study names, each once."""
    names = [study.card.published] if study.card.published else []
    return list(dict.fromkeys((*names, *study.card.followups)))


def has_references(study: "Study") -> bool:
    """Whether a study names answers made elsewhere or publications."""
    return bool(study.card.references or list_publications(study))


def name_row(card: str, row: PublishedRow) -> str:
    """Return the name of a row of a card, as `compare` takes it."""
    return f"{card}/{row.model}" if row.is_bare else f"{card}/{row.model}/{row.title}"


def _as_table(figure: PublishedFigure) -> PublishedTable:
    """Return a figure as a table whose rows have averages alone."""
    rows = [
        PublishedRow(
            model=point.model,
            method=point.method,
            label=f"{point.method}, {figure.field} {point.setting}",
            accuracy=[None] * len(figure.tasks),
            average=point.average,
            measurement=point.measurement,
            source=point.source,
        )
        for point in figure.points
    ]
    common = figure.model_dump(include={"name", "training_set", "source", "measurement", "notes", "tasks"})
    return PublishedTable(rows=rows, **common)


def list_shown_rows(study: "Study") -> list[RowReference]:
    """Return the rows that stand beside a study's runs: those that a run repeats, points of its models, and bare models."""
    repeated = set()
    for card in list_publications(study):
        published: Published = read_card("published", card)
        for match in match_rows(study, published):
            repeated.add(name_row(card, published.tables[match.table].rows[match.row]))
    return [
        reference
        for name, reference in list_row_references(study).items()
        if name in repeated or any(_stands_alone(study, row) for row in reference.rows)
    ]


def _stands_alone(study: "Study", row: TableRow) -> bool:
    """Whether a row is shown although no run repeats it: a model without an adapter, or a point of the study's figure."""
    if row.row.is_bare:
        return True
    is_point = any(row.table.name == figure.name for figure in row.published.figures)
    return is_point and study.card.figure is not None and row.row.model in study.card.models


def list_arms_beside(study: "Study", reference: RowReference) -> Iterator[tuple[Arm, TableRow]]:
    """Yield each arm beside whose runs a reference stands, with its row of the nearest table."""
    for arm in study.card.arms:
        row = find_nearest_row(reference, arm.tasks, training_set=arm.training_set or None)
        if row:
            yield arm, row
