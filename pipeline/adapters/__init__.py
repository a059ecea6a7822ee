"""Adapters: the bottleneck tuner, peft's own methods, and one function that adds a method card's adapter to a model."""

from dataclasses import fields
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from pipeline.adapters.bottleneck import BottleneckConfig
from pipeline.adapters.initial_weights import (
    InitialBatches,
    check_ranks,
    finish_adapter,
    is_data_driven,
    prepare_base,
)
from pipeline.adapters.methods import MethodFields
from pipeline.adapters.precision import convert_to_float32
from pipeline.core.errors import UserError, one_line
from pipeline.core.hardware.accelerators import accelerators_of, fork_generators
from pipeline.params.architectures import check_method, select_for_architecture
from pipeline.params.peft.values import CARD_KEYS, DATA_DRIVEN

__all__ = ["BottleneckConfig", "InitialBatches", "MethodFields", "add_adapter", "sort_names"]

# keys of a card that are no settings of the method's config
NOT_SETTINGS = (*CARD_KEYS, "init_batches")


def add_adapter(
    model: nn.Module,
    method: MethodFields,
    *,
    architecture: str,
    seed: int,
    initial_batches: InitialBatches | None = None,
) -> Any:
    """Freeze ``model`` and add the adapter of a method card; for the kind "full", make the whole model trainable.

    Trainable tensors are float32, whatever the dtype of the model; ``precision.compute_in`` computes with both.

    Args:
        model: a causal language model of transformers.
        method: the resolved card: ``kind`` ("bottleneck", "peft" or "full") and the fields of BottleneckConfig or of the
            peft config of ``peft_type``. A field may be a map from architecture to value.
        architecture: transformers' ``model_type``, such as "llama".
        seed: of the initial weights. The global random generators are left as they were.
        initial_batches: training examples on the model's device, for initial weights that are computed from them
            (``init_lora_weights: eva``, ``corda`` or ``lora_ga``); the other methods read none.

    Returns:
        A PeftModel, or (kind "full") the model itself.

    Raises:
        UserError: unknown kind, peft_type, field or value; a value out of its range; modules that the model does not have;
            no ``initial_batches`` for a method that needs them.

    Example:
        method = {"kind": "bottleneck", "placement": "after", "target_modules": ["down_proj"], "bottleneck_size": 64}
        adapted = add_adapter(model, method, architecture="llama", seed=0)
    """
    check_method(method, architecture=architecture)
    if method["kind"] == "full":
        return _store_in_float32(model.requires_grad_(True))
    if method["kind"] == "bottleneck":
        config = _build_config(BottleneckConfig, method, architecture)
    else:
        config = _peft_config(method, architecture, seed, base_folder=_folder_of(model))
    batches = initial_batches if is_data_driven(method) else None
    if is_data_driven(method) and batches is None:
        rule = method["init_lora_weights"]
        raise UserError(f"init_lora_weights: {rule} is computed from training examples; pass initial_batches")
    # most draws are the CPU's; a randomized decomposition of a weight draws on the weight's device
    with fork_generators(accelerators_of(model.parameters())):
        torch.manual_seed(seed)
        adapted = _attach(model, config, batches, method)
    check_ranks(adapted, config)
    if getattr(config, "tokenizer_name_or_path", None) == _folder_of(model):
        # the adapter's config has the name of its base, as ``base_model_name_or_path`` does
        config.tokenizer_name_or_path = model.name_or_path
    sort_names(config)
    return _store_in_float32(adapted)


def _folder_of(model: Any) -> str:
    """Return the folder that a model was loaded from: its name is that of the hub, or below models_root."""
    return str(getattr(model.config, "_name_or_path", ""))


def _attach(
    model: nn.Module, config: PeftConfig, batches: InitialBatches | None, method: MethodFields
) -> PeftModel:
    """Return the model with the adapter of a config; errors of peft become errors of the method's fields."""
    try:
        if batches is not None:
            prepare_base(model, config, batches)
        adapted = get_peft_model(model, config, revision=getattr(model.config, "_commit_hash", None))
        if batches is not None:
            finish_adapter(adapted, config, batches)
        return adapted
    except UserError:
        raise
    except ValueError as error:
        # peft's own checks: the message names the field or the modules
        raise UserError(f"{config.peft_type.value}: {one_line(error)}") from error
    except (TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        # a value that peft does not check fails somewhere inside
        raise UserError(_settings_message(config.peft_type.value, method, error)) from error


def _settings_message(peft_type: str, method: MethodFields, error: Exception) -> str:
    settings = ", ".join(f"{key}: {value}" for key, value in method.items() if key not in NOT_SETTINGS)
    return f"{peft_type}: these settings do not fit the model ({one_line(error)}); change {settings or 'its fields'}"


def _store_in_float32(model: Any) -> Any:
    """Return ``model`` with its trainable parameters in float32.

    peft leaves copies of the base's weights in the base's dtype: norms, biases, ``modules_to_save``. In 16 bits most
    updates of such weights are smaller than half the distance to the next number, and are lost.
    """
    convert_to_float32(model, [parameter for parameter in model.parameters() if parameter.requires_grad])
    return model


def _peft_config(method: MethodFields, architecture: str, seed: int, *, base_folder: str) -> PeftConfig:
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[method["peft_type"]]
    names = {field.name for field in fields(config_class)}
    defaults: dict[str, Any] = {}
    if "projection_prng_key" in names:
        # VeRA has its own generator; like every method, its initial weights depend on the seed
        defaults["projection_prng_key"] = seed
    if architecture == "gpt2" and "fan_in_fan_out" in names:
        # GPT-2 stores its linear modules transposed
        defaults["fan_in_fan_out"] = True
    if method.get("prompt_tuning_init") == "TEXT":
        # the text is a prompt of the base, so its own tokenizer reads it
        defaults["tokenizer_name_or_path"] = base_folder
    if is_data_driven(method):
        # peft's defaults, which it would warn of
        defaults[DATA_DRIVEN[method["init_lora_weights"]]] = {}
    return _build_config(config_class, {**defaults, **method}, architecture)


def _build_config(config_class: type[Any], method: MethodFields, architecture: str) -> PeftConfig:
    settings = {
        name: select_for_architecture(value, architecture=architecture, field=name)
        for name, value in method.items()
        if name not in NOT_SETTINGS
    }
    choices = sorted(
        {field.name for field in fields(config_class) if field.init}
        - {"peft_type", "task_type", "peft_version"}
    )
    for name in settings:
        if name not in choices:
            raise UserError(f"{name}: not a field of {config_class.__name__} (fields: {', '.join(choices)})")
    try:
        return config_class(task_type="CAUSAL_LM", **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{config_class.__name__}: {one_line(error)}") from error


def sort_names(config: PeftConfig) -> None:
    """Turn sets of names into sorted lists: peft writes a set in hash order, which differs between processes."""
    for name, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, name, sorted(value))
