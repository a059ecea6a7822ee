"""The time that the matrix products of a training take alone on this machine."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class Factor(NamedTuple):
    """Shape, strides and dtype of a factor of a product."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products that run within the context, by their factors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[tuple[Factor, Factor]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count it if it is a product."""
        if func.overloadpacket.__name__ in PRODUCTS:
            left, right = args[-2:]
            self.counts[_describe(left), _describe(right)] += 1
        return func(*args, **(kwargs or {}))


def _describe(tensor: Tensor) -> Factor:
    return Factor(tuple(tensor.shape), tensor.stride(), tensor.dtype)


def count_products(run: Callable[[], object]) -> Counter[tuple[Factor, Factor]]:
    """Return the matrix products of a run."""
    with Products() as products:
        run()
    counts: Counter[tuple[Factor, Factor]] = products.counts
    return counts


def time_products(counts: Mapping[tuple[Factor, Factor], int], *, repeats: int = 3) -> tuple[float, float]:
    """Return the seconds of all products, timed one after the other on random numbers, and their FLOP.

    A product's time is the least of ``repeats`` calls in CPU seconds, after a call that is not counted.
    """
    seconds = flop = 0.0
    for (left, right), count in counts.items():
        factors = [_random(left), _random(right)]
        torch.matmul(*factors)
        times = []
        for _ in range(repeats):
            start = time.process_time()
            torch.matmul(*factors)
            times.append(time.process_time() - start)
        seconds += count * min(times)
        flop += count * 2.0 * factors[0].numel() * factors[1].shape[-1]
    return seconds, flop


def _random(factor: Factor) -> Tensor:
    # a tensor with these strides may have gaps, or be a transposed view
    size = 1 + sum((n - 1) * stride for n, stride in zip(factor.shape, factor.strides, strict=True))
    return torch.randn(size).to(factor.dtype).as_strided(factor.shape, factor.strides)
