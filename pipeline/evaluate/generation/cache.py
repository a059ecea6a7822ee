# mypy: disallow-subclassing-any=False
"""A key/value cache that appends in place.

A causal language model stores the keys and values of the tokens it has read, so that each new token is computed
alone. transformers' own cache builds a new tensor of all tokens for every new token. For a small model on a CPU, this
copying took most of the time. Here each layer holds a larger tensor with free space at its end, and a new token is
written into that space. ``keys`` and ``values`` are views of the used front part. When the space is full, the layer
allocates a larger tensor and copies once.

Beam search has a second use for it: ``repeat_for_beams`` gives each beam a copy of its prompt's row. All beams of a
prompt have the same prompt tokens, so reordering the beams copies only what they have written since. The stored
numbers, and so the answers, equal those of transformers' cache (tests compare them).
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# tokens that a new tensor has space for, at least, beyond those it holds
SPARE_TOKENS = 64


def growing_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model with that config; layers with a sliding window stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def bytes_per_token(model: Any) -> int:
    """Return the bytes of keys and values that a model stores for a token."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * key_heads * size * model.dtype.itemsize)


def repeat_for_beams(cache: DynamicCache, *, beams: int) -> None:
    """Repeat each row of a cache for its beams; the tokens it holds by now are taken as common to them."""
    for layer in cache.layers:
        if isinstance(layer, _GrowingLayer):
            layer.repeat_for_beams(beams)
        else:
            layer.batch_repeat_interleave(beams)


def reorder_beams(cache: DynamicCache, origin: Tensor, changed: Tensor) -> None:
    """Let each row continue the row ``origin`` (rows,); only the rows ``changed`` (changed rows,) are not their own.

    The caller computes ``changed`` once for all layers: on a GPU, the number of its rows is a wait for the device.
    """
    sources = origin[changed]
    for layer in cache.layers:
        if isinstance(layer, _GrowingLayer):
            layer.copy_rows(sources, changed)
        else:
            layer.reorder_cache(origin)


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of a cache (rows,), each as often as it is named."""
    for layer in cache.layers:
        # layers may lie on several cards
        layer.batch_select_indices(rows.to(layer.keys.device) if layer.is_initialized else rows)


def continuation_model(model: Any) -> Any:
    """Return the model that reads further tokens once a soft prompt is in the cache: for such methods, the base."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model


class _GrowingLayer(DynamicLayer):
    """Keys and values (rows, heads, tokens, size), which are the front parts of larger tensors."""

    keys: Tensor
    values: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.key_storage: Tensor | None = None
        self.value_storage: Tensor | None = None
        # leading tokens that are the same for all beams of a prompt
        self.shared_tokens = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.key_storage, self.keys = _append(self.keys, self.key_storage, key_states)
        self.value_storage, self.values = _append(self.values, self.value_storage, value_states)
        return self.keys, self.values

    def repeat_for_beams(self, beams: int) -> None:
        """Repeat each row into tensors that have free space: a copy less than to repeat first and to grow later."""
        self.shared_tokens = self.get_seq_length()
        self.key_storage, self.keys = _repeat_rows(self.keys, beams)
        self.value_storage, self.values = _repeat_rows(self.values, beams)

    def copy_rows(self, origin: Tensor, target: Tensor) -> None:
        """Copy rows onto others, but for the tokens that all beams of a prompt share."""
        origin, target = origin.to(self.keys.device), target.to(self.keys.device)
        for states in (self.keys, self.values):
            states[target, :, self.shared_tokens :] = states[origin, :, self.shared_tokens :]


def _repeat_rows(states: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """Return a larger tensor and its front part: each row of ``states``, ``beams`` times."""
    rows, heads, length, size = states.shape
    storage = states.new_empty(rows, beams, heads, length + SPARE_TOKENS, size)
    storage[..., :length, :] = states[:, None]
    storage = storage.flatten(0, 1)
    return storage, storage[:, :, :length]


def _append(states: Tensor, storage: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return the larger tensor and its front part: ``states`` with the new tokens behind them."""
    length = states.shape[-2] if states.numel() else 0
    end = length + new.shape[-2]
    # transformers may have replaced the states meanwhile: it selects or repeats rows, or crops tokens, into new tensors
    moved = storage is None or states.data_ptr() != storage.data_ptr() or len(states) != len(storage)
    if storage is None or moved or end > storage.shape[-2]:
        # a quarter more than needed, so that a long answer is copied only a few times
        storage = new.new_empty(*new.shape[:2], end + max(SPARE_TOKENS, end // 4), new.shape[-1])
        if length:
            storage[:, :, :length] = states
    storage[:, :, length:end] = new
    return storage, storage[:, :, :end]
