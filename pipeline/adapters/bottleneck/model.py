# mypy: disallow-subclassing-any=False
"""The peft tuner that adds bottleneck adapters to a model."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _filter_state_dict_by_key_prefixes,
    _get_tuner_state_dict_key_prefixes,
    _maybe_include_all_linear_layers,
)
from peft.utils import AuxiliaryTrainingWrapper, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from pipeline.adapters.bottleneck.config import BottleneckConfig
from pipeline.adapters.bottleneck.layer import MERGE_REFUSAL, BottleneckLinear

# Default target modules by placement and architecture: those of the published code for LLaMA, BLOOM, GPT-J, GPT-Neo and
# OPT, and the same modules of later architectures ("before": the maps into the MLP; "after": the map out of it;
# "parallel": the projections to queries, keys and values).
_GATED = {
    "before": ["gate_proj", "up_proj"],
    "after": ["down_proj"],
    "parallel": ["k_proj", "q_proj", "v_proj"],
}
_JOINED = {"before": ["dense_h_to_4h"], "after": ["dense_4h_to_h"], "parallel": ["query_key_value"]}
_QKV = ["k_proj", "q_proj", "v_proj"]
DEFAULT_TARGETS: dict[str, dict[str, list[str]]] = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen3": _GATED,
    "gemma3_text": _GATED,
    "olmo2": _GATED,
    "bloom": _JOINED,
    "gpt_neox": _JOINED,
    "gptj": {"before": ["fc_in"], "after": ["fc_out"], "parallel": _QKV},
    "opt": {"before": ["fc1"], "after": ["fc2"], "parallel": _QKV},
    "gpt_neo": {"before": ["c_fc"], "after": ["c_proj"], "parallel": _QKV},
    "gpt2": {"before": ["c_fc"], "after": ["mlp.c_proj"], "parallel": ["c_attn"]},
}

# heads that peft's classes for classification and question answering add to modules_to_save, whether the model has them
ADDED_BY_PEFT = ("classifier", "score", "qa_outputs")


class BottleneckModel(BaseTuner):
    """A model whose target modules carry bottleneck adapters; ``peft.get_peft_model`` makes it."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLinear

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # names of the adapters whose weights were loaded from a file
        self.loaded: set[str] = set()

    def _prepare_adapter_config(
        self, peft_config: BottleneckConfig, model_config: dict[str, Any]
    ) -> BottleneckConfig:
        if peft_config.target_modules is None:
            model_type = model_config.get("model_type")
            if model_type not in DEFAULT_TARGETS:
                raise ValueError(
                    f"target_modules: no default for a model of type {model_type!r}; set it "
                    f"{_linear_names(_modules_outside_adapters(self.model))}"
                )
            peft_config.target_modules = list(DEFAULT_TARGETS[model_type][str(peft_config.placement)])
        return peft_config

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        """Check that the targets exist and can be adapted, before any module is replaced."""
        targets = peft_config.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            # peft expands it later, in the same way
            peft_config = _maybe_include_all_linear_layers(copy.copy(peft_config), model)
        modules = _modules_outside_adapters(model)
        names = targets if isinstance(targets, list) else []
        for name in sorted(
            {*names, *(peft_config.placement if isinstance(peft_config.placement, dict) else [])}
        ):
            if not any(_ends_with(key, name) for key in modules):
                raise ValueError(f"target_modules: the model has no module '{name}' {_linear_names(modules)}")
        _check_modules_to_save(peft_config, modules)
        matched = [key for key in modules if self._check_target_module_exists(peft_config, key)]
        if not matched:
            raise ValueError(
                f"target_modules: {targets!r} matches no module {_filter_summary(peft_config, modules)}"
            )
        for number in _layer_numbers(peft_config.layers_to_transform):
            if not any(f".{number}." in key for key in matched):
                raise ValueError(f"layers_to_transform: no layer {number} has a target module")
        for key in matched:
            peft_config.placement_of(key)
            if not _is_adaptable(modules[key]):
                raise ValueError(
                    f"target_modules: '{key}' is a {type(modules[key]).__name__}; only linear modules can have adapters "
                    f"{_linear_names(modules)}"
                )

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        *,
        current_key: str,
        **_: Any,
    ) -> None:
        placement = peft_config.placement_of(current_key)
        if isinstance(target, BottleneckLinear):
            target.add_detour(adapter_name, peft_config, placement=placement)
            return
        module = BottleneckLinear(target)
        module.set_adapter(self.active_adapters)
        module.add_detour(adapter_name, peft_config, placement=placement)
        if adapter_name not in self.active_adapters:
            # a second adapter is not trainable until set_adapter activates it
            module.requires_grad_(False)
        # peft's _replace_module fails on empty weights over an 8-bit base; the module is on the right device already
        setattr(parent, target_name, module)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: BottleneckConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Rename loaded weights to the names in the model; raise ValueError, before any is copied, if they do not fit it."""
        renamed: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        weights = model.state_dict()
        prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name)
        adapter_keys = set(_filter_state_dict_by_key_prefixes(weights, prefixes))
        mismatch = _weight_mismatch(weights, renamed, adapter_keys=adapter_keys)
        tuner = getattr(model, "base_model", None)
        if mismatch:
            if isinstance(tuner, cls) and config.inference_mode and adapter_name not in tuner.loaded:
                # peft has just created this adapter for the weights: left in, it would be noise in the caller's base
                tuner._remove_adapter(adapter_name)
            raise ValueError(f"adapter '{adapter_name}': trained on a base of another shape: {mismatch}")
        if isinstance(tuner, cls):
            tuner.loaded.add(adapter_name)
        # low_cpu_mem_usage replaces the model's tensors by the loaded ones, so they must have its dtypes already
        return {
            key: tensor.to(weights[key].dtype) if key in weights else tensor
            for key, tensor in renamed.items()
        }

    def _remove_adapter(self, adapter_name: str) -> None:
        """Remove an adapter, and with the last one all the wrappers around the base."""
        if set(self.peft_config) == {adapter_name}:
            self.unload()
        else:
            self.delete_adapter(adapter_name)

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSAL)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass ``adapter_names`` (one for each row) to the adapted modules: batches with several adapters, at inference."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names: works in eval mode only; use set_adapter in training")
        unknown = sorted(set(names) - set(self.peft_config) - {"__base__"})
        if unknown:
            raise ValueError(
                f"adapter_names: unknown '{unknown[0]}' (choices: __base__, {', '.join(self.peft_config)})"
            )
        rows = [name for name in names for _ in range(kwargs.get("num_beams") or 1)]
        hook = partial(_pass_adapter_names, adapter_names=rows)
        layers = [
            module
            for module in self.modules()
            if isinstance(module, (BottleneckLinear, AuxiliaryTrainingWrapper))
        ]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _check_modules_to_save(config: BottleneckConfig, modules: dict[str, nn.Module]) -> None:
    """Check that the modules to save exist; peft would silently train and save none."""
    for name in config.modules_to_save or []:
        # peft matches the end of a module's full name
        if name not in ADDED_BY_PEFT and not any(key.endswith(name) for key in modules):
            with_weights = (
                key for key, module in modules.items() if any(True for _ in module.parameters(recurse=False))
            )
            choices = ", ".join(sorted({key.rpartition(".")[2] for key in with_weights}))
            raise ValueError(f"modules_to_save: the model has no module '{name}' (it has: {choices})")


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(module, AuxiliaryTrainingWrapper):
        # not every adapter has its own copy of a module to save
        adapter_names = [name if name in module._adapters else "__base__" for name in adapter_names]
    return args, {**kwargs, "adapter_names": adapter_names}


def _modules_outside_adapters(model: nn.Module) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if isinstance(module, BaseTunerLayer))
    return {name: module for name, module in modules.items() if name and not name.startswith(inside)}


def _layer_numbers(numbers: list[int] | int | None) -> list[int]:
    if numbers is None:
        return []
    return [numbers] if isinstance(numbers, int) else numbers


def _ends_with(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _linear_names(modules: dict[str, nn.Module]) -> str:
    names = sorted({key.rpartition(".")[2] for key, module in modules.items() if _is_adaptable(module)})
    return f"(its linear modules: {', '.join(names)})"


def _filter_summary(config: BottleneckConfig, modules: dict[str, nn.Module]) -> str:
    """Return the settings that restrict the targets, and the names of the model's linear modules."""
    fields = ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save")
    filters = [
        f"{field} {getattr(config, field)!r}" for field in fields if getattr(config, field) is not None
    ]
    return " ".join([*(["after", ", ".join(filters)] if filters else []), _linear_names(modules)])


def _weight_mismatch(weights: dict[str, Tensor], loaded: dict[str, Tensor], *, adapter_keys: set[str]) -> str:
    """Return the first way in which loaded weights do not fit a model, or an empty string.

    Args:
        weights: of the model, by name.
        loaded: from the file, by the same names.
        adapter_keys: the names in ``weights`` that belong to the adapter.
    """
    for key, tensor in loaded.items():
        if key in weights and weights[key].shape != tensor.shape:
            in_file, in_model = (" x ".join(map(str, pair.shape)) for pair in (tensor, weights[key]))
            return f"{key} is {in_file} in the file and {in_model} in the model"
    if unexpected := sorted(key for key in loaded if ".bottleneck_" in key and key not in adapter_keys):
        return f"the file has {unexpected[0]}, which this model lacks ({len(unexpected)} such tensors)"
    if missing := sorted(adapter_keys - set(loaded)):
        return f"the file lacks {missing[0]} ({len(missing)} such tensors)"
    return ""


def _is_adaptable(module: nn.Module) -> bool:
    if isinstance(module, NonDynamicallyQuantizableLinear):
        # nn.MultiheadAttention reads the weight of this module and never calls it
        return False
    if isinstance(module, (nn.Linear, Conv1D, BottleneckLinear)):
        return True
    backend = resolve_quantization_backend(module)
    return backend is not None and backend.layer_type == "linear"
