"""How often the host waits for a device: operations whose result the host reads, counted on any device.

On a GPU such an operation blocks the host until the device has done all that was queued, and the device is idle until
the host has queued more. On a CPU the same operations run, so they can be counted there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# operations whose result has a size that depends on values, or that return a number to Python
READING = (
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
)
# operations that do so only if an index is a mask
INDEXING = ("aten::index.Tensor", "aten::index_put_")


class Waits:
    """A counter.

    Attributes:
        count: waits so far.
    """

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def count_waits() -> Iterator[Waits]:
    """Count the waits of the code in the context."""
    waits = Waits()
    with _Lists(waits), _Operations(waits):
        yield waits


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, waits: Waits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        masks = name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        self.waits.count += masks or name in READING
        return func(*args, **kwargs or {})


class _Lists(TorchFunctionMode):
    """``tolist`` reads a tensor's memory, on a CPU without any operation."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.waits.count += func is Tensor.tolist
        return func(*args, **kwargs or {})
