"""What several kinds of card share."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
)

from pipeline.params.templates import NAMES


class Strict(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_template(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"unknown template (choices: {', '.join(NAMES)})")
    return name


Template = Annotated[str, AfterValidator(_known_template)]


AnswerForm = Literal["number", "letter", "boolean", "solution", "answer", "ending", "option", "mixed", "text"]
