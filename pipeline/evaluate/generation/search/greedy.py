"""Greedy decoding in batches that shrink, with one wait for the device at each token.

When half of the rows have ended, they are taken out of the batch, and the others continue from their keys and values.
The host reads the new tokens once a step and decides everything from them. A search that asks the device what it
needs to know (has a row ended, has every row ended, does the mask hide anything) waits several times at each token, and
the device is idle meanwhile. Tests compare the tokens with those of transformers' ``generate``, and count the waits.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from pipeline.evaluate.generation.cache import continuation_model
from pipeline.evaluate.generation.search.prompts import RowReader, read_prompts

# batches with fewer rows than this run until all rows have ended, since a smaller batch costs more than it saves
MIN_ROWS_TO_SHRINK = 8
# Tokens between two checks for complete answers. What is generated beyond completion is cut off.
COMPLETION_CHECK_STEPS = 8

# whether new tokens contain a complete answer; if so, they still do with more tokens behind them
CompletionCheck = Callable[[list[int]], bool]


def decode_greedily(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    cache: DynamicCache,
    config: GenerationConfig,
    completion: CompletionCheck | None,
) -> list[list[int]]:
    """Return the new tokens of each prompt; a row that ended before its batch shrank has further tokens at its end.

    The arguments are those of ``read_prompts``; of ``config``, max_new_tokens and eos_token_id (a list) are used.

    Args:
        completion: ends a row early; None: only the end token does.
    """
    prompts = read_prompts(model, ids, mask, cache, config)
    reader, model = RowReader(prompts.cache, prompts.mask), continuation_model(model)
    tokens = _likeliest(prompts.logits)
    written: list[list[int]] = [[] for _ in range(len(ids))]
    # the rows that are still in the batch, those of them that have ended, and the steps since the batch last shrank
    rows, ended, steps = list(range(len(ids))), set[int](), 0
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
            tokens = tokens[reader.select(remaining)]
        tokens = _likeliest(reader.read(model, tokens))
    return written


def _likeliest(logits: Tensor) -> Tensor:
    # in float32, as transformers does
    return logits.float().argmax(dim=-1)
