# mypy: disallow-subclassing-any=False
"""Bottleneck adapters on one frozen linear map."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from pipeline.adapters.bottleneck.config import BottleneckConfig

INIT_STD = 0.02


class BottleneckLinear(nn.Module, BaseTunerLayer):
    """A frozen linear map W with small trainable detours, one for each adapter name.

    The detour of an adapter is d(u) = s * Up act(Down drop(u)). Down maps to ``bottleneck_size`` dimensions and Up maps
    back; both have no bias. The placement decides where the detour goes:

    - before:   y = W (x + d(x))           series, before W
    - parallel: y = W x + d(x)             parallel to W
    - after:    y = z + d(z), z = W x      series, after W

    Several active adapters with the same placement add their detours. An adapter with ``stack_sizes`` has several detours in
    its two maps, each for its part of the bottleneck, and d is what they add one after the other.

    Sources:
        Houlsby et al. 2019, arXiv:1902.00751 (series)
        He et al. 2022, arXiv:2110.04366 (parallel, scale s)
        Hu et al. 2023, arXiv:2304.01933 (both, on LLaMA); tested against outputs of its code, commit 8166572
    """

    # members of peft's mixin class, which is not typed
    get_base_layer: Callable[[], Any]
    set_adapter: Callable[..., None]
    active_adapters: list[str]
    _get_base_layer_device_and_dtype: Callable[[nn.Module], tuple[torch.device | None, torch.dtype | None]]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]

    adapter_layer_names = ("bottleneck_down", "bottleneck_up", "bottleneck_scaling")
    other_param_names = (
        *("bottleneck_dropout", "bottleneck_activation", "placement", "scaling"),
        "stack_sizes",
    )

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_scaling = nn.ParameterDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_activation = nn.ModuleDict()
        self.placement: dict[str, str] = {}
        self.scaling: dict[str, float] = {}
        self.stack_sizes: dict[str, list[int]] = {}
        # peft.helpers.disable_input_dtype_casting sets and restores it
        self.cast_input_dtype_enabled = True
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter: str | list[str] = []

    def add_detour(self, adapter_name: str, config: BottleneckConfig, *, placement: str) -> None:
        """Create the weights of an adapter, drawn from torch's global generator, on the device of the base weight."""
        in_features = self.out_features if placement == "after" else self.in_features
        out_features = self.in_features if placement == "before" else self.out_features
        # drawn on the CPU, so that every device gets the same weights; a meta base gets meta adapters
        base_device, base_dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())
        device = "meta" if base_device is not None and base_device.type == "meta" else "cpu"
        self.bottleneck_down[adapter_name] = _uninitialized_linear(
            in_features, config.bottleneck_size, device
        )
        self.bottleneck_up[adapter_name] = _uninitialized_linear(config.bottleneck_size, out_features, device)
        self.bottleneck_dropout[adapter_name] = (
            nn.Dropout(config.adapter_dropout) if config.adapter_dropout else nn.Identity()
        )
        self.bottleneck_activation[adapter_name] = ACT2FN[config.non_linearity]
        self.placement[adapter_name] = placement
        self.stack_sizes[adapter_name] = config.stack_sizes or [config.bottleneck_size]
        if config.scaling == "learned":
            self.bottleneck_scaling[adapter_name] = nn.Parameter(torch.ones(1, device=device))
        else:
            self.scaling[adapter_name] = float(config.scaling)
        self.reset_detour(adapter_name, config.init_weights)
        if base_dtype is not None and base_dtype.is_floating_point:
            self._convert(adapter_name, base_dtype)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def reset_detour(self, adapter_name: str, init_weights: str) -> None:
        """Draw new weights for an adapter; ``BottleneckConfig.init_weights`` describes the rules."""
        down, up = (linear.weight for linear in self._maps(adapter_name))
        if init_weights == "mam":
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        else:
            nn.init.normal_(down, std=INIT_STD)
        if init_weights == "normal":
            nn.init.normal_(up, std=INIT_STD)
        else:
            nn.init.zeros_(up)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move an adapter to the base's device; peft calls this after it loads weights with low_cpu_mem_usage.

        Unlike peft's method it keeps the dtype: float32 weights would be rounded to the dtype of a half-precision base.
        """
        device = device or self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        if adapter_name not in self.bottleneck_down:
            # peft calls this on every adapted module, whichever adapters it has
            return
        if device is not None and not self._maps(adapter_name)[0].weight.is_meta:
            self._convert(adapter_name, device)

    def _convert(self, adapter_name: str, target: torch.device | torch.dtype) -> None:
        for linear in self._maps(adapter_name):
            linear.to(target)
        if adapter_name in self.bottleneck_scaling:
            self.bottleneck_scaling[adapter_name] = self.bottleneck_scaling[adapter_name].to(target)

    def _maps(self, adapter_name: str) -> tuple[nn.Linear, nn.Linear]:
        return cast(nn.Linear, self.bottleneck_down[adapter_name]), cast(
            nn.Linear, self.bottleneck_up[adapter_name]
        )

    def detour(self, adapter_name: str, u: Tensor) -> Tensor:
        """Return d(u) of an adapter, (batch, tokens, in) to (batch, tokens, out), in the dtype of its weights or autocast's."""
        down, up = self._maps(adapter_name)
        inner = self.bottleneck_dropout[adapter_name](self._cast_input_dtype(u, down.weight.dtype))
        activation, sizes = self.bottleneck_activation[adapter_name], self.stack_sizes[adapter_name]
        if len(sizes) == 1:
            result: Tensor = up(activation(down(inner)))
        else:
            parts = zip(
                torch.split(down.weight, sizes, dim=0), torch.split(up.weight, sizes, dim=1), strict=True
            )
            result = _stack_detours(inner, parts, activation)
        if adapter_name in self.bottleneck_scaling:
            result = result * self.bottleneck_scaling[adapter_name]
        elif self.scaling[adapter_name] != 1.0:
            result = result * self.scaling[adapter_name]
        return result

    def _add_detours(self, y: Tensor, u: Tensor, placement: str, adapter_names: list[str] | None) -> Tensor:
        """Return ``y`` plus d(u), in the dtype of ``y``: of the active adapters with this placement, or of each row's own."""
        for name in self.active_adapters if adapter_names is None else sorted(set(adapter_names)):
            if self.placement.get(name) != placement:
                continue
            if adapter_names is None:
                y = y + self.detour(name, u).to(y.dtype)
            else:
                rows = torch.tensor(
                    [row for row, row_name in enumerate(adapter_names) if row_name == name], device=y.device
                )
                y = y.index_add(0, rows, self.detour(name, u[rows]).to(y.dtype))
        return y

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Map ``x`` (batch, tokens, in_features) to (batch, tokens, out_features).

        Args:
            x: input of the frozen map.
            args: passed to the frozen map.
            adapter_names: at inference, the adapter of each row ("__base__": none) instead of the active ones.
            kwargs: passed to the frozen map.

        Raises:
            ValueError: the length of ``adapter_names`` is not the batch size.
        """
        if adapter_names is not None and len(adapter_names) != len(x):
            raise ValueError(
                f"adapter_names: {len(adapter_names)} names for {len(x)} rows; pass one name for each row"
            )
        if self.disable_adapters:
            return cast(Tensor, self.base_layer(x, *args, **kwargs))
        z = self.base_layer(self._add_detours(x, x, "before", adapter_names), *args, **kwargs)
        z = self._add_detours(z, x, "parallel", adapter_names)
        return self._add_detours(z, z, "after", adapter_names)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise ValueError: a detour is not linear, so no single weight matrix computes the same."""
        raise ValueError(MERGE_REFUSAL)

    def unmerge(self) -> None:
        """Do nothing: an adapter is never merged."""

    def __repr__(self) -> str:
        return "bottleneck." + super().__repr__()


def _stack_detours(
    u: Tensor, parts: Iterable[tuple[Tensor, Tensor]], activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return what detours add to ``u`` one after the other; ``parts`` are the weights of their maps down and up."""
    total = torch.zeros_like(u)
    for down, up in parts:
        total = total + functional.linear(activation(functional.linear(u + total, down)), up)
    return total


def _uninitialized_linear(in_features: int, out_features: int, device: str) -> nn.Linear:
    """Return a linear map without bias and with uninitialized weight, on "cpu" or "meta"."""
    linear = nn.Linear(in_features, out_features, bias=False, device="meta")
    # assigned, because accelerate's init_empty_weights (low_cpu_mem_usage) intercepts the assignment
    linear.weight = nn.Parameter(torch.empty(out_features, in_features, device=device))
    return linear


MERGE_REFUSAL = (
    "a bottleneck adapter cannot be merged into its base: it is not linear, so no single weight matrix computes the same; "
    "keep the adapter and the base apart, or remove the adapter with unload()"
)
