"""Tokens of many prompts at once, by transformers' own ``generate``: the batch size cannot change an answer.

Prompts are padded on the left, padding is masked and positions count real tokens only. Greedy batches shrink: when half
of the rows have ended, generation is interrupted, the rest continues from its key/value cache without them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList

from pipeline.adapters.padding import generation_inputs, needs_equal_lengths, window_of
from pipeline.core.errors import UserError
from pipeline.evaluate.generation import beams
from pipeline.evaluate.generation.cache import cache_with_room
from pipeline.evaluate.scoring.statements import is_complete

SMALLEST_SPLIT = 8  # rows; fewer are not worth an interruption
SMALLEST_START = 8  # tokens that prompts have in common; fewer are not worth reading by themselves
STEPS_A_LOOK = 8  # between two looks at whether rows are complete; what is written too much is cut off

Complete = Callable[[list[int]], bool]  # whether new tokens hold all of an answer; more tokens leave it so


def batches(lengths: Sequence[int], *, new_tokens: int, budget: int) -> Iterator[list[int]]:
    """Yield the indices of prompts in batches of like length, longest first (so a batch too large fails at once).

    Args:
        lengths: tokens of each prompt.
        new_tokens: that each row may grow by.
        budget: padded tokens of a batch, grown rows included; a single row may exceed it.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        rows = max(1, budget // (lengths[order[0]] + new_tokens))
        yield order[:rows]
        order = order[rows:]


def settings(model: Any, tokenizer: Any, *, max_new_tokens: int, num_beams: int) -> GenerationConfig:
    """Return deterministic decoding, and clear what the model's own files say of sampling, penalties and lengths."""
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": sorted(ends)}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.generation_config = model.generation_config = GenerationConfig(**tokens)
    return GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **tokens,
    )


def shortened(ids: list[int], *, room: int, start: int | None) -> list[int]:
    """Return ids that fit ``room`` tokens: the end of a prompt, where it asks, and its start token are kept."""
    if len(ids) <= room:
        return ids
    if start is not None and ids[0] == start:
        return [start, *ids[len(ids) - room + 1 :]]
    return ids[-room:]


def room_for_prompt(model: Any, *, max_new_tokens: int) -> int | None:
    """Return how many tokens a prompt may have, by the model's number of positions; None: as many as you like.

    Raises:
        UserError: the new tokens alone leave no room.
    """
    config = model.config
    places = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if config.model_type == "bloom" or places is None:  # distances, not positions
        return None
    soft = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0) or 0
    room = int(places) - soft - max_new_tokens
    if room < 1:
        raise UserError(f"max_new_tokens: {max_new_tokens} leaves no room for a prompt in {places} positions")
    return room


def decode(
    model: Any, prompts: Sequence[list[int]], config: GenerationConfig, complete: Complete | None = None
) -> list[list[int]]:
    """Return the new tokens of each prompt, up to and with the end token or the one that completes the answer.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        prompts: token ids of each row.
        config: what ``settings`` returned.
        complete: ends a row of greedy decoding early; None: nothing but the end token does.
    """
    found = _decode_by_length(model, prompts, config, complete)
    return [_until_complete(row, complete) for row in found] if complete else found


def completed(tokenizer: Any, config: GenerationConfig) -> Complete | None:
    """Return what ``decode`` ends rows by: the model begins another example. None for beams, which are not ended so."""

    def complete(new: list[int]) -> bool:
        return is_complete(tokenizer.decode(new, skip_special_tokens=True))

    return None if config.num_beams > 1 else complete


def stop_reason(new: Sequence[int], config: GenerationConfig, complete: Complete | None) -> str:
    """Return why a row ended: "eos", "complete" (by ``completed``) or "length", at the token limit."""
    if new[-1] in config.eos_token_id:
        return "eos"
    return "complete" if complete and complete(list(new)) else "length"


def _decode_by_length(
    model: Any, prompts: Sequence[list[int]], config: GenerationConfig, complete: Complete | None
) -> list[list[int]]:
    longest = max(map(len, prompts)) + (config.max_new_tokens or 0)
    lengths = sorted({len(prompt) for prompt in prompts})
    if len(lengths) == 1 or not needs_equal_lengths(model, tokens=longest):
        return _decode_padded(model, prompts, config, complete)
    found: dict[int, list[int]] = {}
    for length in lengths:
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        new = _decode_padded(model, [prompts[row] for row in rows], config, complete)
        found |= dict(zip(rows, new, strict=True))
    return [found[row] for row in range(len(prompts))]


def _decode_padded(
    model: Any, prompts: Sequence[list[int]], config: GenerationConfig, complete: Complete | None
) -> list[list[int]]:
    with torch.inference_mode():
        ids, mask, cache = _begun(model, prompts, pad=config.pad_token_id or 0)
        if config.num_beams > 1:
            found = _decode_beams(model, ids, mask, cache, config)
        else:
            found = _decode_shrinking(model, (ids, mask, cache), config, complete)
    return [_until_end(row[: config.max_new_tokens], config.eos_token_id) for row in found]


def _begun(model: Any, prompts: Sequence[list[int]], *, pad: int) -> tuple[Tensor, Tensor, DynamicCache]:
    """Return ids and mask, both (rows, tokens), and a cache of the tokens with which all prompts begin, if they are many.

    Templates, and examples ahead of the question, are the same for all prompts of a task: they are read once, and stand
    ahead of the padding. So not with a soft prompt, which comes first, nor where attention has a window, in which padding
    takes places.
    """
    cache = cache_with_room(model.config)
    same = in_common(prompts)
    whole = past_soft_prompt(model) is not model or window_of(model.config)
    if len(prompts) == 1 or same < SMALLEST_START or whole:
        return *pad_left(prompts, pad=pad, device=model.device), cache
    ids, mask = pad_left([prompt[same:] for prompt in prompts], pad=pad, device=model.device)
    start = torch.tensor([prompts[0][:same]], device=model.device)
    model(input_ids=start, attention_mask=torch.ones_like(start), past_key_values=cache, logits_to_keep=1)
    cache.batch_repeat_interleave(len(prompts))
    ahead = start.expand(len(prompts), -1)
    return torch.cat([ahead, ids], dim=1), torch.cat([torch.ones_like(ahead), mask], dim=1), cache


def decode_unmasked(model: Any, prompts: Sequence[list[int]], config: GenerationConfig) -> list[list[int]]:
    """Return new tokens as ``decode`` does, but attend to the padding and count it in positions: the published fault.

    Source: AGI-Edgerunners/LLM-Adapters at commit 8166572, evaluate.py (``generate`` is given no attention mask).
    """
    ids, mask = pad_left(prompts, pad=config.pad_token_id or 0, device=model.device)
    callee, inputs, skip = generation_inputs(model, ids, torch.ones_like(mask))
    with torch.inference_mode():
        found = callee.generate(**inputs, generation_config=config).sequences[:, skip:].tolist()
    return [_until_end(row, config.eos_token_id) for row in found]


def in_common(rows: Sequence[list[int]], *, spare: int = 1) -> int:
    """Return how many tokens all rows begin with; each keeps ``spare`` of its own."""
    first, last = min(rows), max(rows)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return max(0, min(same, min(map(len, rows)) - spare))


def _decode_beams(
    model: Any, ids: Tensor, mask: Tensor, cache: DynamicCache, config: GenerationConfig
) -> list[list[int]]:
    callee, inputs, _ = generation_inputs(model, ids, mask)
    first = {**config.to_diff_dict(), "num_beams": 1, "max_new_tokens": 1, "output_logits": True}
    out = callee.generate(**inputs, past_key_values=cache, generation_config=GenerationConfig(**first))
    read: Tensor = inputs["attention_mask"]
    ahead = read.new_ones(len(read), out.past_key_values.get_seq_length() - read.shape[1])
    begun = beams.Begun(out.logits[0], out.past_key_values, torch.cat([ahead, read], dim=1))
    return beams.search(past_soft_prompt(model), begun, config)


class _HalfEnded:
    """Ends every row as soon as half of them have met the end token or are complete.

    ``new`` is what each row has written before, ``skip`` the number of ids that are none of it.
    """

    def __init__(
        self,
        ends: Sequence[int],
        new: Sequence[list[int]],
        *,
        skip: int,
        complete: Complete | None,
        device: Any,
    ) -> None:
        self.ends = torch.tensor(list(ends), device=device)
        self.ended = torch.zeros(len(new), dtype=torch.bool, device=device)
        self.enough = len(new) / 2 if len(new) >= SMALLEST_SPLIT else len(new)
        self.new, self.skip, self.complete = new, skip, complete

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.ended |= torch.isin(input_ids[:, -1], self.ends)
        if self.complete and (input_ids.shape[1] - self.skip) % STEPS_A_LOOK == 0:
            for row in (~self.ended).nonzero()[:, 0].tolist():
                self.ended[row] = self.complete(self.new[row] + input_ids[row, self.skip :].tolist())
        return torch.full_like(self.ended, bool(self.ended.sum() >= self.enough))


def _decode_shrinking(
    model: Any,
    begun: tuple[Tensor, Tensor, DynamicCache],
    config: GenerationConfig,
    complete: Complete | None,
) -> list[list[int]]:
    ids, mask, cache = begun
    rows = torch.arange(len(ids), device=ids.device)
    new: list[list[int]] = [[] for _ in range(len(ids))]
    callee, inputs, skip = generation_inputs(model, ids, mask)
    inputs["past_key_values"] = cache
    left = int(config.max_new_tokens or 0)
    while True:
        written = [new[row] for row in rows.tolist()]
        half = _HalfEnded(config.eos_token_id, written, skip=skip, complete=complete, device=ids.device)
        step = GenerationConfig(**{**config.to_diff_dict(), "max_new_tokens": left})
        out = callee.generate(
            **inputs, generation_config=step, stopping_criteria=StoppingCriteriaList([half])
        )
        tokens = out.sequences[:, skip:]
        for row, found in zip(rows.tolist(), tokens.tolist(), strict=True):
            new[row] += found
        left -= tokens.shape[1]
        keep = (~half.ended).nonzero()[:, 0]
        if left <= 0 or not len(keep):
            return new
        rows = rows[keep]
        inputs = _rest(out.past_key_values, inputs["attention_mask"], tokens, keep)
        callee, skip = past_soft_prompt(model), inputs["input_ids"].shape[1]


def _rest(cache: Any, mask: Tensor, tokens: Tensor, keep: Tensor) -> dict[str, Any]:
    """Return the inputs that continue the rows ``keep`` from their cache.

    What the cache holds is masked as before; its ids are not read again, only the last token is. A prefix that lies in
    the cache ahead of the prompt was not in the first mask.
    """
    cache.batch_select_indices(keep)
    ahead = cache.get_seq_length() + 1 - mask.shape[1] - tokens.shape[1]
    parts = [mask.new_ones(len(keep), max(0, ahead)), mask[keep], mask.new_ones(len(keep), tokens.shape[1])]
    whole = torch.cat(parts, dim=1)
    ids = torch.zeros_like(whole)
    ids[:, -1] = tokens[keep, -1]
    return {"input_ids": ids, "attention_mask": whole, "past_key_values": cache}


def past_soft_prompt(model: Any) -> Any:
    """Return what continues a row whose soft prompt is in the cache already: the base itself for such methods."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model


def pad_left(prompts: Sequence[list[int]], *, pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, both (rows, longest), 0 at padding."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _until_end(tokens: list[int], ends: Any) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in ends), None)
    return tokens if end is None else tokens[: end + 1]


def _until_complete(tokens: list[int], complete: Complete) -> list[int]:
    """Return the fewest first tokens that are complete, whenever that was seen; all if they are not."""
    if not complete(tokens):
        return tokens
    return tokens[: bisect_left(range(len(tokens)), True, key=lambda count: complete(tokens[:count]))]
