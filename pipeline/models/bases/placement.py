"""A base split over several GPUs (cards) of one machine: whole decoder layers on each, in their order.

accelerate's hooks move what a layer reads to its card, and the logits to where the ids were. So ids go to the first card, and
the cards compute one after the other. An adapter lies on the card of the module that it adapts.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.core.hardware.accelerators import is_gpu


class _Unit(NamedTuple):
    """A part of a model that stays together, its bytes, and whether another part has its weights too."""

    name: str
    bytes: int
    is_tied: bool


def list_cards(device: str, count: int) -> list[torch.device]:
    """Return the GPUs that a job's base is split over; empty: it is on one device.

    Args:
        device: the job's, such as "cuda"; its first ``count`` cards are taken. A CPU has none.
        count: cards of the job.
    """
    kind = torch.device(device).type
    return [torch.device(kind, index) for index in range(count)] if count > 1 and kind == "cuda" else []


def place_modules(weights: Path, cards: Sequence[torch.device]) -> dict[str, torch.device]:
    """Return the card of each part of a model, as transformers' ``device_map``, so that each has about as many bytes.

    Args:
        weights: directory with the model's config; the weights are not read.
        cards: in the order of the layers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    units = list(_units(model, "", set(model._no_split_modules or ()), _shared_modules(model)))
    total, before = sum(unit.bytes for unit in units), 0
    placement = {}
    for unit in units:
        middle = before + unit.bytes / 2
        # without weights of its own, such as rotary angles or a tied head: with the embedding
        card = 0 if unit.is_tied or not unit.bytes else int(middle * len(cards) / total)
        placement[unit.name] = cards[card]
        before += unit.bytes
    return placement


def is_spread(model: Any) -> bool:
    """Return whether a model lies on several cards."""
    return len(cards_of(model)) > 1


def cards_of(model: Any) -> list[torch.device]:
    """Return the devices that a base was loaded to by a ``device_map``, in the order of its layers; empty: without one."""
    placement = getattr(model, "hf_device_map", None) or {}
    return list(dict.fromkeys(placement.values()))


def devices_of(model: Any, device: torch.device) -> list[torch.device]:
    """Return the GPUs of a job: the cards of its model, or its only device; empty on a CPU."""
    return [card for card in cards_of(model) or [device] if is_gpu(card)]


def move_to_first_card(model: Any) -> None:
    """Move what an adapter has outside of the layers, such as a soft prompt, to the first card."""
    cards = cards_of(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device not in cards:
            tensor.data = tensor.data.to(cards[0])


def _shared_modules(model: Any) -> set[nn.Module]:
    """Return the head, if its weights are the embedding's."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return {head} if head is not None and head.weight is embedding.weight else set()


def _units(module: nn.Module, name: str, whole: set[str], tied: set[nn.Module]) -> Iterator[_Unit]:
    """Yield the parts of a module, in order: a decoder layer, or whatever has none in it."""
    if not any(type(part).__name__ in whole for part in module.modules()) or type(module).__name__ in whole:
        size = sum(parameter.nbytes for parameter in module.parameters())
        yield _Unit(name, 0 if module in tied else size, module in tied)
        return
    prefix = f"{name}." if name else ""
    for tensor_name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None:
            yield _Unit(prefix + tensor_name, tensor.nbytes, is_tied=False)
    for child_name, child in module.named_children():
        yield from _units(child, prefix + child_name, whole, tied)
