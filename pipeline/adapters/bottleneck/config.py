# mypy: disallow-subclassing-any=False
"""Settings of the bottleneck tuner."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig
from transformers.activations import ACT2FN

from pipeline.adapters._peft_registry import add_peft_type

PLACEMENTS = ("before", "after", "parallel")
INITS = ("normal", "zero_up", "mam")


@dataclass
class BottleneckConfig(PeftConfig):
    """Settings of bottleneck adapters: d(u) = scaling * Up(act(Down(dropout(u)))), without biases.

    Args:
        placement: "before" (y = W(x + d(x))), "after" (z = Wx; y = z + d(z)) or "parallel" (y = Wx + d(x)), or a map
            from target module name to one of them.
        bottleneck_size: inner width of the adapter.
        non_linearity: name of an activation in ``transformers.activations.ACT2FN``.
        adapter_dropout: probability with which an input of the adapter is dropped in training.
        scaling: a number, or "learned" (one trainable scalar an adapted module, 1 at the start).
        init_weights: "normal" (both N(0, 0.02^2), the published default), "zero_up" (the same with Up zero, so that a
            fresh adapter changes nothing) or "mam" (Down Kaiming uniform, Up zero).
        target_modules: list of module names, a regular expression, or "all-linear"; by default the names in a
            ``placement`` map, else those of the published code for the placement and architecture.
        exclude_modules: list of module names, or a regular expression, that are left alone.
        layers_to_transform: numbers of the layers that get adapters; default all.
        layers_pattern: name of the list of layers, if it is an unusual one.
        bias: base biases to train too: "none", "all" or "bottleneck_only".
        modules_to_save: further modules that are trained in full and saved.

    Raises:
        ValueError: a value out of its range; the message names it and the choices.

    Sources:
        Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00052 (series);
        He et al. 2022, arXiv:2110.04366 (parallel, scaled); Hu et al. 2023, arXiv:2304.01933 (all, on causal models).
    """

    placement: str | dict[str, str] = "before"
    bottleneck_size: int = 256
    non_linearity: str = "tanh"
    adapter_dropout: float = 0.0
    scaling: float | str = 1.0
    init_weights: str = "normal"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type("BOTTLENECK")
        _check_numbers(self.bottleneck_size, self.adapter_dropout, self.scaling)
        _check_choice("init_weights", self.init_weights, INITS)
        _check_choice("bias", self.bias, ("none", "all", "bottleneck_only"))
        _check_activation(self.non_linearity)
        places = self.placement.values() if isinstance(self.placement, dict) else [self.placement]
        for place in places:
            _check_choice("placement", place, PLACEMENTS)
        # lists, not sets: adapter_config.json is then the same bytes in every process
        if self.target_modules is not None and not isinstance(self.target_modules, str):
            self.target_modules = sorted(self.target_modules)
        if self.exclude_modules is not None and not isinstance(self.exclude_modules, str):
            self.exclude_modules = sorted(self.exclude_modules)
        _check_layers(self.layers_to_transform)
        self._check_targets()

    def _check_targets(self) -> None:
        if isinstance(self.placement, dict):
            if not self.placement:
                raise ValueError("placement: an empty map; name at least one target module")
            if self.target_modules is None:
                self.target_modules = sorted(self.placement)
            if isinstance(self.target_modules, str):
                raise ValueError(
                    "target_modules: with a placement map give a list of its names, or leave it out"
                )
            for name in self.target_modules:
                self.placement_of(name)
        if isinstance(self.target_modules, list) and not self.target_modules:
            raise ValueError("target_modules: an empty list; name at least one module")
        by_pattern = isinstance(self.target_modules, str) and self.target_modules.lower() != "all-linear"
        _check_pattern("target_modules", self.target_modules)
        _check_pattern("exclude_modules", self.exclude_modules)
        if by_pattern and (self.layers_to_transform is not None or self.layers_pattern is not None):
            raise ValueError(
                "layers_to_transform, layers_pattern: not together with a regular expression as target_modules"
            )

    def placement_of(self, module_name: str) -> str:
        """Return the placement for a module, by the longest name in the map that ends its full name.

        Raises:
            ValueError: if the map has no name for it.
        """
        if isinstance(self.placement, str):
            return self.placement
        found = [name for name in self.placement if module_name == name or module_name.endswith(f".{name}")]
        if not found:
            raise ValueError(
                f"placement: nothing given for module '{module_name}' (given for: {', '.join(self.placement)})"
            )
        return self.placement[max(found, key=len)]


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: unknown {value!r} (choices: {', '.join(choices)})")


def _check_pattern(name: str, value: Any) -> None:
    """Refuse a string that peft could not read as a regular expression."""
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{name}: {value!r} is no regular expression ({error})") from error


def _check_layers(layers: Any) -> None:
    numbers = layers if isinstance(layers, (list, tuple)) else [] if layers is None else [layers]
    if any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in numbers):
        raise ValueError(f"layers_to_transform: must be layers' numbers from 0, not {layers!r}")


def _check_activation(name: Any) -> None:
    if not isinstance(name, str) or name not in ACT2FN:
        raise ValueError(f"non_linearity: unknown {name!r} (choices: {', '.join(sorted(ACT2FN))})")
    if any(True for _ in ACT2FN[name].parameters()):
        raise ValueError(f"non_linearity: {name!r} has weights of its own, which an adapter would not save")


def _check_numbers(bottleneck_size: Any, adapter_dropout: Any, scaling: Any) -> None:
    if isinstance(bottleneck_size, bool) or not isinstance(bottleneck_size, int) or bottleneck_size < 1:
        raise ValueError(f"bottleneck_size: must be a whole number from 1 up, not {bottleneck_size!r}")
    if (
        isinstance(adapter_dropout, bool)
        or not isinstance(adapter_dropout, (int, float))
        or not 0 <= adapter_dropout < 1
    ):
        raise ValueError(f"adapter_dropout: must be from 0 to below 1, not {adapter_dropout!r}")
    is_number = isinstance(scaling, (int, float)) and not isinstance(scaling, bool) and math.isfinite(scaling)
    if scaling != "learned" and not is_number:
        raise ValueError(f"scaling: must be a number or 'learned', not {scaling!r}")
