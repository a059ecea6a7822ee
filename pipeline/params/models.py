"""The cards of models: a base of the Hugging Face hub, or one that a study pretrains itself."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.params.base import Strict
from pipeline.params.recipes import PretrainingRecipe
from pipeline.params.templates import CHAT


class Tokens(Strict):
    """Which special tokens frame an example; pipeline.models.special_tokens.set_special_tokens applies the rules.

    A value is one of the words of its description, or a token of the model's vocabulary.
    """

    bos: str = Field(
        "tokenizer",
        min_length=1,
        description="ahead of a prompt: tokenizer (its own, if it puts it there by itself), none, or a token",
    )
    eos: str = Field(
        "tokenizer",
        min_length=1,
        description="ends a response and generation: tokenizer (its own), or a token",
    )
    pad: str = Field(
        "tokenizer",
        min_length=1,
        description="tokenizer (its own; if it has none unk, else eos), unk, eos, or a token; always masked",
    )

    @model_validator(mode="after")
    def _needed(self) -> "Tokens":
        for name in ("eos", "pad"):
            if getattr(self, name) == "none":
                raise ValueError(f"{name}: there must be one; name it, or leave it to the tokenizer")
        return self


class HubModel(Strict):
    """A base model of the Hugging Face hub."""

    name: str
    kind: Literal["hub"] = "hub"
    repo_id: str
    revision: str | None = Field(
        description="commit; null: the first download records it in params/lock.yaml"
    )
    architecture: str
    licence: str
    gated: bool = False
    tokens: Tokens = Tokens()
    source: str
    notes: str = ""


class PretrainedModel(PretrainingRecipe):
    """A tiny base that the study pretrains itself."""

    name: str
    kind: Literal["pretrained"]
    corpus: list[str] = Field(
        default_factory=list, description="training sets whose texts it reads; empty: the built-in world"
    )
    source: str

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as it enters the fingerprint: the keys that the card sets, and no defaults."""
        return self.model_dump(include=set(PretrainingRecipe.model_fields), exclude_unset=True)

    @model_validator(mode="after")
    def _check_texts(self) -> "PretrainedModel":
        if self.tokenizer.kind == "bpe" and not self.corpus:
            raise ValueError("corpus: a 'bpe' tokenizer is trained on it; list training sets")
        if not self.corpus and self.pretraining.world_seed is None:
            raise ValueError("pretraining.world_seed: missing (needed without a corpus)")
        return self


Model = Annotated[HubModel | PretrainedModel, Field(discriminator="kind")]


def check_chat_template(models: Mapping[str, Any], templates: Mapping[str, str], *, where: str) -> None:
    """Refuse the models' own chat template for a base that the study pretrains: its tokenizer, made here, has none.

    Args:
        models: name -> card.
        templates: what uses a template -> the template's name.
        where: the study's file.

    Raises:
        UserError: naming the model and what uses the template.
    """
    used = [what for what, template in templates.items() if template == CHAT]
    made = [name for name, card in models.items() if card.kind == "pretrained"]
    if used and made:
        raise UserError(
            f"{where}: {used[0]} has the template '{CHAT}', but '{made[0]}' is pretrained by the study and has no chat "
            "template; use another template, or a model of the hub that has one"
        )
