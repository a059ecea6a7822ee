"""Cards of published figures, which the report of a study compares with its own."""

from pydantic import Field, model_validator

from pipeline.params.base import Strict


class PublishedRow(Strict):
    """The published figures of a method on a model."""

    model: str = Field(description="a card of params/models/; any other name is shown without a comparison")
    method: str | None = Field(None, description="a card of params/methods/; null: no adapter")
    accuracy: list[float] = Field(description="in percent, in the order of the table's tasks")
    average: float | None = Field(
        None, ge=0, le=100, description="in percent, as published: the mean over tasks"
    )


class PublishedTable(Strict):
    """A published table: rows of one training set on the same tasks."""

    name: str = Field(description="of the table")
    training_set: str = Field(description="a card of params/datasets/")
    source: str = Field(description="place in the publication")
    notes: str = ""
    tasks: list[str] = Field(min_length=1, description="cards of params/datasets/")
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_rows(self) -> "PublishedTable":
        for row in self.rows:
            if len(row.accuracy) != len(self.tasks) or not all(0 <= value <= 100 for value in row.accuracy):
                name = " ".join(filter(None, (row.model, row.method)))
                raise ValueError(f"{name}: needs {len(self.tasks)} accuracies from 0 to 100")
        return self


class Published(Strict):
    """The tables of one publication."""

    title: str
    tables: list[PublishedTable] = Field(min_length=1)
