# mypy: disallow-subclassing-any=False
"""A key/value cache that has room: a new token is written behind the old ones, which stay where they are.

transformers' own cache makes a new tensor of all tokens for each new one, and for beams another one to reorder it; on a
CPU that was the larger part of the time of a small model. Values, and so answers, are the same.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens, at least, that a layer can take before its tensors are made anew


def cache_with_room(config: Any) -> DynamicCache:
    """Return an empty cache for a model of that config; layers with a sliding window stay transformers' own."""
    return with_room(DynamicCache(config=config))


def with_room(cache: DynamicCache) -> DynamicCache:
    """Give the layers of a cache room, what they hold included, and return it."""
    cache.layers = [_roomy(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def bytes_kept(model: Any) -> int:
    """Return the bytes of keys and values that a model keeps of a token."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kept * size * model.dtype.itemsize)


def share(cache: DynamicCache, *, beams: int) -> None:
    """Repeat each row for its beams; what is there by now is the same for them, so that reordering leaves it alone."""
    for layer in cache.layers:
        if isinstance(layer, _RoomyLayer):
            layer.repeat(beams)
        else:
            layer.batch_repeat_interleave(beams)


class _RoomyLayer(DynamicLayer):
    """``keys`` and ``values`` (rows, heads, tokens, size) are the front parts of larger tensors."""

    keys: Tensor
    values: Tensor

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.rooms: list[Tensor | None] = [None, None]
        self.shared = 0  # leading tokens that are the same for all beams of a prompt

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.rooms[0], self.keys = _appended(self.keys, self.rooms[0], key_states)
        self.rooms[1], self.values = _appended(self.values, self.rooms[1], value_states)
        return self.keys, self.values

    def repeat(self, beams: int) -> None:
        """Repeat each row, with room for more tokens at once: a copy less than to repeat and then to make room."""
        self.shared = self.get_seq_length()
        made = [_repeated(held, beams) for held in (self.keys, self.values)]
        self.rooms = [room for room, _ in made]
        self.keys, self.values = (held for _, held in made)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        moved = (beam_idx != torch.arange(len(beam_idx), device=beam_idx.device)).nonzero()[:, 0]
        for held in (self.keys, self.values):
            held[moved, :, self.shared :] = held[beam_idx[moved], :, self.shared :]


def _roomy(layer: DynamicLayer) -> _RoomyLayer:
    made = _RoomyLayer()
    for name, value in vars(layer).items():
        setattr(made, name, value)
    return made


def _repeated(held: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """Return the larger tensor and its front part: each row of what was held, ``beams`` times."""
    rows, heads, length, size = held.shape
    room = held.new_empty(rows, beams, heads, length + ROOM, size)
    room[..., :length, :] = held[:, None]
    room = room.flatten(0, 1)
    return room, room[:, :, :length]


def _appended(held: Tensor, room: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return the larger tensor and its front part: what was held and the new tokens behind it."""
    length = held.shape[-2] if held.numel() else 0
    end = length + new.shape[-2]
    # rows that were selected, repeated or cropped at the front lie elsewhere
    if room is None or held.data_ptr() != room.data_ptr() or len(held) != len(room) or end > room.shape[-2]:
        room = new.new_empty(*new.shape[:2], end + max(ROOM, end // 4), new.shape[-1])
        if length:
            room[:, :, :length] = held
    room[:, :, length:end] = new
    return room, room[:, :, :end]
