# mypy: disallow-subclassing-any=False
"""The peft tuner that puts bottleneck adapters into a model."""

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

# where adapters go if it is not told, by placement and architecture: the published code's defaults for LLaMA, BLOOM, GPT-J,
# GPT-Neo and OPT, and the same places in later architectures ("before": maps into the MLP; "after": the map out of it;
# "parallel": the projections to queries, keys and values)
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


# names of heads that peft's classes for classification and extraction add to modules_to_save, whichever the model has
ADDED_BY_PEFT = ("classifier", "score", "qa_outputs")


class BottleneckModel(BaseTuner):
    """A model whose targeted linear maps carry bottleneck adapters; made by ``peft.get_peft_model``."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLinear

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loaded: set[str] = set()  # names of the adapters whose weights came from a file

    def _prepare_adapter_config(
        self, peft_config: BottleneckConfig, model_config: dict[str, Any]
    ) -> BottleneckConfig:
        if peft_config.target_modules is None:
            model_type = model_config.get("model_type")
            if model_type not in DEFAULT_TARGETS:
                raise ValueError(
                    f"target_modules: must be named for a model of type {model_type!r} "
                    f"{_linear_names(_modules_outside_adapters(self.model))}"
                )
            peft_config.target_modules = list(DEFAULT_TARGETS[model_type][str(peft_config.placement)])
        return peft_config

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        """Refuse targets that match nothing or cannot be adapted, before any module is replaced."""
        targets = peft_config.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":  # as peft expands it after this
            peft_config = _maybe_include_all_linear_layers(copy.copy(peft_config), model)
        modules = _modules_outside_adapters(model)
        names = targets if isinstance(targets, list) else []
        for name in sorted(
            {*names, *(peft_config.placement if isinstance(peft_config.placement, dict) else [])}
        ):
            if not any(_ends_with(key, name) for key in modules):
                raise ValueError(f"target_modules: the model has no module '{name}' {_linear_names(modules)}")
        _check_saved(peft_config, modules)
        matched = [key for key in modules if self._check_target_module_exists(peft_config, key)]
        if not matched:
            raise ValueError(
                f"target_modules: nothing is left of {targets!r} {_narrowed_by(peft_config, modules)}"
            )
        for number in _as_list(peft_config.layers_to_transform):
            if not any(f".{number}." in key for key in matched):
                raise ValueError(f"layers_to_transform: no layer {number} has a target module")
        for key in matched:
            peft_config.placement_of(key)
            if not _is_adaptable(modules[key]):
                raise ValueError(
                    f"target_modules: '{key}' is a {type(modules[key]).__name__}; only linear modules take adapters "
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
        if adapter_name not in self.active_adapters:  # a further adapter is not trainable until it is set
            module.requires_grad_(False)
        # not by peft's _replace_module, which fails on empty weights over an 8-bit base; the device is right already
        setattr(parent, target_name, module)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: BottleneckConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Rename loaded weights to those of the model, and refuse weights of another base before one is copied."""
        renamed: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        own = model.state_dict()
        prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name)
        wanted = set(_filter_state_dict_by_key_prefixes(own, prefixes))
        difference = _difference(own, renamed, wanted=wanted)
        tuner = getattr(model, "base_model", None)
        if difference:
            if isinstance(tuner, cls) and config.inference_mode and adapter_name not in tuner.loaded:
                # made a moment ago to hold these weights: without them it would be noise in the caller's base
                tuner._drop(adapter_name)
            raise ValueError(f"adapter '{adapter_name}': trained on a base of another shape: {difference}")
        if isinstance(tuner, cls):
            tuner.loaded.add(adapter_name)
        # low_cpu_mem_usage puts the loaded tensors in the place of the model's, so they must be of its type already
        return {key: w.to(own[key].dtype) if key in own else w for key, w in renamed.items()}

    def _drop(self, adapter_name: str) -> None:
        """Take an adapter away, and with the last one all that was put around the base."""
        if set(self.peft_config) == {adapter_name}:
            self.unload()
        else:
            self.delete_adapter(adapter_name)

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSAL)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand ``adapter_names`` (one a row) to the adapted modules: batches that mix adapters, at inference."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names: only in eval mode; in training use set_adapter")
        unknown = sorted(set(names) - set(self.peft_config) - {"__base__"})
        if unknown:
            raise ValueError(
                f"adapter_names: unknown '{unknown[0]}' (there are: __base__, {', '.join(self.peft_config)})"
            )
        rows = [name for name in names for _ in range(kwargs.get("num_beams") or 1)]
        hook = partial(_pass_adapter_names, adapter_names=rows)
        layers = [m for m in self.modules() if isinstance(m, (BottleneckLinear, AuxiliaryTrainingWrapper))]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _check_saved(config: BottleneckConfig, modules: dict[str, nn.Module]) -> None:
    """Refuse a module to save that is not there; peft itself would train and save nothing of it."""
    for name in config.modules_to_save or []:
        if name not in ADDED_BY_PEFT and not any(
            key.endswith(name) for key in modules
        ):  # as peft matches them
            own = (
                key for key, module in modules.items() if any(True for _ in module.parameters(recurse=False))
            )
            there = ", ".join(sorted({key.rpartition(".")[2] for key in own}))
            raise ValueError(f"modules_to_save: the model has no module '{name}' (it has: {there})")


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(module, AuxiliaryTrainingWrapper):  # not every adapter has a copy of this module
        adapter_names = [name if name in module._adapters else "__base__" for name in adapter_names]
    return args, {**kwargs, "adapter_names": adapter_names}


def _modules_outside_adapters(model: nn.Module) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if isinstance(module, BaseTunerLayer))
    return {name: module for name, module in modules.items() if name and not name.startswith(inside)}


def _as_list(numbers: list[int] | int | None) -> list[int]:
    if numbers is None:
        return []
    return [numbers] if isinstance(numbers, int) else numbers


def _ends_with(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _linear_names(modules: dict[str, nn.Module]) -> str:
    names = sorted({key.rpartition(".")[2] for key, module in modules.items() if _is_adaptable(module)})
    return f"(its linear modules: {', '.join(names)})"


def _narrowed_by(config: BottleneckConfig, modules: dict[str, nn.Module]) -> str:
    """Return what the targets were narrowed by, and the names that there are."""
    fields = ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save")
    given = [f"{field} {getattr(config, field)!r}" for field in fields if getattr(config, field) is not None]
    return " ".join([*(["after", ", ".join(given)] if given else []), _linear_names(modules)])


def _difference(own: dict[str, Tensor], loaded: dict[str, Tensor], *, wanted: set[str]) -> str:
    """Return in what loaded weights do not fit a model's own, of which ``wanted`` are the adapter's; empty: they fit."""
    for key, weight in loaded.items():
        if key in own and own[key].shape != weight.shape:
            there, here = (" x ".join(map(str, tensor.shape)) for tensor in (weight, own[key]))
            return f"{key} is {there} in the file and {here} here"
    if too_many := sorted(key for key in loaded if ".bottleneck_" in key and key not in wanted):
        return f"the file has {too_many[0]}, this base has no place for it ({len(too_many)} such tensors)"
    if too_few := sorted(wanted - set(loaded)):
        return f"the file lacks {too_few[0]} ({len(too_few)} such tensors)"
    return ""


def _is_adaptable(module: nn.Module) -> bool:
    if isinstance(
        module, NonDynamicallyQuantizableLinear
    ):  # nn.MultiheadAttention reads its weight, never calls it
        return False
    if isinstance(module, (nn.Linear, Conv1D, BottleneckLinear)):
        return True
    backend = resolve_quantization_backend(module)
    return backend is not None and backend.layer_type == "linear"
