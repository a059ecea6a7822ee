"""What a model's architecture fixes: the names of its linear modules. Imports no torch, so checks run before the DAG."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.core.errors import UserError

# architecture (transformers' ``model_type``) -> the linear modules of one decoder layer, in the order of the layer.
# A test holds each row against the real transformers class.
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
}

# architecture -> the fields of its transformers config that the card of a pretrained base may set. The vocabulary and
# the special tokens are missing: they follow from the tokenizer. A test holds each row against the real config class.
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
        *(field for field in _LLAMA_FAMILY if field != "hidden_act"),
        "hidden_activation",
        "head_dim",
        "attention_bias",
        "layer_types",
        "sliding_window",
        "query_pre_attn_scalar",
    ),
    "olmo2": (*_LLAMA_FAMILY, "attention_bias"),
}

# the architectures for which pipeline.models.look_back can start attention heads that look back
LOOK_BACK = ("llama", "bloom", "gptj")

# names of the methods of the pinned peft that make sense for ``kind: peft``; a test holds them against its enum
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

# of these the methods whose target_modules are norms or embeddings; peft alone can judge their names
NOT_ON_LINEAR = ("LN_TUNING", "TRAINABLE_TOKENS")

# of these the methods that the stages cannot train or ask, and why
_OF_SEVERAL_TASKS = "wants a task's number with each example"
NOT_BY_STAGES = {
    "MULTITASK_PROMPT_TUNING": _OF_SEVERAL_TASKS,
    "POLY": _OF_SEVERAL_TASKS,
    "SHADOW": "keeps no cache of its second network, so an answer would depend on what is asked beside it",
    "XLORA": "mixes adapters that were trained before, and trains none",
}

KINDS = ("bottleneck", "peft", "full")

PLACEMENTS = ("before", "after", "parallel")

ALL_LINEAR = "all-linear"

# transformers' activations that have no weights of their own; a test holds them against its table
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
    """Return the part of a card's field that holds for one architecture; a field given once for all is returned as it is.

    Raises:
        UserError: if the field is a map from architectures that leaves this one out, or that names an unknown one.
    """
    if not isinstance(value, Mapping) or not _is_by_architecture(value, field=field):
        return value
    for name in value:
        if name not in LINEAR_MODULES:
            raise UserError(f"{field}: unknown architecture '{name}' (choices: {', '.join(LINEAR_MODULES)})")
    if architecture not in value:
        raise UserError(
            f"{field}: nothing given for architecture '{architecture}' (given for: {', '.join(value)})"
        )
    return value[architecture]


def _is_by_architecture(value: Mapping[str, Any], *, field: str) -> bool:
    """Tell a map from architectures from a field that is a map by itself, even if an architecture is misspelt."""
    if field == "placement" or field.endswith("_modules"):
        return any(name in LINEAR_MODULES or not isinstance(part, str) for name, part in value.items())
    return bool(value) and set(value) <= set(LINEAR_MODULES)


def check_target_modules(names: Iterable[str], *, architecture: str, field: str) -> None:
    """Refuse target modules that no decoder layer of the architecture has.

    A dotted name (``self_attention.dense``) is judged by its last part. An architecture without a row is not judged
    here: peft refuses what does not match when the adapter is added.

    Raises:
        UserError: naming the field, the module and the modules that there are.
    """
    known = LINEAR_MODULES.get(architecture)
    for name in names:
        if known is not None and name.rpartition(".")[2] not in known:
            raise UserError(f"{field}: {architecture} has no module '{name}' (it has: {', '.join(known)})")


def check_method(method: Mapping[str, Any], *, architecture: str) -> None:
    """Refuse a method card that the architecture cannot take, as far as it can be told without torch.

    Args:
        method: the resolved card (``kind``, then the fields of BottleneckConfig or of a peft config).
        architecture: transformers' ``model_type``, such as "llama".

    Raises:
        UserError: unknown kind, peft_type, activation or placement, or modules that the architecture does not have.
    """
    kind = method.get("kind")
    if kind == "peft":
        _check_peft_type(method)
    if kind not in KINDS:
        raise UserError(f"kind: unknown '{kind}' (choices: {', '.join(KINDS)})")
    activation = method.get("non_linearity")
    if kind == "bottleneck" and activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"non_linearity: unknown '{activation}' (choices: {', '.join(ACTIVATIONS)})")
    on_linear = method.get("peft_type") not in NOT_ON_LINEAR
    for field in ("target_modules", "feedforward_modules") if on_linear else ():
        targets = select_for_architecture(method.get(field), architecture=architecture, field=field)
        if isinstance(targets, (list, tuple, set)):
            check_target_modules(targets, architecture=architecture, field=field)
    placement = select_for_architecture(method.get("placement"), architecture=architecture, field="placement")
    places = (
        placement.values() if isinstance(placement, Mapping) else [placement] if placement is not None else []
    )
    for place in places:
        if place not in PLACEMENTS:
            raise UserError(f"placement: unknown '{place}' (choices: {', '.join(PLACEMENTS)})")
    if isinstance(placement, Mapping):
        check_target_modules(placement, architecture=architecture, field="placement")


def _check_peft_type(method: Mapping[str, Any]) -> None:
    name = method.get("peft_type")
    if name not in PEFT_TYPES:
        raise UserError(f"peft_type: unknown '{name}' (choices: {', '.join(PEFT_TYPES)})")
    if name in NOT_BY_STAGES:
        raise UserError(f"peft_type: {name} {NOT_BY_STAGES[name]}; name another method")
