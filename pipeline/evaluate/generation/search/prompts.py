"""Read the prompts of a batch before a search, and tell a model what its rows attend to afterwards."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.adapters.padding import generation_inputs, window_of
from pipeline.evaluate.generation.cache import select_rows

# Architectures whose rotary positions come from position ids. BLOOM is missing: it takes them from a mask of whole rows.
ROTARY_ARCHITECTURES = ("llama", "gptj", "gpt_neox", "qwen3", "olmo2")
# architectures that accept a mask (rows, 1, 1, tokens) as it is, beside position ids
PREPARED_MASK_ARCHITECTURES = (*ROTARY_ARCHITECTURES, "opt", "gpt2")


class Prompts(NamedTuple):
    """Prompts that have been read.

    Attributes:
        logits: of the next token, (prompts, vocabulary).
        cache: keys and values of the prompts.
        mask: of the cache, (prompts, tokens), 0 at padding.
    """

    logits: Tensor
    cache: DynamicCache
    mask: Tensor


def read_prompts(
    model: Any, ids: Tensor, mask: Tensor, cache: DynamicCache, config: GenerationConfig
) -> Prompts:
    """Read prompts into a cache.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        ids: (prompts, tokens), padded on the left.
        mask: (prompts, tokens), 0 at padding.
        cache: holds the first tokens of ``ids``, or nothing; it is used up.
        config: of the search.
    """
    callee, inputs, _ = generation_inputs(model, ids, mask)
    # transformers' ``generate`` for a single token, since it knows how each architecture and soft prompt is called
    options = {**config.to_diff_dict(), "num_beams": 1, "max_new_tokens": 1, "output_logits": True}
    out = callee.generate(**inputs, past_key_values=cache, generation_config=GenerationConfig(**options))
    read: Tensor = inputs["attention_mask"]
    # a prefix in the cache ahead of the prompt has no place in the mask
    ahead = read.new_ones(len(read), out.past_key_values.get_seq_length() - read.shape[1])
    return Prompts(out.logits[0], out.past_key_values, torch.cat([ahead, read], dim=1))


class RowReader:
    """Reads one further token of each row behind the cache."""

    def __init__(self, cache: DynamicCache, mask: Tensor) -> None:
        # (rows, tokens in the cache)
        self.cache, self.mask = cache, mask
        # (rows, 1): position of the next token
        self.position = self.mask.sum(dim=1, keepdim=True)
        # of each row: whether it is padded; a wait for each batch, none for a token
        self.padded: list[bool] = (self.position < self.mask.shape[1])[:, 0].tolist()

    def select(self, rows: Sequence[int]) -> Tensor:
        """Drop all rows but these; return them as a tensor."""
        index = torch.tensor(rows, device=self.mask.device)
        self.mask, self.position = self.mask[index], self.position[index]
        self.padded = [self.padded[row] for row in rows]
        select_rows(self.cache, index)
        return index

    def read(self, model: Any, tokens: Tensor) -> Tensor:
        """Read a token of each row (rows,); return the logits of the next (rows, vocabulary)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        logits: Tensor = model(
            input_ids=tokens[:, None],
            attention_mask=_attention_mask(model, self.mask, padded=any(self.padded)),
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.position = self.position + 1
        return logits


def _attention_mask(model: Any, mask: Tensor, *, padded: bool) -> Tensor | None:
    """Return the mask to call a model with for one further token of each row.

    transformers looks into a mask (rows, tokens) to see whether it hides anything: a wait for the device at each
    token. The caller knows the answer, so most architectures get what transformers would make of the mask.

    Args:
        model: the bare base, or a PeftModel without a soft prompt.
        mask: (rows, tokens), the further token included; 0 at padding.
        padded: whether the mask has a 0.
    """
    config = model.config
    if (
        config.model_type not in PREPARED_MASK_ARCHITECTURES
        or config._attn_implementation != "sdpa"
        or window_of(config) is not None
    ):
        return mask
    return mask.bool()[:, None, None] if padded else None
