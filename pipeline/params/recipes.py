"""The recipe of a base model that a study pretrains itself: its config, tokenizer and training."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from pipeline.params.architectures import CONFIG_FIELDS, LINEAR_MODULES, LOOK_BACK
from pipeline.params.base import Strict, refuse_unknown_keys

# An integer must stay an integer: 1 and 1.0 have different fingerprints, so the card's own number is kept.
Size = Annotated[int, Field(gt=0, strict=True)]
Number = int | float
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Dropout = Annotated[Number, Field(ge=0, lt=1)]


class ModelConfig(Strict):
    """The size and shape of a pretrained base: fields of the transformers config of its architecture.

    An architecture has some of these fields (pipeline.params.architectures.CONFIG_FIELDS). A field that the card leaves
    out has the default of transformers, which is that of a full-size model.
    """

    hidden_size: Size | None = Field(None, description="width of the hidden states")
    n_embd: Size | None = Field(None, description="hidden_size of gptj and gpt2")
    num_hidden_layers: Size | None = Field(None, description="number of layers")
    n_layer: Size | None = Field(None, description="num_hidden_layers of bloom, gptj and gpt2")
    num_layers: Size | None = Field(None, description="num_hidden_layers of gpt_neo")
    num_attention_heads: Size | None = Field(None, description="number of attention heads in a layer")
    n_head: Size | None = Field(None, description="num_attention_heads of bloom, gptj and gpt2")
    num_heads: Size | None = Field(None, description="num_attention_heads of gpt_neo")
    num_key_value_heads: Size | None = Field(None, description="fewer than heads: grouped-query attention")
    head_dim: Size | None = Field(None, description="width of an attention head")
    intermediate_size: Size | None = Field(None, description="width of the MLP")
    n_inner: Size | None = Field(None, description="intermediate_size of gptj and gpt2")
    ffn_dim: Size | None = Field(None, description="intermediate_size of opt")
    word_embed_proj_dim: Size | None = Field(None, description="width of the embeddings of opt")
    max_position_embeddings: Size | None = Field(None, description="longest input, in tokens")
    n_positions: Size | None = Field(None, description="max_position_embeddings of gptj and gpt2")
    rotary_dim: Size | None = Field(None, description="coordinates of a head that are rotated by position")
    rope_parameters: dict[str, int | float | str] | None = Field(
        None, description="rotary embeddings, such as {rope_type: default, rope_theta: 10000.0}"
    )
    attention_types: list[list[list[str] | int]] | None = Field(
        None, description="of gpt_neo: [[[global, local], 2]] alternates them over 4 layers"
    )
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = Field(
        None, description="the attention of each layer"
    )
    window_size: Size | None = Field(None, description="of gpt_neo: tokens that local attention sees")
    sliding_window: Size | None = Field(None, description="tokens that sliding attention sees")
    use_sliding_window: bool | None = None
    max_window_layers: Size | None = Field(None, description="layers with full attention")
    query_pre_attn_scalar: Positive | None = None
    hidden_act: str | None = Field(None, description="activation of the MLP")
    hidden_activation: str | None = Field(None, description="hidden_act of gemma3_text")
    activation_function: str | None = Field(None, description="hidden_act of gptj, gpt2, gpt_neo and opt")
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    enable_bias: bool | None = None
    attention_dropout: Dropout | None = None
    hidden_dropout: Dropout | None = None
    attn_pdrop: Dropout | None = Field(None, description="attention_dropout of gptj and gpt2")
    embd_pdrop: Dropout | None = Field(None, description="dropout of the embeddings of gptj, gpt2 and phi3")
    resid_pdrop: Dropout | None = Field(None, description="hidden_dropout of gptj, gpt2 and phi3")
    dropout: Dropout | None = Field(None, description="hidden_dropout of opt")
    embed_dropout: Dropout | None = Field(None, description="dropout of the embeddings of gpt_neo")
    resid_dropout: Dropout | None = Field(None, description="hidden_dropout of gpt_neo")
    rms_norm_eps: Positive | None = None
    layer_norm_eps: Positive | None = None
    layer_norm_epsilon: Positive | None = None
    initializer_range: Positive | None = Field(None, description="standard deviation of the initial weights")
    init_std: Positive | None = Field(None, description="initializer_range of opt")
    use_parallel_residual: bool | None = None
    do_layer_norm_before: bool | None = None
    tie_word_embeddings: bool | None = Field(
        None, description="whether the output layer shares the weights of the input embeddings"
    )


class WorldTokenizer(Strict):
    """The word tokenizer of the built-in world."""

    kind: Literal["world"]


class BpeTokenizer(Strict):
    """A byte-level BPE tokenizer that is trained on the corpus."""

    kind: Literal["bpe"]
    vocab_size: Size = Field(description="number of tokens, special tokens included")
    sample: Size = Field(20000, description="texts that it is trained on, drawn from the corpus")


class PretrainingSettings(Strict):
    """How a base is pretrained."""

    steps: Size = Field(description="optimizer steps")
    batch_tokens: Size = Field(description="tokens in a step")
    length: Size = Field(description="tokens in a row of a batch")
    learning_rate: Positive = Field(
        description="peak learning rate; after the warm-up it falls along a cosine"
    )
    warmup_steps: Size = Field(description="steps during which the learning rate rises to its peak")
    weight_decay: Annotated[Number, Field(ge=0)] = Field(
        description="weight decay of weight matrices; vectors have none"
    )
    seed: Annotated[int, Field(strict=True)] = Field(
        description="seed of the initial weights and of the drawn texts"
    )
    world_seed: Annotated[int, Field(strict=True)] | None = Field(
        None, description="seed of the built-in world; required without a corpus"
    )
    first_stage: Share = Field(0, description="share of the steps whose text is only drills")
    label_weight: Positive | None = Field(
        None,
        description="weight of label tokens in the loss of the first stage; null: all tokens weigh the same",
    )
    later_label_weight: Positive = Field(1.0, description="label_weight after the first stage")
    look_back: bool = Field(
        False, description=f"start with attention heads that look back; only for {', '.join(LOOK_BACK)}"
    )
    logging_steps: Size = Field(description="steps between two rows of history.jsonl")

    @model_validator(mode="after")
    def _batch_holds_a_row(self) -> "PretrainingSettings":
        if self.batch_tokens < self.length:
            raise ValueError(f"batch_tokens: {self.batch_tokens} is less than length, {self.length}")
        return self


def _check_architecture_name(name: str) -> str:
    if name not in LINEAR_MODULES:
        raise ValueError(f"unknown '{name}' (choices: {', '.join(LINEAR_MODULES)})")
    return name


class PretrainingRecipe(Strict):
    """Everything that decides what a pretrained base becomes, but for its corpus.

    ``model_dump(exclude_unset=True)`` gives the keys that the card sets, as they enter the fingerprint.
    """

    architecture: Annotated[str, AfterValidator(_check_architecture_name)] = Field(
        description="model_type in its transformers config, such as llama"
    )
    config: ModelConfig = Field(description="fields of its transformers config")
    tokenizer: WorldTokenizer | BpeTokenizer = Field(discriminator="kind")
    pretraining: PretrainingSettings

    @field_validator("config", mode="before")
    @classmethod
    def _check_config_of_architecture(cls, config: Any, info: ValidationInfo) -> Any:
        # without an architecture, which is then reported by itself, all fields are allowed
        fields = CONFIG_FIELDS.get(info.data.get("architecture", ""))
        if fields and isinstance(config, dict):
            refuse_unknown_keys(config, fields)
        return config

    @model_validator(mode="after")
    def _check_look_back(self) -> "PretrainingRecipe":
        if self.pretraining.look_back and self.architecture not in LOOK_BACK:
            raise ValueError(f"pretraining.look_back: only for {', '.join(LOOK_BACK)}")
        return self

    @model_validator(mode="after")
    def _check_row_length(self) -> "PretrainingRecipe":
        positions = self.config.max_position_embeddings or self.config.n_positions
        if positions and self.pretraining.length > positions:
            raise ValueError(
                f"pretraining.length: {self.pretraining.length} tokens, but the config has {positions} positions"
            )
        return self
