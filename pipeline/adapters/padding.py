"""Positions and soft prompts under left padding, so that the batch size cannot change an answer.

What peft 0.21.2 with transformers 5.23 does by itself, measured on LLaMA, BLOOM and GPT-J (a test keeps it true):

- prefix tuning, ``generate`` with a cache: right. ``forward``: positions count the padding, wrong on the rotary models
  (LLaMA, GPT-J) unless ``position_ids`` are given; right on BLOOM, which takes positions from the mask.
- prompt tuning and p-tuning: the soft prompt is put ahead of the padding and given positions are dropped, so both
  ``forward`` and ``generate`` are wrong on the rotary models. ``generation_inputs`` puts the prompt behind the padding.
- prefix tuning where attention has a window (Mistral, Gemma 3, GPT-Neo): a cache holds prefix, padding, tokens, so the
  padding pushes the prefix out of the window. ``needs_equal_lengths`` tells when; rows of one length need no padding.
- LoRA, bottleneck and other weight methods: right as the bare base is. Its ``forward`` without ``position_ids`` gives the
  same up to rounding where positions are relative (these three), and other results where they are learned (GPT-2).
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

# methods whose prompt is a cache of keys and values ahead of the tokens
IN_THE_CACHE = ("PREFIX_TUNING", "CARTRIDGE")


def positions(attention_mask: Tensor) -> Tensor:
    """Return position ids (batch, tokens) that count real tokens only; padding ahead of them gets 0.

    Safe to pass to ``forward`` for every method and architecture (BLOOM ignores it; peft adds the prefix's length).
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def generation_inputs(
    model: Any, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Any, dict[str, Tensor], int]:
    """Return what to call ``generate`` on, its inputs, and how many leading tokens of each result are not new.

    Args:
        model: a bare base or a PeftModel with any method.
        input_ids: (batch, tokens), padded on the left.
        attention_mask: (batch, tokens), 0 at padding.

    Example:
        callee, inputs, skip = generation_inputs(model, ids, mask)
        new_tokens = callee.generate(**inputs, max_new_tokens=32)[:, skip:]
    """
    if not _puts_prompt_into_embeddings(model):
        return model, {"input_ids": input_ids, "attention_mask": attention_mask}, input_ids.shape[1]
    embeddings, mask = _prompt_behind_padding(model, input_ids, attention_mask)
    return model.get_base_model(), {"inputs_embeds": embeddings, "attention_mask": mask}, 0


def needs_equal_lengths(model: Any, *, tokens: int) -> bool:
    """Tell whether padding would change answers: a prefix in the cache, and a window shorter than ``tokens`` and prefix."""
    if not isinstance(model, PeftModel):
        return False
    method, window = model.active_peft_config, window_of(model.config)
    if method.peft_type.value not in IN_THE_CACHE:
        return False
    return window is not None and tokens + method.num_virtual_tokens > window


def window_of(config: Any) -> int | None:
    """Return how many tokens back some layers of a model attend to; None: all layers to all tokens."""
    return getattr(config, "sliding_window", None) or getattr(config, "window_size", None)


def _puts_prompt_into_embeddings(model: Any) -> bool:
    if not isinstance(model, PeftModel):
        return False
    config = model.active_peft_config
    return config.is_prompt_learning and config.peft_type.value not in IN_THE_CACHE


def _prompt_behind_padding(model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings (batch, prompt + tokens, hidden) in the order padding, soft prompt, tokens, and their mask."""
    tokens = model.word_embeddings(input_ids)
    prompt = model.get_prompt(batch_size=len(input_ids)).to(tokens.dtype)
    mask = torch.cat([attention_mask.new_ones(prompt.shape[:2]), attention_mask], dim=1)
    # a stable sort by the mask moves each row's padding to its front and keeps the rest in order
    order = mask.argsort(dim=1, stable=True)
    embeddings = torch.cat([prompt, tokens], dim=1)
    return embeddings.gather(1, order[..., None].expand_as(embeddings)), mask.gather(1, order)
