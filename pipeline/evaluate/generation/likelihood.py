"""Log-likelihoods of the choices of many examples at once; what the choices of an example begin with is read once.

The values are those of EleutherAI's lm-evaluation-harness on the same prompts (a test compares them). Text is split
into tokens as there: white space at the end of the prompt belongs to the continuation, prompt and continuation are
tokenized together, and the continuation is what follows the tokens of the prompt alone. Values are natural
logarithms, summed over the continuation's tokens. Prompts are padded on the left as for generation, continuations on
the right; padding is masked.

Source: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/model.py, TemplateLM._encode_pair.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.adapters.padding import generation_inputs, needs_equal_lengths, positions, window_of
from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.cache import continuation_model, select_rows
from pipeline.evaluate.generation.resume import write_answers
from pipeline.evaluate.generation.rows import LikelihoodAnswer, TaskCost
from pipeline.evaluate.scoring.choices import list_continuations
from pipeline.prompts.encode import encode
from pipeline.prompts.rows import RenderedExample


class EncodedChoices(NamedTuple):
    """An example as tokens: its prompt (tokens,) and each choice's continuation (tokens,)."""

    prompt: list[int]
    continuations: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the longest continuation."""
        return max(map(len, self.continuations))


def write_likelihood_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RenderedExample],
    *,
    frame: str,
    unconditional: str | None = None,
    budget: int,
    output: Path,
    label: str,
) -> TaskCost:
    """Compute the log-likelihoods of a task that are still missing, and write its file.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        tokenizer: the model's.
        examples: rendered rows of a prompts file.
        frame: the protocol's ``continuation`` for this form of answers.
        unconditional: the protocol's neutral prompt, behind which every choice is scored again; None: it has none.
        budget: padded tokens of a batch, every choice counted with its prompt.
        output: file to write, with ``LikelihoodAnswer`` rows in the order of the examples.
        label: of the progress bar.

    Raises:
        UserError: an example without choices, or without their words where the frame needs them.
    """
    texts = [list_continuations(example, frame) for example in examples]
    encoded, cut_prompts = _encode_choices(model, tokenizer, examples, texts, label=label)
    sizes = [len(row.continuations) * (len(row.prompt) + row.longest) for row in encoded]

    def answer_batch(batch: Sequence[int]) -> list[LikelihoodAnswer]:
        pad = tokenizer.pad_token_id or 0
        rows = loglikelihoods(model, [encoded[index] for index in batch], pad=pad)
        answers = [
            _likelihood_answer(examples[index], texts[index], encoded[index], values)
            for index, values in zip(batch, rows, strict=True)
        ]
        if unconditional is not None:
            neutral = [
                _encode_behind(tokenizer, unconditional, texts[index], id=examples[index]["id"])
                for index in batch
            ]
            for answer, values in zip(answers, loglikelihoods(model, neutral, pad=pad), strict=True):
                answer["unconditional"] = _finite(values)
        return answers

    batches = decoding.batch_by_length(sizes, new_tokens=0, budget=budget)
    stats = write_answers(examples, batches, answer_batch, output=output, label=label)
    return {
        "answered": stats.answered,
        "rows_at_once": stats.smallest,
        "largest_batch": stats.largest,
        "cut_prompts": cut_prompts,
        "batch_tokens": budget,
    }


def encode_pair(
    tokenizer: Any, prompt: str, text: str, *, add_start: bool = True
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of the text that continues it; the module docstring has the rule."""
    together = encode(tokenizer, prompt + text, add_start=add_start)[0]
    start = encode(tokenizer, prompt.rstrip(), add_start=add_start)[0]
    return start, together[len(start) :]


def _encode_choices(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RenderedExample],
    texts: Sequence[Sequence[str]],
    *,
    label: str,
) -> tuple[list[EncodedChoices], int]:
    """Return the examples as tokens, and how many prompts were cut to the model's positions, which is reported."""
    encoded = []
    # tokens before the cut, and the limit, of each prompt that is cut
    cuts: list[tuple[int, int]] = []
    for example, choice_texts in zip(examples, texts, strict=True):
        add_start = example.get("add_start", True)
        pairs = [
            encode_pair(tokenizer, example["prompt"], text, add_start=add_start) for text in choice_texts
        ]
        # the prompt's tokens are the same for every choice
        row = EncodedChoices(pairs[0][0], [tokens for _, tokens in pairs])
        if not all(row.continuations):
            raise UserError(
                f"{example['id']}: the tokenizer has no token for a continuation ({', '.join(choice_texts)})"
            )
        # the model never reads the last token, it only predicts it
        limit = decoding.max_prompt_tokens(model, max_new_tokens=row.longest - 1, label=label)
        if limit is not None and len(row.prompt) > limit:
            prompt = decoding.truncate_prompt(row.prompt, limit=limit, start=tokenizer.bos_token_id)
            cuts.append((len(row.prompt), limit))
            row = row._replace(prompt=prompt)
        encoded.append(row)
    if cuts:
        longest, limit = max(cuts)
        decoding.report_cut_prompts(len(cuts), longest=longest, limit=limit, label=label)
    return encoded, len(cuts)


def _encode_behind(tokenizer: Any, prompt: str, texts: Sequence[str], *, id: str) -> EncodedChoices:
    """Return the choices behind a neutral prompt; an empty one is the start token, or the end token where there is none."""
    pairs = [encode_pair(tokenizer, prompt, text) for text in texts]
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not all(tokens for _, tokens in pairs):
        raise UserError(f"{id}: the tokenizer has no token for a continuation ({', '.join(texts)})")
    return EncodedChoices(pairs[0][0] or [start], [tokens for _, tokens in pairs])


def _finite(values: Sequence[float]) -> list[float | None]:
    # JSON has no infinity and no NaN
    return [value if math.isfinite(value) else None for value in values]


def _likelihood_answer(
    example: RenderedExample, texts: Sequence[str], encoded: EncodedChoices, values: Sequence[float]
) -> LikelihoodAnswer:
    return {
        "id": example["id"],
        "prompt": example["prompt"],
        "choices": example["choices"],
        "continuations": list(texts),
        "loglikelihoods": _finite(values),
        "tokens": [len(tokens) for tokens in encoded.continuations],
        "characters": [len(text) for text in texts],
        "bytes": [len(text.encode()) for text in texts],
    }


def loglikelihoods(model: Any, batch: Sequence[EncodedChoices], *, pad: int) -> list[list[float]]:
    """Return for each example the log-likelihood of each of its continuations.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        batch: examples to read together.
        pad: any token; it is masked.
    """
    indices = list(range(len(batch)))
    if needs_equal_lengths(model, tokens=max(len(row.prompt) + row.longest for row in batch)):
        lengths = [len(row.prompt) + decoding.common_prefix_length(row.continuations) for row in batch]
        groups = [[row for row in indices if lengths[row] == length] for length in sorted(set(lengths))]
    else:
        groups = [indices]
    values: dict[int, list[float]] = {}
    for group in groups:
        values |= dict(zip(group, _score_padded(model, [batch[row] for row in group], pad=pad), strict=True))
    return [values[row] for row in indices]


@torch.inference_mode()
def _score_padded(model: Any, batch: Sequence[EncodedChoices], *, pad: int) -> list[list[float]]:
    """Read each prompt with the tokens that all its choices begin with; then read the rest of each choice."""
    shared = [decoding.common_prefix_length(row.continuations) for row in batch]
    beginnings = [row.prompt + row.continuations[0][:count] for row, count in zip(batch, shared, strict=True)]
    out, ids, mask = _read_beginnings(model, beginnings, pad=pad, keep=max(shared) + 1)
    # the shared tokens are the last ones that were read: (examples, tokens)
    shared_ids = ids[:, ids.shape[1] - max(shared) :]
    shared_values = _sum_log_probabilities(out.logits[:, :-1], shared_ids, shared, at_end=True)

    # from here on a row is a choice; ``owner`` is its example
    owner = [example for example, row in enumerate(batch) for _ in row.continuations]
    endings = [
        tokens[count:] for row, count in zip(batch, shared, strict=True) for tokens in row.continuations
    ]
    lengths, width = [len(tokens) for tokens in endings], max(map(len, endings))
    target = torch.tensor([row + [pad] * (width - len(row)) for row in endings], device=model.device)
    owner_index = torch.tensor(owner, device=model.device)
    logits = out.logits[:, -1:][owner_index]
    if width > 1:
        select_rows(out.past_key_values, owner_index)
        # The last token of a continuation is predicted and not read: it may lie beyond the model's last position.
        ending_mask = torch.tensor([[n < length - 1 for n in range(width - 1)] for length in lengths]).to(
            mask
        )
        endings_out = _read_behind_cache(
            model, out.past_key_values, mask[owner_index], target[:, :-1], ending_mask, keep=width - 1
        )
        logits = torch.cat([logits, endings_out.logits], dim=1)
    ending_values = _sum_log_probabilities(logits, target, lengths, at_end=False)
    values: list[list[float]] = [[] for _ in batch]
    # one wait for the device, for all values of the batch
    for example, value in zip(owner, (shared_values[owner_index] + ending_values).tolist(), strict=True):
        values[example].append(value)
    return values


def _read_beginnings(
    model: Any, rows: Sequence[list[int]], *, pad: int, keep: int
) -> tuple[Any, Tensor, Tensor]:
    """Read rows of tokens; what all rows begin with, such as the template's first lines, is read once.

    Returns:
        The model's output, with a cache and the logits at the last ``keep`` tokens; the last ids, padded on the left
        (rows, tokens); the mask of everything in the cache (rows, tokens in the cache).
    """
    separate = len(rows) == 1 or window_of(model.config)
    common = 0 if separate else decoding.common_prefix_length(rows, spare=keep)
    ids, mask = decoding.pad_left([row[common:] for row in rows], pad=pad, device=model.device)
    start = torch.tensor([rows[0][:common]], device=model.device) if common else ids
    callee, inputs, _ = generation_inputs(model, start, torch.ones_like(start) if common else mask)
    position_ids = positions(inputs["attention_mask"])
    out = callee(**inputs, position_ids=position_ids, use_cache=True, logits_to_keep=1 if common else keep)
    # a prefix in the cache ahead of the tokens was not in the mask
    prefix = out.past_key_values.get_seq_length() - inputs["attention_mask"].shape[1]
    cache_mask = torch.cat([mask.new_ones(len(start), prefix), inputs["attention_mask"]], dim=1)
    if not common:
        return out, ids, cache_mask
    out.past_key_values.batch_repeat_interleave(len(rows))
    cache_mask = cache_mask.expand(len(rows), -1)
    out = _read_behind_cache(model, out.past_key_values, cache_mask, ids, mask, keep=keep)
    return out, ids, torch.cat([cache_mask, mask], dim=1)


def _read_behind_cache(
    model: Any, cache: Any, cache_mask: Tensor, ids: Tensor, mask: Tensor, *, keep: int
) -> Any:
    """Return the model's output for further ids (rows, tokens) with their mask, behind what the cache holds."""
    full_mask = torch.cat([cache_mask, mask], dim=1)
    return continuation_model(model)(
        input_ids=ids,
        attention_mask=full_mask,
        position_ids=positions(full_mask)[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )


def _sum_log_probabilities(logits: Tensor, target: Tensor, lengths: Sequence[int], *, at_end: bool) -> Tensor:
    """Return the summed log-probability of each row's target tokens (rows,), in float64 where the device has it.

    Args:
        logits: (rows, tokens, vocabulary).
        target: (rows, tokens).
        lengths: how many of a row's tokens count, at its end or at its beginning.
        at_end: which of the two.
    """
    indices = torch.arange(target.shape[1], device=target.device)
    counts = torch.tensor(lengths, device=target.device)[:, None]
    counted = indices >= target.shape[1] - counts if at_end else indices < counts
    logits = logits.float()
    values = logits.gather(2, target[..., None])[..., 0] - logits.logsumexp(dim=-1)
    # an Apple GPU has no float64
    widest = torch.float32 if values.device.type == "mps" else torch.float64
    return torch.where(counted, values, 0).to(widest).sum(dim=1)
