"""Cards of methods: what params/methods/NAME.yaml may contain for a bottleneck adapter, a peft method, full fine-tuning or a combination."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.core.errors import list_choices
from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from pipeline.params.base import Strict, TrainingOverlay

# module names: for all architectures, or by architecture
Targets = str | list[str] | dict[str, list[str] | str] | None


class Bottleneck(Strict):
    """A bottleneck adapter (pipeline.adapters.BottleneckConfig explains each field)."""

    name: str = Field(description="as it appears in tables")
    kind: Literal["bottleneck"]
    placement: str | dict[str, str | dict[str, str]] = Field(
        description="before, after or parallel: for all modules, by module, or by architecture and module"
    )
    target_modules: Targets = Field(
        None, description="null: the modules of placement, else those of the published code"
    )
    bottleneck_size: int = Field(256, gt=0, le=65536, description="width of the adapter, in hidden units")
    non_linearity: str = Field("tanh", description="name of an activation of transformers")
    adapter_dropout: float = Field(0.0, ge=0, lt=1)
    scaling: float | Literal["learned"] = Field(1.0, description="factor of the adapter's output")
    init_weights: Literal["normal", "zero_up", "mam"] = Field(
        "normal", description="zero_up: a new adapter changes nothing"
    )
    exclude_modules: str | list[str] | None = Field(None, description="target modules to leave out")
    layers_to_transform: list[int] | int | None = Field(
        None, description="numbers of the layers to adapt; null: all"
    )
    modules_to_save: list[str] | None = Field(
        None, description="other modules to train and save, such as lm_head"
    )
    bias: Literal["all", "bottleneck_only"] | None = Field(
        None, description="biases of the base to train too; null: none"
    )
    training: TrainingOverlay = Field(default_factory=TrainingOverlay, description="for this method")
    source: str = Field(description="publication or code that the settings are from")

    @model_serializer(mode="wrap")
    def _dump_without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # these fields were added later: where they are unused they are left out, so that no earlier fingerprint changes
        added = ("exclude_modules", "layers_to_transform", "modules_to_save", "bias")
        return {key: value for key, value in dump(self).items() if key not in added or value is not None}


class Full(Strict):
    """Full fine-tuning: all weights of the base are trained, and the whole model is saved."""

    name: str = Field(description="as it appears in tables")
    kind: Literal["full"]
    training: TrainingOverlay = Field(default_factory=TrainingOverlay, description="for this method")
    source: str = Field(description="publication or code that the settings are from")


class Peft(BaseModel):
    """A method of the installed peft: its ``peft_type``, and the fields of its config under their own names."""

    # the fields of the peft config
    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="as it appears in tables")
    kind: Literal["peft"]
    peft_type: str = Field(
        description=f"a member of peft's PeftType; not supported: {', '.join(UNSUPPORTED_PEFT_TYPES)}"
    )
    training: TrainingOverlay = Field(default_factory=TrainingOverlay, description="for this method")
    source: str = Field(description="publication or code that the settings are from")

    @model_validator(mode="after")
    def _check_fields(self) -> "Peft":
        if self.peft_type not in PEFT_TYPES:
            raise ValueError(
                f"unknown peft_type '{self.peft_type}' {list_choices(self.peft_type, PEFT_TYPES)}"
            )
        fields = PEFT_FIELDS.get(self.peft_type)
        if fields is not None:
            # Only a check: peft and the fingerprint get what the card sets, without the defaults of these types.
            fields.model_validate(self.model_extra or {})
        return self


class _ModuleFields(Strict):
    """The fields that methods on linear modules share."""

    target_modules: Targets = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None


class EvaFields(Strict):
    """The fields of peft.EvaConfig that a card may set."""

    rho: float = Field(2.0, ge=1, description="the rank of a module is at most this many times r")
    tau: float = Field(0.99, ge=0, le=1, description="cosine at which a direction counts as settled")
    use_label_mask: bool = Field(True, description="read only the tokens that count in the loss")
    whiten: bool = False
    adjust_scaling_factors: bool = Field(
        True, description="keep lora_alpha / r if the rank of a module changes"
    )


class CordaFields(Strict):
    """The fields of peft.CordaConfig that a card may set."""

    corda_method: Literal["ipm", "kpm"] = Field(
        "ipm",
        description="ipm takes the part of the base that matters most to the examples, kpm the part that matters least",
    )
    use_float16_for_covariance: bool = False


class LoraGaFields(Strict):
    """The fields of peft.LoraGAConfig that a card may set."""

    direction: Literal["ArBr", "A2rBr", "ArB2r", "random"] = "ArB2r"
    scale: Literal["stable", "weight_svd", "gd_scale", "unit"] = "stable"
    stable_gamma: int = Field(16, gt=0)


class LoraFields(_ModuleFields):
    """The fields of peft.LoraConfig that a card may set."""

    r: int = Field(8, gt=0, le=65536)
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    init_batches: int | None = Field(
        None,
        gt=0,
        description="number of training batches that eva, corda or lora_ga read before the first step",
    )
    eva_config: EvaFields | None = None
    corda_config: CordaFields | None = None
    lora_ga_config: LoraGaFields | None = None
    layers_to_transform: list[int] | int | None = None
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)


class AdaLoraFields(_ModuleFields):
    """The fields of peft.AdaLoraConfig that a card may set; lengths of the schedule are in optimizer steps."""

    init_r: int = Field(12, gt=0, le=65536, description="rank of each module at the start")
    target_r: int = Field(8, gt=0, description="mean rank of the modules at the end")
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    tinit: int | None = Field(
        None, ge=0, description="steps before the first allocation; null: a tenth of the training"
    )
    tfinal: int | None = Field(
        None, ge=0, description="steps after the last allocation; null: half of the training"
    )
    total_step: int | None = Field(None, gt=0, description="null: the steps of the training")
    deltaT: int = Field(1, gt=0, description="steps between two allocations")
    beta1: float = Field(0.85, gt=0, lt=1)
    beta2: float = Field(0.85, gt=0, lt=1)
    orth_reg_weight: float = Field(0.5, ge=0)
    layers_to_transform: list[int] | int | None = None

    @model_validator(mode="after")
    def _check_ranks(self) -> "AdaLoraFields":
        if self.target_r >= self.init_r:
            raise ValueError(f"target_r: {self.target_r} must be below init_r, {self.init_r}")
        return self


class Ia3Fields(_ModuleFields):
    """The fields of peft.IA3Config that a card may set."""

    feedforward_modules: Targets = None
    init_ia3_weights: bool = True


class VeraFields(Strict):
    """The fields of peft.VeraConfig that a card may set."""

    target_modules: Targets = None
    modules_to_save: list[str] | None = None

    r: int = Field(256, gt=0, le=65536)
    d_initial: float = 0.1
    vera_dropout: float = Field(0.0, ge=0, lt=1)
    projection_prng_key: int | None = Field(None, ge=0, description="null: the run's seed")
    save_projection: bool = True
    bias: Literal["none", "all", "vera_only"] = "none"
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None


class OftFields(_ModuleFields):
    """The fields of peft.OFTConfig that a card may set."""

    r: int = Field(0, ge=0, description="number of blocks of a module; 0: follows from oft_block_size")
    oft_block_size: int = Field(32, ge=0, description="inputs that a block rotates")
    module_dropout: float = Field(0.0, ge=0, lt=1)
    coft: bool = False
    eps: float = Field(6e-5, gt=0)
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = Field(5, gt=0)
    bias: Literal["none", "all", "oft_only"] = "none"
    layers_to_transform: list[int] | int | None = None


class _VirtualTokenFields(Strict):
    """The field that all soft prompts share."""

    num_virtual_tokens: int = Field(gt=0, le=4096)


class PrefixFields(_VirtualTokenFields):
    """The fields of peft.PrefixTuningConfig that a card may set."""

    prefix_projection: bool = False
    encoder_hidden_size: int | None = Field(None, gt=0)


class PromptFields(_VirtualTokenFields):
    """The fields of peft.PromptTuningConfig that a card may set."""

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "RANDOM"
    prompt_tuning_init_text: str | None = None


class PTuningFields(_VirtualTokenFields):
    """The fields of peft.PromptEncoderConfig that a card may set."""

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: int | None = Field(None, gt=0)
    encoder_num_layers: int = Field(2, gt=0)
    encoder_dropout: float = Field(0.0, ge=0, lt=1)


class CartridgeFields(_VirtualTokenFields):
    """The fields of peft.CartridgeConfig that a card may set."""

    num_frozen_tokens: int = Field(1, ge=0)


class AdaptionFields(Strict):
    """The fields of peft.AdaptionPromptConfig that a card may set."""

    adapter_len: int = Field(gt=0)
    adapter_layers: int = Field(gt=0, description="number of layers to adapt, counted from the top")
    target_modules: str | None = None


class TokenFields(Strict):
    """The fields of peft.TrainableTokensConfig that a card may set."""

    token_indices: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    target_modules: Targets = None
    init_weights: bool = True


# Two kinds of method have their fields checked before the DAG is built: those with a card here, and those that peft
# would create without a field that they need. For all others peft checks the fields when the adapter is created.
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

# How peft's add_weighted_adapter combines LoRA adapters (a test compares the names with peft's), and how we combine bottleneck
# adapters.
LORA_COMBINATIONS = (
    *("cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd"),
    *("dare_ties", "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd"),
)
BOTTLENECK_COMBINATIONS = ("sum", "stack")


class Member(Strict):
    """An adapter of a combination: the one that the study trains with a method on the training set of an arm."""

    method: str = Field(description="a method of the study, by its label if it has one")
    arm: str = Field(description="an arm of the study")


class Combined(Strict):
    """Several trained adapters of one base as one adapter (docs/combining.md); nothing is trained."""

    name: str = Field(description="as it appears in tables")
    kind: Literal["combined"]
    members: list[Member] | None = Field(
        None, min_length=2, description="the adapters, with the seed of the combination; a study sets them"
    )
    combination_type: str = Field(
        description=f"of LoRA, as in peft: {', '.join(LORA_COMBINATIONS)}; of bottleneck adapters: "
        f"{', '.join(BOTTLENECK_COMBINATIONS)}"
    )
    weights: list[float] | None = Field(
        None, description="factor of each member's change to the model; null: 1 for each"
    )
    density: float | None = Field(
        None, gt=0, lt=1, description="share of the values that ties, dare and magnitude_prune keep"
    )
    majority_sign_method: Literal["total", "frequency"] | None = Field(
        None, description="how ties chooses the sign of a value; null: total"
    )
    svd_rank: int | None = Field(
        None, gt=0, le=65536, description="rank that svd leaves; null: the largest rank of a member"
    )
    source: str = Field(description="publication or code that the settings are from")

    @field_validator("combination_type")
    @classmethod
    def _check_type(cls, name: str) -> str:
        choices = (*LORA_COMBINATIONS, *BOTTLENECK_COMBINATIONS)
        if name not in choices:
            raise ValueError(f"unknown combination_type {list_choices(name, choices)}")
        return name

    @model_validator(mode="after")
    def _check_settings(self) -> "Combined":
        if self.members and self.weights and len(self.members) != len(self.weights):
            raise ValueError(
                f"weights: {len(self.weights)} for {len(self.members)} members; give each member one weight"
            )
        kind, is_svd = self.combination_type, self.combination_type.endswith("svd")
        if prunes(kind) and self.density is None:
            raise ValueError(f"density: missing; combination_type {kind} keeps that share of the values")
        users = {
            "density": (self.density, prunes(kind), "ties, dare_* or magnitude_prune"),
            "majority_sign_method": (self.majority_sign_method, "ties" in kind, "ties"),
            "svd_rank": (self.svd_rank, is_svd, "svd"),
        }
        for field, (value, is_used, user) in users.items():
            if value is not None and not is_used:
                raise ValueError(
                    f"{field}: combination_type {kind} does not use it, only {user} does; leave it out"
                )
        return self


def prunes(combination_type: str) -> bool:
    """Return whether a way to combine adapters drops values of their weights."""
    return combination_type.startswith(("ties", "dare", "magnitude_prune"))


Method = Annotated[Bottleneck | Peft | Full | Combined, Field(discriminator="kind")]
