"""Memory and speed of real models, as `python -m benchmarks.shapes --write` counts them from their shapes."""

import json
from functools import cache
from pathlib import Path
from typing import TypedDict

PATH = Path(__file__).with_name("footprints.json")
# what a process needs besides tensors, in bytes: the CUDA context, cuBLAS workspaces and the allocator's gaps; an assumption
RESERVED = 1.5e9
# a repository whose model has the shapes of another, which was counted
SAME_SHAPES = {"meta-llama/Llama-2-7b-hf": "yahma/llama-7b-hf"}


class DeviceFootprint(TypedDict):
    """A GPU.

    Attributes:
        memory: bytes.
        flops: FLOP per second that large matrix products in 16 bits reach.
        bandwidth: bytes per second that simple kernels reach.
    """

    memory: float
    flops: float
    bandwidth: float


class MethodFootprint(TypedDict):
    """A training with a method card's own fields.

    Attributes:
        trained: bytes of the trained tensors, their gradients and AdamW's moments.
        kept: bytes that a token keeps for the backward pass.
        kept_with_checkpointing: the same, with gradient checkpointing.
        seconds: device -> seconds of a token in training.
    """

    trained: float
    kept: float
    kept_with_checkpointing: float
    seconds: dict[str, float]


class ModelFootprint(TypedDict):
    """A base in 16 bits.

    Attributes:
        parameters: number of its weights.
        weights: "bf16", "int8" or "nf4" -> bytes.
        cache: bytes of a token in the cache of keys and values.
        logits: bytes of a token's logits and of their gradients.
        logits_at_most: the same for all tokens of a pass, where the loss is computed in pieces; null: it is not.
        methods: method card -> a training with it.
    """

    parameters: int
    weights: dict[str, float]
    cache: float
    logits: float
    logits_at_most: float | None
    methods: dict[str, MethodFootprint]


class Footprints(TypedDict):
    """All devices and models.

    Attributes:
        devices: from the least memory to the most.
        models: hub repository -> footprint.
    """

    devices: dict[str, DeviceFootprint]
    models: dict[str, ModelFootprint]


@cache
def read_footprints() -> Footprints:
    """Return the footprints of all models that were counted."""
    footprints: Footprints = json.loads(PATH.read_text(encoding="utf-8"))
    return footprints


def find_footprint(repository: str) -> ModelFootprint | None:
    """Return the footprint of a hub repository; None: it was not counted."""
    return read_footprints()["models"].get(SAME_SHAPES.get(repository, repository))
