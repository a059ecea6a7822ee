"""Positions and soft prompts under left padding, so that in float32 the batch size cannot change an answer.

What peft 0.21.2 with transformers 5.23 does by itself, measured on LLaMA, BLOOM and GPT-J (a test checks it):

- Prefix tuning: ``generate`` with a cache is correct. In ``forward``, positions count the padding, which is wrong on the
  rotary models (LLaMA, GPT-J) unless ``position_ids`` are passed; BLOOM takes positions from the mask and is correct.
- Prompt tuning and p-tuning: peft puts the soft prompt before the padding and drops ``position_ids``, so ``forward`` and
  ``generate`` are wrong on the rotary models. ``generation_inputs`` puts the prompt after the padding.
- Prefix tuning with sliding-window attention (Mistral, Gemma 3, GPT-Neo): the cache holds prefix, padding, tokens, so the
  padding pushes the prefix out of the window. ``needs_equal_lengths`` says when; rows of one length need no padding.
- LoRA, bottleneck and other weight methods: as correct as the bare base. Without ``position_ids``, ``forward`` gives the
  same up to rounding if positions are relative (these three models), and different results if they are learned (GPT-2).
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

# methods whose prompt is a cache of keys and values before the tokens
PROMPT_IN_CACHE = ("PREFIX_TUNING", "CARTRIDGE")


def positions(attention_mask: Tensor) -> Tensor:
    """Return position ids (batch, tokens) that count real tokens only; the padding before them gets 0.

    They can be passed to ``forward`` for every method and architecture (BLOOM ignores them; peft adds the length of a
    prefix).
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def generation_inputs(
    model: Any, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Any, dict[str, Tensor], int]:
    """Return the model to call ``generate`` on, its inputs, and how many leading tokens of each result are not new.

    Args:
        model: a bare base or a PeftModel with any method.
        input_ids: (batch, tokens), int64, padded on the left.
        attention_mask: (batch, tokens), 0 at the padding and 1 elsewhere.

    Example:
        callee, inputs, skip = generation_inputs(model, ids, mask)
        new_tokens = callee.generate(**inputs, max_new_tokens=32)[:, skip:]
    """
    if not _has_soft_prompt(model):
        return model, {"input_ids": input_ids, "attention_mask": attention_mask}, input_ids.shape[1]
    embeddings, mask = _prompt_after_padding(model, input_ids, attention_mask)
    return model.get_base_model(), {"inputs_embeds": embeddings, "attention_mask": mask}, 0


def needs_equal_lengths(model: Any, *, tokens: int) -> bool:
    """Return whether padding would change answers: a prefix in the cache, and a window shorter than prefix and ``tokens``."""
    if not isinstance(model, PeftModel):
        return False
    config, window = model.active_peft_config, window_of(model.config)
    if config.peft_type.value not in PROMPT_IN_CACHE:
        return False
    return window is not None and tokens + config.num_virtual_tokens > window


def window_of(config: Any) -> int | None:
    """Return the attention window of a model in tokens; None: all layers attend to all tokens."""
    return getattr(config, "sliding_window", None) or getattr(config, "window_size", None)


def _has_soft_prompt(model: Any) -> bool:
    if not isinstance(model, PeftModel):
        return False
    config = model.active_peft_config
    return config.is_prompt_learning and config.peft_type.value not in PROMPT_IN_CACHE


def _prompt_after_padding(model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings (batch, prompt + tokens, hidden) in the order padding, soft prompt, tokens, and their mask."""
    tokens = model.word_embeddings(input_ids)
    prompt = model.get_prompt(batch_size=len(input_ids)).to(tokens.dtype)
    mask = torch.cat([attention_mask.new_ones(prompt.shape[:2]), attention_mask], dim=1)
    # a stable sort by the mask moves the padding of each row to its front and keeps the order of the tokens
    order = mask.argsort(dim=1, stable=True)
    embeddings = torch.cat([prompt, tokens], dim=1)
    return embeddings.gather(1, order[..., None].expand_as(embeddings)), mask.gather(1, order)
