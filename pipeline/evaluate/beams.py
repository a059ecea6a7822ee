"""Beam search in which rows leave: what transformers' own finds, without computing on for rows that have ended.

transformers' loop goes on with every row of a batch until the last one has ended, and gives no way to take rows out. This is
the same search, for what the protocols ask of it (no sampling, a length penalty of 1, no early stopping).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.evaluate.cache import share

NONE = -1e9  # the score of what is not there, as transformers has it
LEAVING = 0.25  # part of a batch that has ended before it leaves: to take rows out copies the keys and values of the rest


class Begun(NamedTuple):
    """Prompts that are read: next tokens' logits (rows, vocabulary), what was read, and its mask (rows, tokens)."""

    logits: Tensor
    cache: DynamicCache
    mask: Tensor


class _Beams(NamedTuple):
    """What is known of the rows at work; ``rows`` (rows,) are their numbers in the batch."""

    rows: Tensor
    scores: Tensor  # (rows, beams): sums of log-probabilities of what is still written, the best first
    tokens: Tensor  # (rows, beams, new tokens): of the same
    ended: Tensor  # (rows, beams): mean log-probabilities of the best that have ended, the best first
    best: Tensor  # (rows, new tokens): the best that has ended
    open: Tensor  # (rows,): whether something better may still come

    def take(self, rows: Tensor) -> "_Beams":
        return _Beams(*(held[rows] for held in self))


def search(model: Any, begun: Begun, config: GenerationConfig) -> list[list[int]]:
    """Return the best new tokens of each row, filled up to the length limit with the padding token.

    Args:
        model: continues from a cache.
        begun: the prompts, each row once; its cache is used up.
        config: num_beams, max_new_tokens, eos_token_id (a list) and pad_token_id are read.

    Source: the search is that of transformers 5.23 (generation/utils.py, ``_beam_search``), a test compares them.
    """
    logits, cache, mask = begun
    beams, limit = int(config.num_beams or 1), int(config.max_new_tokens or 0)
    share(cache, beams=beams)
    mask = torch.cat([mask, mask.new_ones(len(mask), limit)], dim=1).repeat_interleave(beams, dim=0)
    logits = logits.repeat_interleave(beams, dim=0)
    state = _first(len(begun.logits), beams, limit, pad=int(config.pad_token_id or 0), device=logits.device)
    ends = torch.tensor(config.eos_token_id, device=logits.device)
    found, read = state.best.clone(), begun.mask.shape[1]
    for length in range(1, limit + 1):
        state, origin = _step(state, logits, length, ends)
        if length == limit or not state.open.any():
            break
        cache.reorder_cache(origin)
        if (~state.open).sum() >= LEAVING * len(state.rows):
            found[state.rows] = state.best
            keep = state.open.nonzero()[:, 0]
            flat = (keep[:, None] * beams + torch.arange(beams, device=keep.device)).flatten()
            state, mask = state.take(keep), mask[flat]
            cache.batch_select_indices(flat)
        seen = mask[:, : read + length]
        logits = model(
            input_ids=state.tokens[..., length - 1].reshape(-1, 1),
            attention_mask=seen,
            position_ids=seen.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    found[state.rows] = state.best
    rows: list[list[int]] = found.tolist()
    return rows


def _first(rows: int, beams: int, limit: int, *, pad: int, device: Any) -> _Beams:
    scores = torch.full((rows, beams), NONE, device=device)
    scores[:, 0] = 0.0  # all beams are the same, so one is continued
    tokens = torch.full((rows, beams, limit), pad, device=device)
    ended = torch.full((rows, beams), NONE, device=device)
    is_open = torch.ones(rows, dtype=torch.bool, device=device)
    return _Beams(torch.arange(rows, device=device), scores, tokens, ended, tokens[:, 0].clone(), is_open)


def _step(state: _Beams, logits: Tensor, length: int, ends: Tensor) -> tuple[_Beams, Tensor]:
    """Write the token number ``length``; return the beams, and which one (rows * beams,) each continues."""
    rows, beams = state.scores.shape
    # at most one continuation of a beam has each end token, so that enough are left that have none
    sums = torch.log_softmax(logits.float(), dim=-1).view(rows, beams, -1) + state.scores[..., None]
    sums, index = sums.flatten(1).topk(max(2, 1 + len(ends)) * beams)
    beam, token = index // logits.shape[-1], index % logits.shape[-1]
    tokens = state.tokens.gather(1, beam[..., None].expand(-1, -1, state.tokens.shape[-1]))
    tokens[..., length - 1] = token
    over = torch.isin(token, ends) | (length == tokens.shape[-1])

    # only one that is among the best as it ends counts
    means = (sums / length).masked_fill(~over | ~state.open[:, None], NONE)
    means[:, beams:] = NONE
    top, place = means.max(dim=1)
    better = top > state.ended[:, 0]
    best = torch.where(better[:, None], tokens[torch.arange(rows, device=place.device), place], state.best)
    ended = torch.cat([state.ended, means], dim=1).topk(beams).values

    scores, going = sums.masked_fill(over, NONE).topk(beams)
    tokens = tokens.gather(1, going[..., None].expand(-1, -1, tokens.shape[-1]))
    is_open = state.open & (scores[:, 0] / length > ended[:, -1])
    origin = beam.gather(1, going) + beams * torch.arange(rows, device=beam.device)[:, None]
    return _Beams(state.rows, scores, tokens, ended, best, is_open), origin.flatten()
