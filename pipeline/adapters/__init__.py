"""Adapters: the bottleneck tuner, peft's own methods, and one function that puts a method card onto a model."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from peft import get_peft_model
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from pipeline.adapters.bottleneck import BottleneckConfig
from pipeline.core.errors import UserError, one_line
from pipeline.params.architectures import check_method, select_for_architecture

__all__ = ["BUILDERS", "BottleneckConfig", "add_adapter"]

# fields of a card that say something about the method and are no settings of its config
NOT_SETTINGS = ("kind", "name", "source", "training", "peft_type")


def add_adapter(model: nn.Module, method: Mapping[str, Any], *, architecture: str, seed: int) -> Any:
    """Freeze ``model`` and put the adapter of a method card onto it; for the kind "full", make all of it trainable.

    Args:
        model: a causal language model of transformers.
        method: the resolved card: ``kind`` ("bottleneck", "peft" or "full") and the fields of BottleneckConfig or of the
            peft config that ``peft_type`` names; a field may be a map from architecture to its value.
        architecture: transformers' ``model_type``, such as "llama".
        seed: of the adapter's first weights. The global generators are left as they were.

    Returns:
        A PeftModel, or (full) the model itself.

    Raises:
        UserError: unknown kind, peft_type or field, a value out of bounds, modules that the model does not have.
    """
    check_method(method, architecture=architecture)
    if method["kind"] == "full":
        return _all_trainable(model)
    config = BUILDERS[method["kind"]](method, architecture, seed)
    with torch.random.fork_rng(
        devices=[]
    ):  # peft draws on the CPU, so only that generator is seeded and put back
        torch.default_generator.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config, revision=getattr(model.config, "_commit_hash", None))
        except ValueError as error:  # peft's own refusals: they name the field or the modules
            raise UserError(f"{config.peft_type.value}: {one_line(error)}") from error
        except (
            TypeError,
            LookupError,
            ArithmeticError,
            RuntimeError,
        ) as error:  # a value that it does not judge
            raise UserError(_not_taken(config.peft_type.value, method, error)) from error
    _sort_names(config)
    return adapted


def _not_taken(name: str, method: Mapping[str, Any], error: Exception) -> str:
    given = ", ".join(f"{key}: {value}" for key, value in method.items() if key not in NOT_SETTINGS)
    reason = one_line(error)
    return f"{name}: the model cannot take these settings ({reason}); change {given or 'its fields'}"


def _all_trainable(model: Any) -> Any:
    if model.dtype == torch.float16:
        raise UserError("dtype: full fine-tuning in float16 loses small updates; use bfloat16 or float32")
    return model.requires_grad_(True)


def _bottleneck_config(method: Mapping[str, Any], architecture: str, _: int) -> PeftConfig:
    return _config(BottleneckConfig, method, architecture)


def _peft_config(method: Mapping[str, Any], architecture: str, seed: int) -> PeftConfig:
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[method["peft_type"]]
    defaults: dict[str, Any] = {}
    names = {field.name for field in fields(config_class)}
    if (
        "projection_prng_key" in names
    ):  # VeRA's own generator: the first weights depend on the seed as for all
        defaults["projection_prng_key"] = seed
    if architecture == "gpt2" and "fan_in_fan_out" in names:  # its linear modules are stored transposed
        defaults["fan_in_fan_out"] = True
    return _config(config_class, {**defaults, **method}, architecture)


BUILDERS: dict[str, Callable[[Mapping[str, Any], str, int], PeftConfig]] = {
    "bottleneck": _bottleneck_config,
    "peft": _peft_config,
}


def _config(config_class: type[Any], method: Mapping[str, Any], architecture: str) -> PeftConfig:
    settings = {
        name: select_for_architecture(value, architecture=architecture, field=name)
        for name, value in method.items()
        if name not in NOT_SETTINGS
    }
    known = sorted(
        {field.name for field in fields(config_class) if field.init}
        - {"peft_type", "task_type", "peft_version"}
    )
    for name in settings:
        if name not in known:
            raise UserError(f"{name}: no field of {config_class.__name__} (fields: {', '.join(known)})")
    try:
        return config_class(task_type="CAUSAL_LM", **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"{config_class.__name__}: {one_line(error)}") from error


def _sort_names(config: PeftConfig) -> None:
    """Make sets of names into sorted lists: peft writes a set in hash order, which differs between processes."""
    for name, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, name, sorted(value))
