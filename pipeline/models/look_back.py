"""Attention heads that start out looking back: what lets tiny pretrained bases learn to copy."""

import math
from typing import Any

import torch

# By architecture: the score with which a token attends to its equal, and the share of what it reads that is written.
STRENGTHS = {"llama": (4.0, 0.5), "gptj": (4.0, 0.5), "bloom": (8.0, 0.2)}


REPULSION = 12.0  # score that BLOOM's look-back heads lose at their own token


CONSTANT = 0.4  # a first coordinate that all embeddings share, for heads that look at places instead of words


SHARPNESS = 6.0  # size of query and key in each rotary pair of such a head


BACK = {0: {0: 1, 1: 2}, 1: {0: 1}}  # layer: head: how many tokens back it looks at the start


def favour_look_back(model: Any, architecture: str, *, seed: int) -> None:
    """Start attention so that it finds and copies: keys equal queries, outputs are transposed values.

    Without it multiple choice by label stays at chance for thousands of steps at this size. How strongly a token
    matches its equal, and how much of what is read reaches the output, is set from the sizes of the embeddings, which
    differ between the architectures: with one standard deviation for all, BLOOM's heads (whose embeddings are
    normalised) write a hundredth of what they read. Some heads of the first two layers start by looking one or two
    tokens back: by the rotary phase in LLaMA and GPT-J, by keys that repel the own token in BLOOM, whose ALiBi slopes
    are local already.
    """
    config = model.config
    width, n_heads = config.hidden_size, config.num_attention_heads
    size = width // n_heads
    spread = config.initializer_range
    norm = math.sqrt((width * spread**2 + CONSTANT**2) / width)  # root mean square of an embedding
    written, read = (1.0, 1.0) if architecture == "bloom" else (spread, spread / norm)
    match, copied = STRENGTHS[architecture]
    query_size = math.sqrt(match / (math.sqrt(size) * width * read**2))
    value_size = math.sqrt(copied * written / (size * read))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if not config.tie_word_embeddings:
            model.lm_head.weight.copy_(model.get_input_embeddings().weight)
        for attention in _attentions(model):
            query = torch.randn(n_heads, size, width, generator=generator) * query_size
            value = torch.randn(n_heads, size, width, generator=generator) * value_size
            _set_heads(attention, query, value)
        if architecture == "bloom":
            _repel_own_token(model, math.sqrt(REPULSION / match))
        else:
            _rotate_back(model, architecture, CONSTANT / norm)


def _attentions(model: Any) -> list[Any]:
    """Return the attention modules, first layer first."""
    names = ("self_attn", "self_attention", "attn")
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] in names]


def _set_heads(attention: Any, query: torch.Tensor, value: torch.Tensor) -> None:
    """Write queries (also as keys) and values, each (heads, size, hidden), and the values transposed as output."""
    width = query.shape[2]
    if hasattr(attention, "query_key_value"):
        fused = attention.query_key_value.weight.view(query.shape[0], 3, query.shape[1], width)
        fused.copy_(torch.stack([query, query, value], dim=1))
        attention.dense.weight.copy_(value.reshape(width, width).T)
        return
    query[:, :, 0] = value[:, :, 0] = 0  # the shared coordinate is not a word
    attention.q_proj.weight.copy_(query.reshape(width, width))
    attention.k_proj.weight.copy_(query.reshape(width, width))
    attention.v_proj.weight.copy_(value.reshape(width, width))
    output = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
    output.weight.copy_(value.reshape(width, width).T)


def _repel_own_token(model: Any, factor: float) -> None:
    for layer, heads in BACK.items():
        attention = _attentions(model)[layer]
        fused = attention.query_key_value.weight.view(attention.num_heads, 3, attention.head_dim, -1)
        for head in heads:
            fused[head, 0] *= factor
            fused[head, 1] = -fused[head, 0]


def _rotate_back(model: Any, architecture: str, constant: float) -> None:
    """Turn heads into look-back heads; ``constant`` is the shared coordinate behind the first norm."""
    model.get_input_embeddings().weight[:, 0] = CONSTANT
    if not model.config.tie_word_embeddings:
        model.lm_head.weight[:, 0] = 0
    n_heads, width = model.config.num_attention_heads, model.config.hidden_size
    rotary = width // n_heads if architecture == "llama" else model.config.rotary_dim
    base = model.config.rope_parameters["rope_theta"] if architecture == "llama" else 10000.0
    for layer, heads in BACK.items():
        attention = _attentions(model)[layer]
        for head, distance in heads.items():
            query = attention.q_proj.weight.view(n_heads, -1, width)[head]
            key = attention.k_proj.weight.view(n_heads, -1, width)[head]
            query.mul_(0.2)
            key.copy_(query)
            for pair in range(min(5, rotary // 2)):
                angle = distance * base ** (-2 * pair / rotary)
                # LLaMA rotates a coordinate with the one half a head further on, GPT-J with its neighbour
                first, second = (
                    (pair, pair + rotary // 2) if architecture == "llama" else (2 * pair, 2 * pair + 1)
                )
                query[first, 0] = SHARPNESS / constant
                key[first, 0] = SHARPNESS / constant * math.cos(angle)
                key[second, 0] = SHARPNESS / constant * math.sin(angle)
