"""Typed method cards: what params/methods/*.yaml may say of a bottleneck adapter, a method of peft, or full fine-tuning."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.params.architectures import NOT_BY_STAGES, PEFT_TYPES
from pipeline.params.base import Strict

Targets = str | list[str] | dict[str, list[str] | str] | None


class Bottleneck(Strict):
    """A bottleneck adapter (pipeline.adapters.BottleneckConfig has the meaning of each field)."""

    name: str = Field(description="as tables have it")
    kind: Literal["bottleneck"]
    placement: str | dict[str, str | dict[str, str]] = Field(
        description="before, after or parallel; by architecture"
    )
    target_modules: Targets = None
    bottleneck_size: int = Field(256, gt=0, le=65536, description="width of the detour, in hidden units")
    non_linearity: str = "tanh"
    adapter_dropout: float = Field(0.0, ge=0, lt=1)
    scaling: float | Literal["learned"] = 1.0
    init_weights: Literal["normal", "zero_up", "mam"] = "normal"
    exclude_modules: str | list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None
    bias: Literal["all", "bottleneck_only"] | None = Field(
        None, description="base biases to train too; null: none"
    )
    training: dict[str, Any] = Field(default_factory=dict, description="what differs from the defaults")
    source: str

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the fields that came later where they are not used, so that no earlier result gets a new name."""
        later = ("exclude_modules", "layers_to_transform", "modules_to_save", "bias")
        return {key: value for key, value in dump(self).items() if key not in later or value is not None}


class Full(Strict):
    """Full fine-tuning: every weight of the base is trained, and the whole model is saved."""

    name: str
    kind: Literal["full"]
    training: dict[str, Any] = Field(default_factory=dict)
    source: str


class Peft(BaseModel):
    """Any method of the installed peft: its ``peft_type`` and its config's fields under their own names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    kind: Literal["peft"]
    peft_type: str = Field(
        description=f"of peft's enum of methods; not {', '.join(NOT_BY_STAGES)}, as the check says why"
    )
    training: dict[str, Any] = Field(default_factory=dict)
    source: str

    @model_validator(mode="after")
    def _known_fields(self) -> "Peft":
        if self.peft_type not in PEFT_TYPES:
            raise ValueError(f"unknown peft_type '{self.peft_type}' (choices: {', '.join(PEFT_TYPES)})")
        fields = PEFT_FIELDS.get(self.peft_type)
        if fields is not None:
            fields.model_validate(self.model_extra or {})
        return self


class _OnModules(Strict):
    """The fields that the methods on linear modules share."""

    target_modules: Targets = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None


class LoraFields(_OnModules):
    """The fields of peft.LoraConfig that a card may set."""

    r: int = Field(8, gt=0, le=65536)
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    layers_to_transform: list[int] | int | None = None
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)


class AdaLoraFields(_OnModules):
    """The fields of peft.AdaLoraConfig; the schedule's lengths are in optimizer steps."""

    init_r: int = Field(12, gt=0, le=65536, description="ranks of a module at the start")
    target_r: int = Field(8, gt=0, description="mean ranks of a module at the end")
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    tinit: int | None = Field(None, ge=0, description="before the first allocation; null: a tenth of all")
    tfinal: int | None = Field(None, ge=0, description="after the last allocation; null: half of all")
    total_step: int | None = Field(None, gt=0, description="null: those of the training")
    deltaT: int = Field(1, gt=0, description="between two allocations")
    beta1: float = Field(0.85, gt=0, lt=1)
    beta2: float = Field(0.85, gt=0, lt=1)
    orth_reg_weight: float = Field(0.5, ge=0)
    layers_to_transform: list[int] | int | None = None

    @model_validator(mode="after")
    def _something_to_prune(self) -> "AdaLoraFields":
        if self.target_r >= self.init_r:
            raise ValueError(f"target_r: {self.target_r} must be below init_r, {self.init_r}")
        return self


class Ia3Fields(_OnModules):
    """The fields of peft.IA3Config that a card may set."""

    feedforward_modules: Targets = None
    init_ia3_weights: bool = True


class VeraFields(_OnModules):
    """The fields of peft.VeraConfig that a card may set."""

    r: int = Field(256, gt=0, le=65536)
    d_initial: float = 0.1
    vera_dropout: float = Field(0.0, ge=0, lt=1)
    projection_prng_key: int | None = Field(None, ge=0, description="null: the run's seed")
    save_projection: bool = True
    bias: Literal["none", "all", "vera_only"] = "none"
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None


class OftFields(_OnModules):
    """The fields of peft.OFTConfig that a card may set."""

    r: int = Field(0, ge=0, description="blocks of a module; 0: as oft_block_size says")
    oft_block_size: int = Field(32, ge=0, description="inputs that one block rotates")
    module_dropout: float = Field(0.0, ge=0, lt=1)
    coft: bool = False
    eps: float = Field(6e-5, gt=0)
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = Field(5, gt=0)
    bias: Literal["none", "all", "oft_only"] = "none"
    layers_to_transform: list[int] | int | None = None


class _Virtual(Strict):
    """The field that all soft prompts share."""

    num_virtual_tokens: int = Field(gt=0, le=4096)


class PrefixFields(_Virtual):
    """The fields of peft.PrefixTuningConfig."""

    prefix_projection: bool = False
    encoder_hidden_size: int | None = Field(None, gt=0)


class PromptFields(_Virtual):
    """The fields of peft.PromptTuningConfig that a card may set."""

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "RANDOM"
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: str | None = None


class PTuningFields(_Virtual):
    """The fields of peft.PromptEncoderConfig that a card may set."""

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: int | None = Field(None, gt=0)
    encoder_num_layers: int = Field(2, gt=0)
    encoder_dropout: float = Field(0.0, ge=0, lt=1)


class CartridgeFields(_Virtual):
    """The fields of peft.CartridgeConfig that a card may set."""

    num_frozen_tokens: int = Field(1, ge=0)


class AdaptionFields(Strict):
    """The fields of peft.AdaptionPromptConfig."""

    adapter_len: int = Field(gt=0)
    adapter_layers: int = Field(gt=0, description="counted from the top")
    target_modules: str | None = None


class TokenFields(Strict):
    """The fields of peft.TrainableTokensConfig that a card may set."""

    token_indices: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    target_modules: Targets = None
    init_weights: bool = True


# The methods that have a card here, and those that peft makes without a field that they need, are held to their fields
# before the DAG is built; any other method's fields are checked by peft itself when the adapter is made.
PEFT_FIELDS: dict[str, type[Strict]] = {
    "LORA": LoraFields,
    "ADALORA": AdaLoraFields,
    "IA3": Ia3Fields,
    "VERA": VeraFields,
    "OFT": OftFields,
    "PREFIX_TUNING": PrefixFields,
    "PROMPT_TUNING": PromptFields,
    "P_TUNING": PTuningFields,
    "CARTRIDGE": CartridgeFields,
    "ADAPTION_PROMPT": AdaptionFields,
    "TRAINABLE_TOKENS": TokenFields,
}

Method = Annotated[Bottleneck | Peft | Full, Field(discriminator="kind")]
