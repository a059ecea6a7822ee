"""The cards of published figures, which a study's report sets beside its own."""

from pydantic import Field, model_validator

from pipeline.params.base import Strict


class PublishedRow(Strict):
    """What was published of one method on one model."""

    model: str = Field(
        description="a card of params/models/; else its own name, and no run is set against it"
    )
    method: str | None = Field(None, description="a card of params/methods/; null: no adapter")
    accuracy: list[float] = Field(description="percent, in the order of the table's tasks")
    average: float | None = Field(None, ge=0, le=100, description="percent, as published: each task the same")


class PublishedTable(Strict):
    """One published table: rows of one training set on the same tasks."""

    name: str
    training_set: str = Field(description="a card of params/datasets/")
    source: str
    notes: str = ""
    tasks: list[str] = Field(min_length=1, description="cards of params/datasets/")
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole_rows(self) -> "PublishedTable":
        for row in self.rows:
            if len(row.accuracy) != len(self.tasks) or not all(0 <= one <= 100 for one in row.accuracy):
                name = " ".join(filter(None, (row.model, row.method)))
                raise ValueError(f"{name}: needs {len(self.tasks)} accuracies from 0 to 100")
        return self


class Published(Strict):
    """The tables of one publication."""

    title: str
    tables: list[PublishedTable] = Field(min_length=1)
