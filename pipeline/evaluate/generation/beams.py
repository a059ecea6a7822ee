"""Beam search in which rows leave: what transformers' own finds, without computing on for rows that have ended.

transformers' loop goes on with every row of a batch until the last one has ended, and gives no way to take rows out. This is
the same search, for what the protocols ask of it (no sampling, a length penalty of 1, no early stopping).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.adapters.padding import window_of
from pipeline.evaluate.generation.cache import share

ROTARY = ("llama", "gptj", "gpt_neox", "qwen3", "olmo2")  # BLOOM counts positions from the mask of whole rows
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
    logits, beams, limit = begun.logits, int(config.num_beams or 1), int(config.max_new_tokens or 0)
    state = _first(len(logits), beams, limit, pad=int(config.pad_token_id or 0), device=logits.device)
    read = (_Branches if reads_branches(model) else _Copies)(begun, beams)
    logits = logits.repeat_interleave(beams, dim=0)
    ends = torch.tensor(config.eos_token_id, device=logits.device)
    found = state.best.clone()
    for length in range(1, limit + 1):
        state, origin = _step(state, logits, length, ends)
        if length == limit or not state.open.any():
            break
        read.follow(origin)
        if (~state.open).sum() >= LEAVING * len(state.rows):
            found[state.rows] = state.best
            keep = state.open.nonzero()[:, 0]
            state = state.take(keep)
            read.keep(keep)
        logits = read.next(model, state.tokens[..., length - 1])
    found[state.rows] = state.best
    rows: list[list[int]] = found.tolist()
    return rows


def reads_branches(model: Any) -> bool:
    """Whether a model takes positions and a mask for each token that it reads, and all its layers attend to all tokens."""
    config = model.config
    named = config.model_type in ROTARY and config._attn_implementation in ("sdpa", "eager")
    return named and window_of(config) is None


class _Copies:
    """What was read, with a row of the cache for each beam: any model continues from that."""

    def __init__(self, begun: Begun, beams: int) -> None:
        self.beams, self.cache = beams, begun.cache
        share(self.cache, beams=beams)
        self.mask = begun.mask.repeat_interleave(beams, dim=0)  # (rows * beams, tokens)

    def follow(self, origin: Tensor) -> None:
        """Make each beam the continuation of the one that it came from."""
        self.cache.reorder_cache(origin)

    def keep(self, rows: Tensor) -> None:
        """Go on with these prompts alone."""
        flat = (rows[:, None] * self.beams + torch.arange(self.beams, device=rows.device)).flatten()
        self.mask = self.mask[flat]
        self.cache.batch_select_indices(flat)

    def next(self, model: Any, tokens: Tensor) -> Tensor:
        """Read a token of each beam (rows, beams); return the logits (rows * beams, vocabulary) of the next."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        logits: Tensor = model(
            input_ids=tokens.reshape(-1, 1),
            attention_mask=self.mask,
            position_ids=self.mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        return logits


class _Branches:
    """What was read, with one row of the cache for all beams of a prompt: each attends to the prompt and to its own tokens.

    Nothing is copied, neither for the beams nor when one follows another, and a prompt's keys and values are read once
    for all its beams.
    """

    def __init__(self, begun: Begun, beams: int) -> None:
        rows, device = len(begun.mask), begun.mask.device
        self.cache, self.position = begun.cache, begun.mask.sum(dim=1, keepdim=True)  # of the next token
        self.seen = begun.mask.bool()[:, None].expand(-1, beams, -1)  # (rows, beams, tokens in the cache)
        self.own = torch.eye(beams, dtype=torch.bool, device=device).expand(rows, -1, -1)

    def follow(self, origin: Tensor) -> None:
        """Make each beam the continuation of the one that it came from."""
        self.seen = self.seen.flatten(0, 1)[origin].view_as(self.seen)

    def keep(self, rows: Tensor) -> None:
        """Go on with these prompts alone."""
        self.seen, self.own, self.position = self.seen[rows], self.own[rows], self.position[rows]
        self.cache.batch_select_indices(rows)

    def next(self, model: Any, tokens: Tensor) -> Tensor:
        """Read a token of each beam (rows, beams); return the logits (rows * beams, vocabulary) of the next."""
        self.seen = torch.cat([self.seen, self.own], dim=-1)
        hidden = torch.zeros(self.seen.shape, dtype=model.dtype, device=tokens.device)
        hidden.masked_fill_(~self.seen, torch.finfo(model.dtype).min)
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=hidden[:, None],
            position_ids=self.position.expand(-1, tokens.shape[1]),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.position = self.position + 1
        return logits.flatten(0, 1)


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
