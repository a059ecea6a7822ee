"""What depends on a model's architecture: its linear modules and config fields. Imports no torch, for checks before the DAG."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.core.errors import UserError, list_choices
from pipeline.params.peft.values import check_peft_values

# architecture (``model_type`` of transformers) -> the linear modules of a decoder layer, in the order of the layer.
# A test compares each row with the transformers class. A new architecture that uses the module names of a
# row needs no row: its model's card names that row (``modules``).
LINEAR_MODULES: dict[str, tuple[str, ...]] = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "bloom": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    "gptj": ("k_proj", "v_proj", "q_proj", "out_proj", "fc_in", "fc_out"),
    "opt": ("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neo": ("k_proj", "v_proj", "q_proj", "out_proj", "c_fc", "c_proj"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gemma3_text": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "olmo2": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    # query, key and value in one map, and gate and up in one
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}

# architecture -> the fields of its transformers config that the card of a pretrained base may set. The vocabulary and
# the special tokens are missing: they follow from the tokenizer. A test compares each row with the config class.
_LLAMA_FAMILY = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "rope_parameters",
    "hidden_act",
    "attention_dropout",
    "rms_norm_eps",
    "initializer_range",
    "tie_word_embeddings",
)
_GPT_FAMILY = (
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "n_positions",
    "activation_function",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "layer_norm_epsilon",
    "initializer_range",
    "tie_word_embeddings",
)
CONFIG_FIELDS: dict[str, tuple[str, ...]] = {
    "llama": (*_LLAMA_FAMILY, "head_dim", "attention_bias", "mlp_bias"),
    "bloom": (
        "hidden_size",
        "n_layer",
        "n_head",
        "attention_dropout",
        "hidden_dropout",
        "layer_norm_epsilon",
        "initializer_range",
        "tie_word_embeddings",
    ),
    "gptj": (*_GPT_FAMILY, "rotary_dim"),
    "opt": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "ffn_dim",
        "word_embed_proj_dim",
        "max_position_embeddings",
        "activation_function",
        "attention_dropout",
        "dropout",
        "enable_bias",
        "do_layer_norm_before",
        "init_std",
        "tie_word_embeddings",
    ),
    "gpt2": _GPT_FAMILY,
    "gpt_neo": (
        "hidden_size",
        "num_layers",
        "num_heads",
        "intermediate_size",
        "max_position_embeddings",
        "attention_types",
        "window_size",
        "activation_function",
        "attention_dropout",
        "embed_dropout",
        "resid_dropout",
        "layer_norm_epsilon",
        "initializer_range",
        "tie_word_embeddings",
    ),
    "gpt_neox": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "rope_parameters",
        "hidden_act",
        "attention_bias",
        "attention_dropout",
        "hidden_dropout",
        "layer_norm_eps",
        "initializer_range",
        "tie_word_embeddings",
        "use_parallel_residual",
    ),
    "mistral": (*_LLAMA_FAMILY, "head_dim", "sliding_window"),
    "qwen3": (
        *_LLAMA_FAMILY,
        "head_dim",
        "attention_bias",
        "layer_types",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
    ),
    "gemma3_text": (
        # Gemma calls it hidden_activation
        *(field for field in _LLAMA_FAMILY if field != "hidden_act"),
        "hidden_activation",
        "head_dim",
        "attention_bias",
        "layer_types",
        "sliding_window",
        "query_pre_attn_scalar",
    ),
    "olmo2": (*_LLAMA_FAMILY, "attention_bias"),
    "phi3": (*_LLAMA_FAMILY, "sliding_window", "embd_pdrop", "resid_pdrop"),
}

# the architectures for which pipeline.models.bases.look_back can start attention heads that look back
LOOK_BACK = ("llama", "bloom", "gptj")

# the methods of the pinned peft that a card of ``kind: peft`` may use; a test compares them with its enum
PEFT_TYPES: tuple[str, ...] = (
    "ADALORA",
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "IA3",
    "LILY",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PSOFT",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHADOW",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
    "XLORA",
)

# the methods whose target_modules are norms or embeddings: only peft can check their names
NON_LINEAR_PEFT_TYPES = ("LN_TUNING", "TRAINABLE_TOKENS")

# the methods that cannot be trained or evaluated here, with the cause
_NEEDS_TASK_IDS = "needs the number of a task with each example"
UNSUPPORTED_PEFT_TYPES = {
    "LILY": "weighs its experts by the mean over all tokens of a batch, so an answer would depend on padding, other examples and later tokens",
    "MULTITASK_PROMPT_TUNING": _NEEDS_TASK_IDS,
    "POLY": _NEEDS_TASK_IDS,
    "SHADOW": "keeps no cache of its second network, so an answer would depend on the other examples of its batch",
    "XLORA": "mixes existing adapters and trains none",
}

# Methods and initial weights of peft that are refused on a base over several GPUs: most fail there, and no test can check
# sparse weights (FROD, SHiRA). A test trains the others.
ONE_CARD = ("ADALORA", "CPT", "FROD", "SHIRA", "eva", "corda")

METHOD_KINDS = ("bottleneck", "peft", "full")

PLACEMENTS = ("before", "after", "parallel")

# peft's name for all linear modules but the output layer
ALL_LINEAR = "all-linear"

# the activations of transformers without weights; a test compares them with its table
ACTIVATIONS: tuple[str, ...] = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "hardswish",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "sqrtsoftplus",
    "swish",
    "tanh",
)


def select_for_architecture(value: Any, *, architecture: str, field: str) -> Any:
    """Return the value of a card's field for one architecture; a field that does not depend on it is returned as it is.

    Raises:
        UserError: the field is a map from architectures in which this one is missing, or another one is unknown.
    """
    if not isinstance(value, Mapping) or not _is_by_architecture(value, field=field):
        return value
    for name in value:
        if name not in LINEAR_MODULES:
            raise UserError(f"{field}: unknown architecture '{name}' {list_choices(name, LINEAR_MODULES)}")
    if architecture not in value:
        raise UserError(f"{field}: no value for architecture '{architecture}' (it has: {', '.join(value)})")
    return value[architecture]


def _is_by_architecture(value: Mapping[str, object], *, field: str) -> bool:
    """Return whether a map is from architectures (perhaps misspelt), or from something else, such as modules."""
    if field == "placement" or field.endswith("_modules"):
        return any(name in LINEAR_MODULES or not isinstance(part, str) for name, part in value.items())
    return bool(value) and set(value) <= set(LINEAR_MODULES)


def check_target_modules(names: Iterable[str], *, architecture: str, field: str) -> None:
    """Refuse target modules that no decoder layer of the architecture has.

    Of a dotted name (``self_attention.dense``) the last part counts. An architecture without a row is not checked here:
    peft refuses what does not match when the adapter is added.

    Raises:
        UserError: with the field, the module and the modules of the architecture.
    """
    modules = LINEAR_MODULES.get(architecture)
    for name in names:
        if modules is not None and name.rpartition(".")[2] not in modules:
            raise UserError(f"{field}: {architecture} has no module '{name}' (it has: {', '.join(modules)})")


def check_method(method: Mapping[str, Any], *, architecture: str) -> None:
    """Refuse a method that does not fit the architecture, as far as that can be checked without torch.

    Args:
        method: the resolved card: ``kind``, and the fields of BottleneckConfig or of a peft config.
        architecture: ``model_type`` of transformers, such as "llama".

    Raises:
        UserError: unknown kind, peft_type, field, activation or placement, a value that would not be trained, or modules that
            the architecture does not have.
    """
    kind = method.get("kind")
    if kind == "peft":
        _check_peft_type(method)
        check_peft_values(
            {
                name: select_for_architecture(value, architecture=architecture, field=name)
                for name, value in method.items()
            }
        )
    if kind not in METHOD_KINDS:
        raise UserError(f"kind: unknown '{kind}' {list_choices(kind, METHOD_KINDS)}")
    activation = method.get("non_linearity")
    if kind == "bottleneck" and activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"non_linearity: unknown '{activation}' (choices: {', '.join(ACTIVATIONS)})")
    # peft itself checks the names of norms and embeddings
    on_linear = method.get("peft_type") not in NON_LINEAR_PEFT_TYPES
    for field in ("target_modules", "feedforward_modules") if on_linear else ():
        targets = select_for_architecture(method.get(field), architecture=architecture, field=field)
        if isinstance(targets, (list, tuple, set)):
            check_target_modules(targets, architecture=architecture, field=field)
    placement = select_for_architecture(method.get("placement"), architecture=architecture, field="placement")
    if isinstance(placement, Mapping):
        placements = list(placement.values())
    else:
        placements = [] if placement is None else [placement]
    for value in placements:
        if value not in PLACEMENTS:
            raise UserError(f"placement: unknown '{value}' (choices: {', '.join(PLACEMENTS)})")
    # A map of placements chooses the target modules too.
    if isinstance(placement, Mapping):
        check_target_modules(placement, architecture=architecture, field="placement")


def _check_peft_type(method: Mapping[str, Any]) -> None:
    name = method.get("peft_type")
    if name not in PEFT_TYPES:
        raise UserError(f"peft_type: unknown '{name}' {list_choices(name, PEFT_TYPES)}")
    if name in UNSUPPORTED_PEFT_TYPES:
        raise UserError(f"peft_type: {name} {UNSUPPORTED_PEFT_TYPES[name]}; choose another method")
