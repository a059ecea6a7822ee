"""Attention heads that look back from the start, which lets tiny pretrained bases learn to copy."""

import math
from typing import Any

import torch

# by architecture: the attention score between a token and its equal, and the share of the value that is written out
STRENGTHS = {"llama": (4.0, 0.5), "gptj": (4.0, 0.5), "bloom": (8.0, 0.2)}
# attention score that BLOOM's look-back heads lose at the token itself
REPULSION = 12.0
# first coordinate of all embeddings, for heads that attend to positions instead of words
CONSTANT = 0.4
# size of query and key in each rotary pair of such a head
SHARPNESS = 6.0
# layer -> head -> how many tokens back it looks at the start
BACK = {0: {0: 1, 1: 2}, 1: {0: 1}}


def favour_look_back(model: Any, architecture: str, *, seed: int) -> None:
    """Initialize attention to find and copy: keys equal queries, and the output map is the transposed value map.

    Without it, multiple choice by label stays at chance for thousands of steps in models of this size. The sizes of the
    embeddings set how strongly a token matches its equal and how much of the value reaches the output. They differ
    between architectures: with one standard deviation for all, BLOOM's heads (whose embeddings are normalized) would
    write a hundredth of what they read. Some heads of the first two layers look one or two tokens back: by the rotary
    phase in LLaMA and GPT-J, by keys that repel the token itself in BLOOM, whose ALiBi slopes are local anyway.

    Args:
        model: a LLaMA, GPT-J or BLOOM of transformers, changed in place.
        architecture: "llama", "gptj" or "bloom".
        seed: of the queries and values.
    """
    config = model.config
    width, n_heads = config.hidden_size, config.num_attention_heads
    size = width // n_heads
    spread = config.initializer_range
    # root mean square of an embedding
    norm = math.sqrt((width * spread**2 + CONSTANT**2) / width)
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
            _write_heads(attention, query, value)
        if architecture == "bloom":
            _repel_own_token(model, math.sqrt(REPULSION / match))
        else:
            _rotate_back(model, architecture, CONSTANT / norm)


def _attentions(model: Any) -> list[Any]:
    """Return the attention modules, first layer first."""
    names = ("self_attn", "self_attention", "attn")
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] in names]


def _write_heads(attention: Any, query: torch.Tensor, value: torch.Tensor) -> None:
    """Write queries (also as keys) and values, each (heads, size, hidden), and the values transposed as output."""
    width = query.shape[2]
    if hasattr(attention, "query_key_value"):
        fused = attention.query_key_value.weight.view(query.shape[0], 3, query.shape[1], width)
        fused.copy_(torch.stack([query, query, value], dim=1))
        attention.dense.weight.copy_(value.reshape(width, width).T)
        return
    # the shared coordinate carries no word
    query[:, :, 0] = value[:, :, 0] = 0
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
    """Turn heads into look-back heads; ``constant`` is the shared coordinate after the first norm."""
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
                # LLaMA pairs a coordinate with the one half a head further on, GPT-J with its neighbour
                first, second = (
                    (pair, pair + rotary // 2) if architecture == "llama" else (2 * pair, 2 * pair + 1)
                )
                query[first, 0] = SHARPNESS / constant
                key[first, 0] = SHARPNESS / constant * math.cos(angle)
                key[second, 0] = SHARPNESS / constant * math.sin(angle)
