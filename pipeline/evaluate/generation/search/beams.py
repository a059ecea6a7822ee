"""Beam search that drops finished prompts from the batch.

The search is that of transformers, for the settings that protocols use: no sampling, a length penalty of 1, no early
stopping. transformers computes every row of a batch until the last one has ended and offers no way to remove rows;
this loop removes prompts whose best answer is settled. Each prompt is read once, before the search, and its keys and
values are in the cache. Then each step reads one token of each beam.

There are two ways to keep the keys and values of the beams. ``_RowPerBeam`` works with any model: each beam has its
own row of the cache, and when beams change places, their rows are copied. ``_SharedRow`` has one row of the cache for
all beams of a prompt: the beams' tokens stand one after the other in it, and a mask hides from each beam the tokens
that it did not write. So nothing is copied when beams change places, only the mask is reordered, and a prompt's keys
and values are read once for all its beams. It needs a model that accepts a mask and a position for each token
(``supports_shared_rows``). Tests compare the result of both with transformers' own search.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.adapters.padding import window_of
from pipeline.evaluate.generation.cache import (
    continuation_model,
    reorder_beams,
    repeat_for_beams,
    select_rows,
)
from pipeline.evaluate.generation.search.prompts import (
    ROTARY_ARCHITECTURES,
    Prompts,
    RowReader,
    read_prompts,
)

# score of a beam that does not exist, as in transformers
IMPOSSIBLE = -1e9
# Share of a batch that must have ended before its prompts are removed: removing copies the cache of those that remain.
REMOVAL_SHARE = 0.25


class _Beams(NamedTuple):
    """The beams of the prompts that are still in the batch.

    Attributes:
        rows: (prompts,): the prompts' numbers in the batch.
        scores: (prompts, beams): summed log-probabilities of unfinished beams, best first.
        tokens: (prompts, beams, new tokens): of the same beams.
        finished_scores: (prompts, beams): mean log-probabilities of the best finished beams, best first.
        best: (prompts, new tokens): the best finished beam.
        is_open: (prompts,): whether an unfinished beam may still beat the finished ones.
    """

    rows: Tensor
    scores: Tensor
    tokens: Tensor
    finished_scores: Tensor
    best: Tensor
    is_open: Tensor

    def select(self, prompts: Tensor) -> "_Beams":
        return _Beams(*(values[prompts] for values in self))


def decode_beams(
    model: Any, ids: Tensor, mask: Tensor, cache: DynamicCache, config: GenerationConfig
) -> list[list[int]]:
    """Return the best new tokens of each prompt, filled up to the length limit with the padding token.

    The arguments are those of ``read_prompts``; of ``config``, num_beams, max_new_tokens, eos_token_id (a list) and
    pad_token_id are used.

    Source: transformers 5.23, generation/utils.py, ``_beam_search``.
    """
    prompts = read_prompts(model, ids, mask, cache, config)
    model, logits = continuation_model(model), prompts.logits
    beams, limit = int(config.num_beams or 1), int(config.max_new_tokens or 0)
    state = _initial_beams(len(logits), beams, limit, pad=int(config.pad_token_id or 0), device=logits.device)
    reader = (_SharedRow if supports_shared_rows(model) else _RowPerBeam)(prompts, beams)
    logits = logits.repeat_interleave(beams, dim=0)
    ends = torch.tensor(config.eos_token_id, device=logits.device)
    best = state.best.clone()
    for length in range(1, limit + 1):
        state, origin = _extend_beams(state, logits, length, ends)
        if length == limit:
            break
        moved = origin != torch.arange(len(origin), device=origin.device)
        # the only values that the host waits for in a step
        open_count, moved_count = torch.stack([state.is_open.sum(), moved.sum()]).tolist()
        if not open_count:
            break
        reader.reorder(origin, torch.nonzero_static(moved, size=moved_count)[:, 0])
        if len(state.rows) - open_count >= REMOVAL_SHARE * len(state.rows):
            best[state.rows] = state.best
            remaining = torch.nonzero_static(state.is_open, size=open_count)[:, 0]
            state = state.select(remaining)
            reader.select(remaining)
        logits = reader.read(model, state.tokens[..., length - 1])
    best[state.rows] = state.best
    rows: list[list[int]] = best.tolist()
    return rows


def supports_shared_rows(model: Any) -> bool:
    """Whether a model takes a mask and a position for each token, and all its layers attend to all tokens."""
    config = model.config
    per_token = config.model_type in ROTARY_ARCHITECTURES and config._attn_implementation in ("sdpa", "eager")
    return per_token and window_of(config) is None


class _RowPerBeam:
    """Keys and values with a row of the cache for each beam."""

    def __init__(self, prompts: Prompts, beams: int) -> None:
        self.beams = beams
        repeat_for_beams(prompts.cache, beams=beams)
        self.rows = RowReader(prompts.cache, prompts.mask.repeat_interleave(beams, dim=0))

    def reorder(self, origin: Tensor, moved: Tensor) -> None:
        """Let each beam continue the beam ``origin`` (prompts * beams,); ``moved`` (beams,) continue another than before."""
        reorder_beams(self.rows.cache, origin, moved)

    def select(self, prompts: Tensor) -> None:
        """Drop all prompts but these."""
        rows = (prompts[:, None] * self.beams + torch.arange(self.beams, device=prompts.device)).flatten()
        self.rows.select(rows.tolist())

    def read(self, model: Any, tokens: Tensor) -> Tensor:
        """Read a token of each beam (prompts, beams); return the logits of the next (prompts * beams, vocabulary)."""
        return self.rows.read(model, tokens.flatten())


class _SharedRow:
    """Keys and values with one row of the cache for all beams of a prompt."""

    def __init__(self, prompts: Prompts, beams: int) -> None:
        count, device = len(prompts.mask), prompts.mask.device
        self.cache = prompts.cache
        # (prompts, 1): position of the next token
        self.position = prompts.mask.sum(dim=1, keepdim=True)
        # (prompts, beams, tokens in the cache): the tokens that each beam attends to
        self.visible = prompts.mask.bool()[:, None].expand(-1, beams, -1)
        # (prompts, beams, beams): of the tokens read in a step, each beam sees its own
        self.own_token = torch.eye(beams, dtype=torch.bool, device=device).expand(count, -1, -1)

    def reorder(self, origin: Tensor, _: Tensor) -> None:
        """Let each beam continue the beam ``origin`` (prompts * beams,)."""
        self.visible = self.visible.flatten(0, 1)[origin].view_as(self.visible)

    def select(self, prompts: Tensor) -> None:
        """Drop all prompts but these."""
        self.visible, self.own_token = self.visible[prompts], self.own_token[prompts]
        self.position = self.position[prompts]
        select_rows(self.cache, prompts)

    def read(self, model: Any, tokens: Tensor) -> Tensor:
        """Read a token of each beam (prompts, beams); return the logits of the next (prompts * beams, vocabulary)."""
        self.visible = torch.cat([self.visible, self.own_token], dim=-1)
        # added to attention scores: 0 where visible, the lowest number elsewhere
        dtype = _computation_dtype(model)
        bias = torch.zeros(self.visible.shape, dtype=dtype, device=tokens.device)
        bias.masked_fill_(~self.visible, torch.finfo(dtype).min)
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=bias[:, None],
            position_ids=self.position.expand(-1, tokens.shape[1]),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.position = self.position + 1
        return logits.flatten(0, 1)


def _computation_dtype(model: Any) -> torch.dtype:
    """Return the dtype of attention scores: that of autocast, whichever the weights have, or else of the weights."""
    device = model.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    dtype: torch.dtype = model.dtype
    return dtype


def _initial_beams(prompts: int, beams: int, limit: int, *, pad: int, device: Any) -> _Beams:
    scores = torch.full((prompts, beams), IMPOSSIBLE, device=device)
    # all beams of a prompt are equal at first, so only the first is continued
    scores[:, 0] = 0.0
    tokens = torch.full((prompts, beams, limit), pad, device=device)
    finished_scores = torch.full((prompts, beams), IMPOSSIBLE, device=device)
    is_open = torch.ones(prompts, dtype=torch.bool, device=device)
    rows = torch.arange(prompts, device=device)
    return _Beams(rows, scores, tokens, finished_scores, tokens[:, 0].clone(), is_open)


def _extend_beams(state: _Beams, logits: Tensor, length: int, ends: Tensor) -> tuple[_Beams, Tensor]:
    """Choose each prompt's best continuations by one token.

    Args:
        state: the beams.
        logits: of each beam's next token, (prompts * beams, vocabulary).
        length: number of the new token, counted from 1.
        ends: the end tokens.

    Returns:
        The new beams, and which beam each of them continues, (prompts * beams,).
    """
    prompts, beams = state.scores.shape
    # Each beam has at most one continuation by each end token, so this many are enough to leave ``beams`` unfinished.
    sums = torch.log_softmax(logits.float(), dim=-1).view(prompts, beams, -1) + state.scores[..., None]
    sums, index = sums.flatten(1).topk(max(2, 1 + len(ends)) * beams)
    beam, token = index // logits.shape[-1], index % logits.shape[-1]
    tokens = state.tokens.gather(1, beam[..., None].expand(-1, -1, state.tokens.shape[-1]))
    tokens[..., length - 1] = token
    finished = torch.isin(token, ends) | (length == tokens.shape[-1])

    # a finished continuation counts only if it is among the best ``beams``
    means = (sums / length).masked_fill(~finished | ~state.is_open[:, None], IMPOSSIBLE)
    means[:, beams:] = IMPOSSIBLE
    top_mean, top = means.max(dim=1)
    improved = top_mean > state.finished_scores[:, 0]
    best = torch.where(improved[:, None], tokens[torch.arange(prompts, device=top.device), top], state.best)
    finished_scores = torch.cat([state.finished_scores, means], dim=1).topk(beams).values

    scores, unfinished = sums.masked_fill(finished, IMPOSSIBLE).topk(beams)
    tokens = tokens.gather(1, unfinished[..., None].expand(-1, -1, tokens.shape[-1]))
    # transformers' rule without early stopping: an open beam is judged by its mean at the present length
    is_open = state.is_open & (scores[:, 0] / length > finished_scores[:, -1])
    origin = beam.gather(1, unfinished) + beams * torch.arange(prompts, device=beam.device)[:, None]
    return _Beams(state.rows, scores, tokens, finished_scores, best, is_open), origin.flatten()
