# mypy: disallow-subclassing-any=False
"""The peft tuner that puts bottleneck adapters into a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import resolve_quantization_backend
from torch import nn
from transformers.pytorch_utils import Conv1D

from pipeline.adapters.bottleneck.config import BottleneckConfig
from pipeline.adapters.bottleneck.layer import MERGE_REFUSAL, BottleneckLinear

# where the published code puts adapters if it is not told, by placement and architecture
DEFAULT_TARGETS: dict[str, dict[str, list[str]]] = {
    "before": {"llama": ["gate_proj", "up_proj"], "bloom": ["dense_h_to_4h"], "gptj": ["fc_in"]},
    "after": {"llama": ["down_proj"], "bloom": ["dense_4h_to_h"], "gptj": ["fc_out"]},
    "parallel": {
        "llama": ["k_proj", "q_proj", "v_proj"],
        "bloom": ["query_key_value"],
        "gptj": ["k_proj", "q_proj", "v_proj"],
    },
}


class BottleneckModel(BaseTuner):
    """A model whose targeted linear maps carry bottleneck adapters; made by ``peft.get_peft_model``."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLinear

    def _prepare_adapter_config(
        self, peft_config: BottleneckConfig, model_config: dict[str, Any]
    ) -> BottleneckConfig:
        if peft_config.target_modules is None:
            defaults = DEFAULT_TARGETS[str(peft_config.placement)]
            model_type = model_config.get("model_type")
            if model_type not in defaults:
                raise ValueError(
                    f"target_modules: must be named for a model of type {model_type!r} (known: {', '.join(defaults)})"
                )
            peft_config.target_modules = list(defaults[model_type])
        return peft_config

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        """Refuse names that match nothing, before any weight is touched (peft asks for one match in all)."""
        if isinstance(peft_config.target_modules, str):
            return
        wanted = set(peft_config.target_modules or []) | set(
            peft_config.placement if isinstance(peft_config.placement, dict) else []
        )
        names = [name for name, _ in model.named_modules()]
        for target in sorted(wanted):
            if not any(name == target or name.endswith(f".{target}") for name in names):
                there = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if _is_adaptable(m)})
                raise ValueError(
                    f"target_modules: the model has no module '{target}' (its linear modules: {', '.join(there)})"
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
        if not _is_adaptable(target):
            raise ValueError(
                f"target_modules: '{current_key}' is a {type(target).__name__}; only linear modules take adapters"
            )
        module = BottleneckLinear(target)
        module.set_adapter(self.active_adapters)
        module.add_detour(adapter_name, peft_config, placement=placement)
        if adapter_name not in self.active_adapters:  # a further adapter is not trainable until it is set
            module.requires_grad_(False)
        self._replace_module(parent, target_name, module, target)

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
        layers = [module for module in self.modules() if isinstance(module, BottleneckLinear)]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _pass_adapter_names(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": adapter_names}


def _is_adaptable(module: nn.Module) -> bool:
    if isinstance(module, (nn.Linear, Conv1D, BottleneckLinear)):
        return True
    backend = resolve_quantization_backend(module)
    return backend is not None and backend.layer_type == "linear"
