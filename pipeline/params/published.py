"""Cards of published figures, which the report of a study compares with its own."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.params.base import Strict

Percent = Annotated[float, Field(ge=0, le=100)]
MEASUREMENT = "a key of the card's measurements"


class Measurement(Strict):
    """How figures came about. What their source does not say is written down as not stated."""

    measured_by: str = Field(description="who measured, in which publication")
    prompting: str = Field(description="how the model was trained for the tasks, if at all, and prompted")
    parsing: str = Field(description="how its answers were read")
    protocol: str | None = Field(
        None, description="the card of params/protocols/ that follows this procedure; null: none does"
    )


class PublishedRow(Strict):
    """The published figures of a method on a model."""

    model: str = Field(description="a card of params/models/; any other name is shown without a comparison")
    method: str | None = Field(None, description="a card of params/methods/; null: no adapter")
    accuracy: list[Percent | None] = Field(
        description="in percent, in the order of the table's tasks; null: not published"
    )
    average: Percent | None = Field(None, description="in percent, as published: the mean over tasks")
    measurement: str | None = Field(None, description=f"{MEASUREMENT}; null: that of the table")


class PublishedTable(Strict):
    """A published table: rows of one training set on the same tasks."""

    name: str = Field(description="of the table")
    training_set: str = Field(description="a card of params/datasets/")
    source: str = Field(description="place in the publication")
    measurement: str = Field(description=f"{MEASUREMENT}, of the rows that name none")
    notes: str = ""
    tasks: list[str] = Field(min_length=1, description="cards of params/datasets/")
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_rows(self) -> "PublishedTable":
        for row in self.rows:
            if len(row.accuracy) != len(self.tasks):
                name = " ".join(filter(None, (row.model, row.method)))
                raise ValueError(f"{name}: needs {len(self.tasks)} accuracies, of which some may be null")
        return self


class PublishedPoint(Strict):
    """A point of a published figure."""

    model: str = Field(description="a card of params/models/")
    method: str = Field(description="a card of params/methods/: the line that the point is on")
    setting: int | float | str = Field(description="position on the axis, as the study's figure has it")
    average: Percent = Field(description="in percent: the mean over the figure's tasks")
    source: str = Field(description="where the number is printed")
    measurement: str | None = Field(None, description=f"{MEASUREMENT}; null: that of the figure")


class PublishedFigure(Strict):
    """A published figure: the average accuracy over tasks against a setting of the methods."""

    name: str = Field(description="of the figure")
    training_set: str = Field(description="a card of params/datasets/")
    source: str = Field(description="place in the publication")
    measurement: str = Field(description=f"{MEASUREMENT}, of the points that name none")
    notes: str = ""
    tasks: list[str] = Field(min_length=1, description="cards of params/datasets/")
    field: str = Field(description="the setting: a key of figure.x in the study")
    points: list[PublishedPoint] = Field(min_length=1)


class Published(Strict):
    """The tables and figures of one publication."""

    title: str
    measurements: dict[str, Measurement] = Field(
        min_length=1, description="name -> how the figures were measured"
    )
    tables: list[PublishedTable] = Field(default_factory=list)
    figures: list[PublishedFigure] = Field(default_factory=list)

    @property
    def parts(self) -> Sequence[PublishedTable | PublishedFigure]:
        """The tables, then the figures."""
        return [*self.tables, *self.figures]

    @model_validator(mode="after")
    def _check_parts(self) -> "Published":
        if not self.parts:
            raise ValueError("needs tables or figures")
        for part in self.parts:
            for name in _list_measurements(part):
                if name not in self.measurements:
                    choices = ", ".join(self.measurements)
                    raise ValueError(f"{part.name}: measurement: no '{name}' (choices: {choices})")
        return self


def _list_measurements(part: PublishedTable | PublishedFigure) -> Iterator[str]:
    yield part.measurement
    entries = part.rows if isinstance(part, PublishedTable) else part.points
    yield from (entry.measurement for entry in entries if entry.measurement)
