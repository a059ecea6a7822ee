"""What several kinds of card share."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipeline.params.templates import NAMES

UNKNOWN_KEY = "unknown_key"  # the type of the error that refuse_unknown_keys raises


def refuse_unknown_keys(data: Mapping[Any, Any], choices: Iterable[str]) -> None:
    """Refuse the keys of ``data`` that are not among the choices, as an error of each key that lists the choices.

    Raises:
        ValidationError: pydantic places it under the field that is being validated.
    """
    choices = list(choices)
    error = PydanticCustomError(
        UNKNOWN_KEY, "unknown key (choices: {choices})", {"choices": ", ".join(choices)}
    )
    errors = [
        InitErrorDetails(type=error, loc=(key,), input=value)
        for key, value in data.items()
        if key not in choices
    ]
    if errors:
        raise ValidationError.from_exception_data("card", errors)


class Strict(BaseModel):
    """A frozen section of a card; it refuses unknown keys with a list of the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        # pydantic's own error for an extra key does not list the choices
        if isinstance(data, dict):
            refuse_unknown_keys(data, cls.model_fields)
        return data


def _known_template(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"unknown template (choices: {', '.join(NAMES)})")
    return name


Template = Annotated[str, AfterValidator(_known_template)]


AnswerForm = Literal["number", "letter", "boolean", "solution", "answer", "ending", "option", "mixed", "text"]
