"""What a training pass computes, moves and keeps, counted on tensors without memory.

The model is built from its config, adapted by ``pipeline.adapters`` and run forward and backward on torch's fake tensors,
which have shapes and dtypes but no data. So the counts are those of the code that trains, not of a formula. A few layers
are run and the counts extended to all of them, since every layer costs the same.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.shapes.models import Shape, build_on_meta
from pipeline.adapters import MethodFields, add_adapter, precision
from pipeline.params.architectures import select_for_architecture
from pipeline.params.reading import read_card

# operators that copy nothing, besides those that torch calls views
ALIASES = ("_unsafe_view", "detach", "empty_like", "empty")
# layers that are run, of which all others follow
FEW, MORE = 2, 4


class Pass(NamedTuple):
    """A forward and backward pass over a micro-batch.

    Attributes:
        forward: (FLOP, bytes moved) of each operator of the forward pass.
        backward: the same, of the backward pass.
        kept: bytes kept for the backward pass, without weights and logits.
    """

    forward: list[tuple[float, float]]
    backward: list[tuple[float, float]]
    kept: float


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists the FLOP and the bytes moved of each operator that runs within the context, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[tuple[float, float]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and list it."""
        out = func(*args, **(kwargs or {}))
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        if written and not func.is_view and name not in ALIASES:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.rows.append(
                (_flop(func, args, kwargs or {}, out), float(sum(_size(tensor) for tensor in read + written)))
            )
        return out


def _flop(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> float:
    """Return the FLOP of a matrix product or of attention; 0 for all other operators."""
    name = func.overloadpacket.__name__
    # torch counts the kernels of GPUs only
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return float(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))  # type: ignore[no-untyped-call]
    if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return float(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))  # type: ignore[no-untyped-call]
    formula = flop_registry.get(func.overloadpacket)
    return float(formula(*args, **kwargs, out_val=out)) if formula else 0.0


def _size(tensor: Tensor) -> int:
    # an expanded tensor has fewer bytes than elements
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def method_fields(name: str, architecture: str) -> MethodFields:
    """Return the fields of a method card for an architecture."""
    card = read_card("methods", name).model_dump()
    return {
        key: select_for_architecture(value, architecture=architecture, field=key)
        for key, value in card.items()
        if key not in ("name", "training", "source")
    }


def adapt_on_meta(shape: Shape, method: str, *, layers: int | None = None) -> Any:
    """Return a bfloat16 base on the meta device with the adapter of a method card."""
    with torch.device("meta"):
        return add_adapter(
            build_on_meta(shape, layers=layers),
            method_fields(method, shape.cards_as),
            architecture=shape.cards_as,
            seed=0,
        )


def count_trainable(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_pass(model: Any, *, rows: int, tokens: int, dtype: str = "bfloat16") -> Pass:
    """Count a pass of an adapted model on the meta device over ``rows`` examples of ``tokens`` tokens.

    All tokens bear loss. The model is left with fake tensors.
    """
    with FakeTensorMode():
        _fill_with_fakes(model)
        precision.avoid_casts(model)
        return run_pass(model.train(), torch.zeros(rows, tokens, dtype=torch.int64), dtype=dtype)


def run_pass(model: Any, ids: Tensor, *, dtype: str) -> Pass:
    """Run a pass of a model, with fake or real tensors, and count it."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            # the reference prevents that a freed storage's address is counted for another
            kept[storage._cdata] = storage
        return tensor

    with Operators() as forward:
        with (
            precision.compute_in(dtype, "cpu"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="sum")
    with Operators() as backward:
        torch.autograd.backward(loss)
    return Pass(forward.rows, backward.rows, float(sum(storage.nbytes() for storage in kept.values())))


def _fill_with_fakes(model: nn.Module) -> None:
    """Replace parameters and buffers on the meta device by fake tensors of the CPU; tied weights stay tied."""
    # keyed by the identity of the old tensors, which are kept so that no identity is used twice
    fakes: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in fakes:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    fakes[id(parameter)] = (parameter, nn.Parameter(empty, parameter.requires_grad))
                module._parameters[name] = fakes[id(parameter)][1]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    # of a soft prompt; peft has them in no buffer
    tokens = getattr(model, "prompt_tokens", {})
    for name, tensor in tokens.items():
        tokens[name] = torch.empty(tensor.shape, dtype=tensor.dtype)


class Counts(NamedTuple):
    """The pass of a whole model, from the passes of models with FEW and MORE layers.

    Attributes:
        few: the pass with FEW layers.
        more: the pass with MORE layers.
        layers: number of layers of the whole model.
    """

    few: Pass
    more: Pass
    layers: int

    def extend(self, few: float, more: float) -> float:
        """Return a sum over all layers from the sums over FEW and MORE layers."""
        return few + (more - few) / (MORE - FEW) * (self.layers - FEW)

    def kept(self) -> float:
        """Return the bytes that are kept for the backward pass."""
        return self.extend(self.few.kept, self.more.kept)

    def kept_by_layer(self) -> float:
        """Return the bytes that a layer keeps."""
        return (self.more.kept - self.few.kept) / (MORE - FEW)

    def flop(self) -> tuple[float, float]:
        """Return the FLOP of the forward and of the backward pass."""
        return (
            self.extend(*(sum(flop for flop, _ in run.forward) for run in (self.few, self.more))),
            self.extend(*(sum(flop for flop, _ in run.backward) for run in (self.few, self.more))),
        )

    def moved(self) -> float:
        """Return the bytes that both passes move."""
        return self.extend(
            *(sum(moved for _, moved in run.forward + run.backward) for run in (self.few, self.more))
        )

    def seconds(self, flops: float, bandwidth: float) -> tuple[float, float]:
        """Return the seconds of both passes, where each operator takes the longer of its computing and its memory traffic."""

        def time(rows: list[tuple[float, float]]) -> float:
            return sum(max(flop / flops, moved / bandwidth) for flop, moved in rows)

        return (
            self.extend(time(self.few.forward), time(self.more.forward)),
            self.extend(time(self.few.backward), time(self.more.backward)),
        )


def count_model(shape: Shape, method: str, *, rows: int, tokens: int) -> Counts:
    """Count the pass of a model with an adapter from runs of a few of its layers."""
    few, more = (
        count_pass(adapt_on_meta(shape, method, layers=layers), rows=rows, tokens=tokens)
        for layers in (FEW, MORE)
    )
    return Counts(few, more, shape.layers)
