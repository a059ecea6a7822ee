"""The cards of protocols: how a model is asked, and how what it says is judged."""

from typing import Any, Literal, TypedDict

from pydantic import Field, model_validator

from pipeline.params.base import AnswerForm, Strict, Template
from pipeline.params.templates import CHAT


class Decoding(TypedDict, total=False):
    """How answers are generated: it is part of their fingerprint, so an option that is not used is left out."""

    template: str
    num_beams: int
    max_new_tokens: int
    # of a likelihood protocol, instead of num_beams and max_new_tokens
    continuation: str
    # "unmasked" comes with batch_size
    padding: Literal["masked", "unmasked"]
    batch_size: int
    # padded tokens of a batch, new ones included, if not to be the default; changes no answer
    batch_tokens: int
    # "float32" where missing
    dtype: str
    merge_adapter: bool


class Protocol(Strict):
    """How a model is asked, and how what it says is judged: its text by a parser, or its likelihood of each choice."""

    name: str
    version: int = Field(gt=0)
    template: Template
    parser: Literal["paper", "strict", "likelihood"]
    num_beams: int = Field(1, gt=0)
    max_new_tokens: dict[AnswerForm, int] = Field(default_factory=dict)
    continuation: dict[AnswerForm, str] = Field(
        default_factory=dict,
        description="of parser likelihood: what is scored for a choice, made of {label} and {text} (the option's words)",
    )
    headline: Literal["raw", "normalised"] = Field(
        "raw", description="which accuracy of parser likelihood the tables show; the score file has both"
    )
    padding: Literal["masked", "unmasked"] = Field(
        "masked", description="unmasked: on the left and attended to, the published fault"
    )
    batch_size: int | None = Field(
        None, gt=0, description="examples a batch, in the data's order; null: by length and memory"
    )
    shots: int = Field(0, ge=0, description="worked examples ahead of the question")
    shots_split: str = Field("train", description="of the task's dataset, from which they are drawn")
    shots_seed: int = Field(0, description="of that draw, which each question has its own of")
    comparison_only: bool = Field(
        False, description="shows what a fault costs: in no headline table that a study does not name it for"
    )
    changelog: list[str] | dict[Any, str] = Field(default_factory=list)
    source: str = ""
    notes: str = ""

    @property
    def forms(self) -> tuple[AnswerForm, ...]:
        """The answer forms that are asked under this protocol."""
        return tuple(self.continuation or self.max_new_tokens)

    def decoding(self, form: AnswerForm, *, max_new_tokens: int | None) -> Decoding:
        """Return what enters the answers' fingerprint of how they are made: an option that is not used does not.

        Args:
            form: of the task's answers.
            max_new_tokens: instead of the card's own; None: the card's.
        """
        if self.continuation:
            return {"template": self.template, "continuation": self.continuation[form]}
        tokens = max_new_tokens or self.max_new_tokens[form]
        decoding: Decoding = {
            "num_beams": self.num_beams,
            "max_new_tokens": tokens,
            "template": self.template,
        }
        if self.padding == "unmasked" and self.batch_size is not None:
            decoding |= {"padding": self.padding, "batch_size": self.batch_size}
        return decoding

    @model_validator(mode="after")
    def _one_way_of_asking(self) -> "Protocol":
        likelihood = self.parser == "likelihood"
        if bool(self.continuation) != likelihood or bool(self.max_new_tokens) == likelihood:
            raise ValueError("parser likelihood has continuation, any other max_new_tokens; not both")
        if self.shots and self.template == CHAT:
            raise ValueError(f"shots: not with the template '{CHAT}', whose prompt is one question")
        bare = next((form for form, text in self.continuation.items() if not _names_a_choice(text)), None)
        if bare:
            raise ValueError(f"continuation.{bare}: must hold {{label}} or {{text}}, and no other braces")
        if self.padding == "unmasked" and (likelihood or self.batch_size is None):
            raise ValueError(
                "padding unmasked needs a batch_size, and text to judge: each batch has its own padding"
            )
        if self.padding == "masked" and self.batch_size is not None:
            raise ValueError(
                "batch_size: no part of a protocol whose padding is masked, since it changes no answer"
            )
        return self


def _names_a_choice(text: str) -> bool:
    rest = text.replace("{label}", "").replace("{text}", "")
    return rest != text and not set("{}") & set(rest)
