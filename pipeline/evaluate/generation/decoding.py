"""Decode many prompts at once, so that in float32 the batch size cannot change an answer.

Prompts are padded on the left, padding is masked, and positions count real tokens only. The tokens that all prompts of
a batch begin with (the template, worked examples) are read once. The searches are in
``pipeline.evaluate.generation.search``.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.adapters.padding import generation_inputs, needs_equal_lengths, window_of
from pipeline.core.errors import UserError
from pipeline.evaluate.generation.cache import continuation_model, growing_cache
from pipeline.evaluate.generation.rows import StopReason
from pipeline.evaluate.generation.search.beams import decode_beams
from pipeline.evaluate.generation.search.continuous import Pages, decode_continuously
from pipeline.evaluate.generation.search.sampling import Sampling
from pipeline.evaluate.generation.search.stepwise import CompletionCheck, decode_stepwise
from pipeline.evaluate.parsing.turns import is_complete
from pipeline.models.base import count_positions

# a common beginning with fewer tokens than this is not worth a pass of its own
MIN_SHARED_TOKENS = 8


def batch_by_length(lengths: Sequence[int], *, new_tokens: int, budget: int) -> Iterator[list[int]]:
    """Yield the indices of prompts in batches of similar length, longest first (so that a lack of memory shows at once).

    Args:
        lengths: tokens of each prompt.
        new_tokens: that each row may grow by.
        budget: padded tokens of a batch, new ones included; a single row may exceed it.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        rows = max(1, budget // (lengths[order[0]] + new_tokens))
        yield order[:rows]
        order = order[rows:]


def configure_decoding(
    model: Any, tokenizer: Any, *, max_new_tokens: int, num_beams: int
) -> GenerationConfig:
    """Return a decoding config without transformers' own sampling, and clear the model's own settings of sampling, penalties and lengths."""
    # chat models have several end tokens, of which the tokenizer has only one
    own_ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own_ends if isinstance(own_ends, list) else [own_ends])} - {None}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": sorted(ends)}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.generation_config = model.generation_config = GenerationConfig(**special)
    return GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **special,
    )


def truncate_prompt(ids: list[int], *, limit: int, start: int | None) -> list[int]:
    """Return ids cut to ``limit`` tokens: the start token and the end of the prompt, where the question is, remain."""
    if len(ids) <= limit:
        return ids
    if start is not None and ids[0] == start:
        return [start, *ids[len(ids) - limit + 1 :]]
    return ids[-limit:]


def max_prompt_tokens(model: Any, *, max_new_tokens: int, label: str = "") -> int | None:
    """Return how many tokens a prompt may have, by the model's number of positions; None: no limit.

    Args:
        model: a bare base or a PeftModel.
        max_new_tokens: tokens that follow the prompt.
        label: of the task, for the message.

    Raises:
        UserError: the new tokens and the method's virtual tokens alone fill all positions.
    """
    positions = count_positions(model.config)
    if positions is None:
        return None
    # the virtual tokens of a soft prompt take positions too
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0) or 0
    limit = positions - virtual - max_new_tokens
    if limit < 1:
        taken = (
            f"{max_new_tokens} and {virtual} virtual tokens leave" if virtual else f"{max_new_tokens} leaves"
        )
        raise UserError(
            f"{label and f'{label}: '}max_new_tokens: {taken} no room for a prompt in the model's {positions} positions"
        )
    return limit


def report_cut_prompts(cut: int, *, longest: int, limit: int, label: str) -> None:
    """Report on stderr, before generation, that prompts are longer than the model's positions allow.

    Args:
        cut: number of prompts that were cut.
        longest: tokens of the longest of them.
        limit: tokens that the model's positions leave to a prompt.
        label: of the task.
    """
    print(
        f"{label}: the beginnings of {cut} prompts are cut: they have up to {longest} tokens, but the model's positions "
        f"leave {limit}",
        file=sys.stderr,
    )


def completion_check(tokenizer: Any, config: GenerationConfig) -> CompletionCheck | None:
    """Return the check that ends a row once the model begins another example; None for beams, which run to their end."""

    def check(new: list[int]) -> bool:
        return is_complete(tokenizer.decode(new, skip_special_tokens=True))

    return None if config.num_beams > 1 else check


def stop_reason(
    new: Sequence[int], config: GenerationConfig, completion: CompletionCheck | None
) -> StopReason:
    """Return why a row ended."""
    if new[-1] in config.eos_token_id:
        return "eos"
    return "complete" if completion and completion(list(new)) else "length"


def decode(
    model: Any,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    completion: CompletionCheck | None = None,
    *,
    pages: Pages | None = None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Return the new tokens of each prompt, up to and including the end token or the one that completes the answer.

    With ``sampling`` a prompt has a row for each of its samples, which follow each other.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        prompts: token ids of each row.
        config: returned by ``configure_decoding``.
        completion: ends a row of greedy decoding early; None: only the end token does.
        pages: for continuous batching; None: our own search.
        sampling: of each prompt; None: greedy decoding, or beams.
    """
    if pages is not None:
        written = decode_continuously(model, prompts, config, completion, pages)
        rows = [_cut_after_end(row, config.eos_token_id) for row in written]
    else:
        rows = _decode_by_length(model, prompts, config, completion, sampling)
    return [_cut_after_completion(row, completion) for row in rows] if completion else rows


def decode_unmasked(model: Any, prompts: Sequence[list[int]], config: GenerationConfig) -> list[list[int]]:
    """Return new tokens as ``decode`` does, but attend to padding and count it in positions: the published fault.

    Source: AGI-Edgerunners/LLM-Adapters at commit 8166572, evaluate.py (``generate`` gets no attention mask).
    """
    ids, mask = pad_left(prompts, pad=config.pad_token_id or 0, device=model.device)
    callee, inputs, skip = generation_inputs(model, ids, torch.ones_like(mask))
    with torch.inference_mode():
        rows = callee.generate(**inputs, generation_config=config).sequences[:, skip:].tolist()
    return [_cut_after_end(row, config.eos_token_id) for row in rows]


def _decode_by_length(
    model: Any,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    completion: CompletionCheck | None,
    sampling: Sampling | None,
) -> list[list[int]]:
    """Decode prompts together, or those of each length apart where padding would change answers."""
    longest = max(map(len, prompts)) + (config.max_new_tokens or 0)
    lengths = sorted({len(prompt) for prompt in prompts})
    if len(lengths) == 1 or not needs_equal_lengths(model, tokens=longest):
        return _decode_padded(model, prompts, config, completion, sampling)
    new_tokens: dict[int, list[list[int]]] = {}
    for length in lengths:
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        chosen = [prompts[row] for row in rows]
        group = _decode_padded(model, chosen, config, completion, sampling and sampling.select(rows))
        samples = len(group) // len(rows)
        for number, row in enumerate(rows):
            new_tokens[row] = group[number * samples : (number + 1) * samples]
    return [tokens for row in range(len(prompts)) for tokens in new_tokens[row]]


def _decode_padded(
    model: Any,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    completion: CompletionCheck | None,
    sampling: Sampling | None,
) -> list[list[int]]:
    with torch.inference_mode():
        ids, mask, cache = _read_shared_start(model, prompts, pad=config.pad_token_id or 0)
        if config.num_beams > 1:
            rows = decode_beams(model, ids, mask, cache, config)
        else:
            rows = decode_stepwise(model, ids, mask, cache, config, completion, sampling)
    return [_cut_after_end(row[: config.max_new_tokens], config.eos_token_id) for row in rows]


def _read_shared_start(
    model: Any, prompts: Sequence[list[int]], *, pad: int
) -> tuple[Tensor, Tensor, DynamicCache]:
    """Read the tokens that all prompts begin with, if they are many.

    They precede the padding. This is not possible with a soft prompt, which comes first, nor where attention has a
    window, in which padding takes up places.

    Returns:
        Ids and mask, both (rows, tokens), and the cache of the common beginning.
    """
    cache = growing_cache(model.config)
    shared = common_prefix_length(prompts)
    inseparable = continuation_model(model) is not model or window_of(model.config)
    if len(prompts) == 1 or shared < MIN_SHARED_TOKENS or inseparable:
        return *pad_left(prompts, pad=pad, device=model.device), cache
    ids, mask = pad_left([prompt[shared:] for prompt in prompts], pad=pad, device=model.device)
    start = torch.tensor([prompts[0][:shared]], device=model.device)
    # only the cache is wanted; logits_to_keep=0 would mean the logits of all tokens
    model(input_ids=start, attention_mask=torch.ones_like(start), past_key_values=cache, logits_to_keep=1)
    cache.batch_repeat_interleave(len(prompts))
    starts = start.expand(len(prompts), -1)
    return torch.cat([starts, ids], dim=1), torch.cat([torch.ones_like(starts), mask], dim=1), cache


def common_prefix_length(rows: Sequence[list[int]], *, spare: int = 1) -> int:
    """Return how many tokens all rows begin with, less where a row would keep fewer than ``spare`` of its own."""
    # what the first and the last row in sorted order share, all rows between them share too
    first, last = min(rows), max(rows)
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return max(0, min(shared, min(map(len, rows)) - spare))


def pad_left(prompts: Sequence[list[int]], *, pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, both (rows, longest), 0 at padding."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _cut_after_end(tokens: list[int], ends: Any) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in ends), None)
    return tokens if end is None else tokens[: end + 1]


def _cut_after_completion(tokens: list[int], completion: CompletionCheck) -> list[int]:
    """Return the fewest leading tokens that are complete, however late the check saw it; all if they are not."""
    if not completion(tokens):
        return tokens
    # bisection, since a complete text stays complete with more tokens
    counts = range(len(tokens))
    return tokens[: bisect_left(counts, True, key=lambda count: completion(tokens[:count]))]
