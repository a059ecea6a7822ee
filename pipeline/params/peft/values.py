"""Which values of a peft config's fields a card may set: each takes effect, or is refused before the DAG with a reason.

``fields.json`` has the fields of every method and their choices as the installed peft declares them (written by
``python -m pipeline regenerate --peft``). This module adds what the declaration does not say: values that
peft accepts and ignores, and values that our training or evaluation would ignore.
tests/integration/test_peft_values_training.py goes through all of them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, list_choices
from pipeline.params.base import own_key

Choices = list[bool | str] | None
FIELDS: dict[str, dict[str, Choices]] = json.loads(
    (Path(__file__).parent / "fields.json").read_text(encoding="utf-8")
)

# keys of a resolved card that are no fields of peft's config
CARD_KEYS = ("kind", "name", "source", "training", "peft_type")

# values of init_lora_weights that are computed from training examples, and the section with their settings
DATA_DRIVEN = {"eva": "eva_config", "corda": "corda_config", "lora_ga": "lora_ga_config"}
# values for which peft replaces the base's weights by their residual
TAKEN_FROM_THE_BASE = ("pissa", "corda", "olora", "lora_ga")

# "all": for every method
ALL = "all methods"
_CONVOLUTIONS = "is for convolutions, and language models have none"
_NOT_SUPPORTED = "is not supported by this training; leave it out"
# (method, field) -> why no card may set it
REFUSED_FIELDS: dict[tuple[str, str], str] = {
    (ALL, "fan_in_fan_out"): "follows from the architecture; leave it out",
    (ALL, "megatron_config"): "is for models of Megatron",
    (ALL, "megatron_core"): "is for models of Megatron",
    (
        "PVERA",
        "generator_seed",
    ): "would draw the same noise for every seed, and different noise after a resume; leave it out",
}
# of LoRA's many variants, those that need more than the adapter: a loss, a router, a kind of base, layers, steps of their own
for _field in (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "loftq_config"),
    *(
        "monteclora_config",
        "qalora_group_size",
        "runtime_config",
        "use_bdlora",
        "use_qalora",
        "velora_config",
    ),
    *("ensure_weight_tying", "lora_bias", "target_parameters"),
):
    REFUSED_FIELDS["LORA", _field] = REFUSED_FIELDS["ADALORA", _field] = _NOT_SUPPORTED
# settings of what REFUSED_VALUES refuses
for _field in (
    *("asa_importance_beta", "asa_schedule_exponent", "asa_target_subspaces", "asa_uncertainty_beta"),
    *("final_warmup", "init_warmup", "mask_interval"),
):
    REFUSED_FIELDS["ADAMSS", _field] = "belongs to use_asa, which this training does not support"
REFUSED_FIELDS["CPT", "opt_loss_decay_factor"] = (
    "belongs to opt_weighted_loss_type: decay, which this training does not support"
)
# AdaLoRA inherits them from LoRA and ignores them
for _field in ("r", "rank_pattern", "use_rslora", "use_dora", *DATA_DRIVEN.values()):
    REFUSED_FIELDS["ADALORA", _field] = "is ignored by AdaLoRA"

# (method, field) -> choices, where the type that peft declares is any text
DECLARED: dict[tuple[str, str], list[bool | str]] = {
    ("LORA", "init_lora_weights"): [*(FIELDS["LORA"]["init_lora_weights"] or []), "lora_ga"],
    ("ADALORA", "init_lora_weights"): [True, False],
    ("TINYLORA", "init_weights"): [True, False, "uniform"],
}
# (method, field) -> refused value -> why
REFUSED_VALUES: dict[tuple[str, str], dict[bool | str, str]] = {
    ("LORA", "init_lora_weights"): {
        "loftq": "replaces the base's weights by quantized weights, but evaluation loads the original weights; for a "
        "quantized base, set training: quantization",
    },
    ("ADAMSS", "use_asa"): {True: "needs a call after each step that only transformers' Trainer makes"},
    ("CPT", "opt_weighted_loss_type"): {
        "decay": "weights the loss that transformers computes, but this training computes its own"
    },
    ("LOHA", "use_effective_conv2d"): {True: _CONVOLUTIONS},
    ("LOKR", "use_effective_conv2d"): {True: _CONVOLUTIONS},
    ("PVERA", "sample_at_inference"): {True: "makes answers random"},
    ("GLORA", "config_A_B"): {"none": "leaves no weight to train"},
    ("TINYLORA", "init_weights"): {False: "leaves the weights uninitialised"},
}

# a prefix lies in a cache of keys and values, which checkpointing turns off
NOT_WITH_CHECKPOINTING = ("PREFIX_TUNING", "CARTRIDGE")


def check_peft_training(method: Mapping[str, Any], *, gradient_checkpointing: bool, dtype: str) -> None:
    """Refuse settings of the training that peft cannot combine with the method.

    Raises:
        UserError: with the setting and the method.
    """
    if gradient_checkpointing and method.get("peft_type") in NOT_WITH_CHECKPOINTING:
        raise UserError(
            f"gradient_checkpointing: true does not work with {method['peft_type']}: it turns off the cache, which holds the "
            "prefix; set it to false for this method"
        )
    if method.get("init_lora_weights") == "lora_ga" and dtype == "float16":
        raise UserError(
            "dtype: float16 does not work with init_lora_weights: lora_ga, whose small gradients vanish in it; use bfloat16 "
            "or float32"
        )


def check_peft_values(method: Mapping[str, Any]) -> None:
    """Refuse fields that the method's config does not have, and values that would not be trained.

    Args:
        method: the resolved card of a method of kind "peft" that is supported.

    Raises:
        UserError: with the field, the value and the choices or the reason.
    """
    peft_type = method["peft_type"]
    fields = FIELDS[peft_type]
    for name, value in method.items():
        if name in CARD_KEYS or value is None or (peft_type, name) == ("LORA", "init_batches"):
            continue
        if name not in fields:
            raise UserError(
                f"{name}: not a field of {peft_type} {list_choices(name, sorted(fields), meant=own_key(name, fields))}"
            )
        reason = REFUSED_FIELDS.get((peft_type, name)) or REFUSED_FIELDS.get((ALL, name))
        if reason:
            raise UserError(f"{name}: {reason}")
        _check_value(peft_type, name, value)
    if peft_type == "LORA":
        _check_lora({**{"init_lora_weights": True}, **method})
    if peft_type == "PROMPT_TUNING":
        _check_prompt_text(method)


def list_values(peft_type: str, name: str) -> list[bool | str]:
    """Return the values that a card may set a field to, or an empty list if they cannot be listed."""
    refused = REFUSED_VALUES.get((peft_type, name), {})
    choices = DECLARED.get((peft_type, name)) or FIELDS[peft_type][name] or []
    return [choice for choice in choices if choice not in refused]


def _check_value(peft_type: str, name: str, value: object) -> None:
    choices = list_values(peft_type, name)
    if not choices:
        return
    for refused, reason in REFUSED_VALUES.get((peft_type, name), {}).items():
        if value == refused:
            raise UserError(f"{name}: {_text(value)} {reason} (choices: {_listed(choices)})")
    if name == "init_lora_weights" and re.fullmatch(r"pissa_niter_\d+", str(value)):
        return
    # true and 1 are equal in Python; a card means one of them
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise UserError(f"{name}: unknown value {_text(value)} (choices: {_listed(choices)})")


def _check_lora(method: Mapping[str, Any]) -> None:
    """Refuse combinations that peft trains as something else, or loses when it saves them."""
    rule = method.get("init_lora_weights")
    for value, section in DATA_DRIVEN.items():
        if method.get(section) is not None and rule != value:
            raise UserError(f"{section}: needs init_lora_weights: {value}, not {_text(rule)}")
    if rule in DATA_DRIVEN and method.get("init_batches") is None:
        raise UserError(
            f"init_batches: missing; init_lora_weights: {rule} is computed from that many training batches"
        )
    if rule not in DATA_DRIVEN and method.get("init_batches") is not None:
        raise UserError(
            f"init_batches: only for init_lora_weights: {', '.join(DATA_DRIVEN)}; {_text(rule)} reads no examples; leave it out"
        )
    if str(rule).startswith(TAKEN_FROM_THE_BASE):
        # what is saved is the difference to the initial adapter, and peft saves nothing but A and B of it
        for name, harmless in (
            *(("use_dora", False), ("bias", "none")),
            *(("modules_to_save", None), ("trainable_token_indices", None)),
        ):
            if method.get(name) not in (None, harmless):
                raise UserError(
                    f"{name}: peft cannot save it together with init_lora_weights: {rule}; choose one of the two"
                )
        if method.get("use_rslora") and (method.get("rank_pattern") or method.get("alpha_pattern")):
            raise UserError(
                f"use_rslora: peft cannot save it together with rank_pattern or alpha_pattern and init_lora_weights: {rule}"
            )
    ranks = {"r": method.get("r", 8), **(method.get("rank_pattern") or {})}
    for name, rank in ranks.items():
        if rule == "orthogonal" and rank % 2:
            raise UserError(f"{name}: init_lora_weights: orthogonal needs an even rank, got {rank}")


def _check_prompt_text(method: Mapping[str, Any]) -> None:
    text = method.get("prompt_tuning_init_text")
    if method.get("prompt_tuning_init") == "TEXT" and not text:
        raise UserError("prompt_tuning_init_text: missing; prompt_tuning_init: TEXT starts from its tokens")
    if method.get("prompt_tuning_init") != "TEXT" and text:
        raise UserError("prompt_tuning_init_text: needs prompt_tuning_init: TEXT")


def _text(value: object) -> str:
    """Return a value as YAML writes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else f"'{value}'"


def _listed(choices: list[bool | str]) -> str:
    return ", ".join(_text(choice).strip("'") for choice in choices)
