"""Greedy decoding, or sampling, in batches that shrink, with one wait for the device at each token.

When half of the rows have ended, they are taken out of the batch, and the others continue from their keys and values.
The host reads the new tokens once a step and decides everything from them. A search that asks the device what it
needs to know (has a row ended, has every row ended, does the mask hide anything) waits several times at each token, and
the device is idle meanwhile. Tests compare the tokens with those of transformers' ``generate``, and count the waits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.evaluate.generation.cache import continuation_model
from pipeline.evaluate.generation.search.prompts import RowReader, read_prompts
from pipeline.evaluate.generation.search.sampling import Sampling, sample_tokens

# batches with fewer rows than this run until all rows have ended, since a smaller batch costs more than it saves
MIN_ROWS_TO_SHRINK = 8
# Tokens between two checks for complete answers. What is generated beyond completion is cut off.
COMPLETION_CHECK_STEPS = 8

# whether new tokens contain a complete answer; if so, they still do with more tokens behind them
CompletionCheck = Callable[[list[int]], bool]


def decode_stepwise(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    cache: DynamicCache,
    config: GenerationConfig,
    completion: CompletionCheck | None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Return the new tokens of each row; one that ended before its batch shrank has further tokens at its end.

    A prompt has one row, or one for each of its samples, which follow each other.

    The arguments are those of ``read_prompts``; of ``config``, max_new_tokens and eos_token_id (a list) are used.

    Args:
        completion: ends a row early; None: only the end token does.
        sampling: of each prompt of ``ids``; None: the likeliest tokens.
    """
    prompts = read_prompts(model, ids, mask, cache, config)
    reader, model = RowReader(prompts.cache, prompts.mask), continuation_model(model)
    logits, draws = prompts.logits, None
    if sampling:
        # a prompt is read once for all its samples
        logits = logits[reader.select([row for row in range(len(ids)) for _ in range(sampling.samples)])]
        # (rows, new tokens)
        draws = torch.tensor(sampling.draws, device=logits.device).flatten(0, 1)
    tokens = _choose(logits, sampling, draws, step=0)
    written: list[list[int]] = [[] for _ in range(len(logits))]
    # the rows that are still in the batch, those of them that have ended, and the steps since the batch last shrank
    rows, ended, steps = list(range(len(logits))), set[int](), 0
    limit = int(config.max_new_tokens or 0)
    for length in range(1, limit + 1):
        # the only values that the host waits for in a step
        for row, token in zip(rows, tokens.tolist(), strict=True):
            written[row].append(token)
        steps += 1
        ended |= {row for row in rows if written[row][-1] in config.eos_token_id}
        if completion and steps % COMPLETION_CHECK_STEPS == 0:
            ended |= {row for row in rows if row not in ended and completion(written[row])}
        if length == limit or len(ended) == len(rows):
            break
        if len(rows) >= MIN_ROWS_TO_SHRINK and len(ended) >= len(rows) / 2:
            remaining = [index for index, row in enumerate(rows) if row not in ended]
            rows, ended, steps = [rows[index] for index in remaining], set(), 0
            index = reader.select(remaining)
            tokens, draws = tokens[index], draws if draws is None else draws[index]
        tokens = _choose(reader.read(model, tokens), sampling, draws, step=length)
    return written


def _choose(logits: Tensor, sampling: Sampling | None, draws: Tensor | None, *, step: int) -> Tensor:
    """Return the next token of each row (rows,): the likeliest, or the one that its draw of this step chooses."""
    if sampling is None or draws is None:
        # in float32, as transformers does
        return logits.float().argmax(dim=-1)
    return sample_tokens(logits, draws[:, step], temperature=sampling.temperature, top_p=sampling.top_p)
