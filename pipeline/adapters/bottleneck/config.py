# mypy: disallow-subclassing-any=False
"""The settings of bottleneck adapters."""

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
    """Settings of bottleneck adapters, a method of peft.

    An adapter adds d(u) = scaling * Up(act(Down(dropout(u)))) to a frozen linear map W. Down maps the hidden size to
    ``bottleneck_size`` and Up maps back; both have no bias.

    Args:
        placement: "before" (y = W(x + d(x))), "after" (z = Wx; y = z + d(z)) or "parallel" (y = Wx + d(x)), or a map
            from target module name to one of them.
        bottleneck_size: inner width of the adapter, 1 or more.
        non_linearity: name of an activation without weights in ``transformers.activations.ACT2FN``.
        adapter_dropout: probability that an element of the adapter's input is dropped in training, from 0 to below 1.
        scaling: a number, or "learned" (a trainable scalar for each adapted module, 1 at the start).
        init_weights: "normal" (Down and Up from N(0, 0.02^2), the published default), "zero_up" (the same with Up zero,
            so that a new adapter changes nothing) or "mam" (Down Kaiming uniform, Up zero).
        target_modules: list of module names, a regular expression, or "all-linear". Default: the names in a
            ``placement`` map, else those of the published code for the placement and the architecture.
        exclude_modules: list of module names, or a regular expression, of modules that get no adapter.
        layers_to_transform: numbers, counted from 0, of the layers that get adapters. Default: all.
        layers_pattern: name of the model's list of layers, if peft does not know it.
        bias: which biases of the base are trained too: "none", "all" or "bottleneck_only" (those of adapted modules).
        modules_to_save: further modules that are trained in full and saved with the adapter.
        stack_sizes: sizes of detours that follow each other within the adapter; their sum is ``bottleneck_size``. Each
            reads the input of the adapter plus what the detours before it add, as stacked adapters do. Default: a single
            detour. Only combinations of trained adapters have several.

    Raises:
        ValueError: a value out of its range; the message gives the value and the choices.

    Example:
        config = BottleneckConfig(task_type="CAUSAL_LM", placement="parallel", bottleneck_size=64)
        model = peft.get_peft_model(base, config)

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
    stack_sizes: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type("BOTTLENECK")
        _check_numbers(self.bottleneck_size, self.adapter_dropout, self.scaling)
        _check_is_choice("init_weights", self.init_weights, INITS)
        _check_is_choice("bias", self.bias, ("none", "all", "bottleneck_only"))
        _check_activation(self.non_linearity)
        places = self.placement.values() if isinstance(self.placement, dict) else [self.placement]
        for place in places:
            _check_is_choice("placement", place, PLACEMENTS)
        # lists, not sets: adapter_config.json is then the same bytes in every process
        if self.target_modules is not None and not isinstance(self.target_modules, str):
            self.target_modules = sorted(self.target_modules)
        if self.exclude_modules is not None and not isinstance(self.exclude_modules, str):
            self.exclude_modules = sorted(self.exclude_modules)
        _check_layer_numbers(self.layers_to_transform)
        if self.stack_sizes is not None and sum(self.stack_sizes) != self.bottleneck_size:
            raise ValueError(
                f"stack_sizes: {self.stack_sizes} must have the sum {self.bottleneck_size}, the bottleneck_size"
            )
        self._check_targets()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as ``adapter_config.json`` has them."""
        settings: dict[str, Any] = super().to_dict()
        # added later: left out where it is unused, so that the files of earlier adapters keep their bytes
        return {key: value for key, value in settings.items() if key != "stack_sizes" or value is not None}

    def _check_targets(self) -> None:
        if isinstance(self.placement, dict):
            if not self.placement:
                raise ValueError("placement: the map is empty; add at least one target module")
            if self.target_modules is None:
                self.target_modules = sorted(self.placement)
            if isinstance(self.target_modules, str):
                raise ValueError(
                    "target_modules: must be a list of names if placement is a map; leave it out to use the names in the map"
                )
            for name in self.target_modules:
                self.placement_of(name)
        if isinstance(self.target_modules, list) and not self.target_modules:
            raise ValueError("target_modules: the list is empty; add at least one module name")
        by_pattern = isinstance(self.target_modules, str) and self.target_modules.lower() != "all-linear"
        _check_regular_expression("target_modules", self.target_modules)
        _check_regular_expression("exclude_modules", self.exclude_modules)
        if by_pattern and (self.layers_to_transform is not None or self.layers_pattern is not None):
            raise ValueError(
                "layers_to_transform, layers_pattern: cannot be combined with a regular expression as target_modules"
            )

    def placement_of(self, module_name: str) -> str:
        """Return the placement for a module: that of the longest name in the map that its full name ends in.

        Raises:
            ValueError: the map has no name for the module.
        """
        if isinstance(self.placement, str):
            return self.placement
        names = [name for name in self.placement if module_name == name or module_name.endswith(f".{name}")]
        if not names:
            raise ValueError(
                f"placement: no entry for module '{module_name}' (the map has: {', '.join(self.placement)})"
            )
        return self.placement[max(names, key=len)]


def _check_is_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: unknown {value!r} (choices: {', '.join(choices)})")


def _check_regular_expression(name: str, value: Any) -> None:
    """Check that a string is a regular expression, as peft takes it for one."""
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{name}: {value!r} is not a regular expression ({error})") from error


def _check_layer_numbers(layers: Any) -> None:
    numbers = layers if isinstance(layers, (list, tuple)) else [] if layers is None else [layers]
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError(f"layers_to_transform: must be layer numbers, counted from 0 (got {layers!r})")


def _check_activation(name: Any) -> None:
    if not isinstance(name, str) or name not in ACT2FN:
        raise ValueError(f"non_linearity: unknown {name!r} (choices: {', '.join(sorted(ACT2FN))})")
    if any(True for _ in ACT2FN[name].parameters()):
        raise ValueError(f"non_linearity: {name!r} has trainable weights, which an adapter does not save")


def _check_numbers(bottleneck_size: Any, adapter_dropout: Any, scaling: Any) -> None:
    if isinstance(bottleneck_size, bool) or not isinstance(bottleneck_size, int) or bottleneck_size < 1:
        raise ValueError(f"bottleneck_size: must be a positive integer (got {bottleneck_size!r})")
    if (
        isinstance(adapter_dropout, bool)
        or not isinstance(adapter_dropout, (int, float))
        or not 0 <= adapter_dropout < 1
    ):
        raise ValueError(f"adapter_dropout: must be at least 0 and below 1 (got {adapter_dropout!r})")
    is_number = isinstance(scaling, (int, float)) and not isinstance(scaling, bool) and math.isfinite(scaling)
    if scaling != "learned" and not is_number:
        raise ValueError(f"scaling: must be a number or 'learned' (got {scaling!r})")
