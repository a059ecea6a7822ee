"""Log-likelihoods of the choices of many examples at once: what they begin with in common is read once.

The values are those of EleutherAI's lm-evaluation-harness on the same prompts (a test compares them), which splits text
into tokens so: white space that ends the prompt goes to the continuation, prompt and continuation become tokens together,
and what is beyond the prompt's own number of tokens is the continuation. Values are natural logarithms, summed over the
continuation's tokens. Prompts are padded on the left as for generation, continuations on the right; padding is masked.

Source: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/model.py, TemplateLM._encode_pair.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.adapters.padding import generation_inputs, needs_equal_lengths, positions, window_of
from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.resume import answer
from pipeline.evaluate.scoring.choices import continuation
from pipeline.evaluate.scoring.options import option_texts
from pipeline.prompts.encode import encode

Example = Mapping[str, Any]


class Asked(NamedTuple):
    """An example as tokens: its prompt (tokens,) and each choice's continuation (tokens,)."""

    prompt: list[int]
    continuations: list[list[int]]


def ask_task(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    frame: str,
    budget: int,
    output: Path,
    what: str,
) -> dict[str, Any]:
    """Write the log-likelihoods of what is left of a task; return what it took.

    A row is {"id", "prompt", "choices", "continuations", "loglikelihoods" (null where not finite), "tokens" (of each
    continuation), "characters", "bytes" (UTF-8)}.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        tokenizer: the model's.
        examples: rows of a prompts file.
        frame: the protocol's ``continuation`` for this form of answers.
        budget: padded tokens of a batch, every choice counted with its prompt.
        output: file to write.
        what: the progress bar's word.

    Raises:
        UserError: an example without choices, or without their words where the frame needs them.
    """
    texts = [_texts(example, frame) for example in examples]
    asked, cut = _encoded(model, tokenizer, examples, texts)
    sizes = [len(one.continuations) * (len(one.prompt) + _longest(one)) for one in asked]

    def ask(batch: Sequence[int]) -> list[dict[str, Any]]:
        found = loglikelihoods(model, [asked[index] for index in batch], pad=tokenizer.pad_token_id or 0)
        return [
            _row(examples[index], texts[index], asked[index], values)
            for index, values in zip(batch, found, strict=True)
        ]

    batches = decoding.batches(sizes, new_tokens=0, budget=budget)
    return answer(examples, batches, ask, output=output, what=what) | {
        "batch_tokens": budget,
        "cut_prompts": cut,
    }


def _texts(example: Example, frame: str) -> list[str]:
    """Return what is scored for each choice."""
    choices = example["choices"]
    if len(choices) < 2:
        told = f"has {len(choices)} choices" if choices else "has no choices"
        raise UserError(f"{example['id']}: {told}, and a likelihood protocol compares them")
    words = option_texts(example["instruction"], choices)
    if "{text}" in frame and not words:
        raise UserError(
            f"{example['id']}: the instruction states no words for {'/'.join(choices)}, and the protocol's continuation "
            f"'{frame}' needs them; use {{label}}"
        )
    return [continuation(frame, label=label, text=words.get(label, "")) for label in choices]


def encode_pair(
    tokenizer: Any, prompt: str, text: str, *, add_start: bool = True
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of the text that continues it (module docstring has the rule)."""
    whole = encode(tokenizer, prompt + text, add_start=add_start)[0]
    start = encode(tokenizer, prompt.rstrip(), add_start=add_start)[0]
    return start, whole[len(start) :]


def _encoded(
    model: Any, tokenizer: Any, examples: Sequence[Example], texts: Sequence[Sequence[str]]
) -> tuple[list[Asked], int]:
    """Return the examples as tokens, and how many prompts had to be cut to the model's positions."""
    asked, cut = [], 0
    for example, some in zip(examples, texts, strict=True):
        start = {"add_start": example.get("add_start", True)}
        pairs = [encode_pair(tokenizer, example["prompt"], text, **start) for text in some]
        one = Asked(pairs[0][0], [tokens for _, tokens in pairs])
        if not all(one.continuations):
            raise UserError(
                f"{example['id']}: the tokenizer has no token for a continuation ({', '.join(some)})"
            )
        # the last token is never read, only predicted
        room = decoding.room_for_prompt(model, max_new_tokens=_longest(one) - 1)
        if room is not None and len(one.prompt) > room:
            one = one._replace(prompt=decoding.shortened(one.prompt, room=room, start=tokenizer.bos_token_id))
            cut += 1
        asked.append(one)
    return asked, cut


def _longest(one: Asked) -> int:
    return max(map(len, one.continuations))


def _row(example: Example, texts: Sequence[str], asked: Asked, values: Sequence[float]) -> dict[str, Any]:
    return {
        "id": example["id"],
        "prompt": example["prompt"],
        "choices": example["choices"],
        "continuations": list(texts),
        "loglikelihoods": [value if math.isfinite(value) else None for value in values],
        "tokens": [len(tokens) for tokens in asked.continuations],
        "characters": [len(text) for text in texts],
        "bytes": [len(text.encode()) for text in texts],
    }


def loglikelihoods(model: Any, asked: Sequence[Asked], *, pad: int) -> list[list[float]]:
    """Return for each example the log-likelihood of each of its continuations.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        asked: a batch of examples.
        pad: any token; it is masked.
    """
    every = list(range(len(asked)))
    if needs_equal_lengths(model, tokens=max(len(one.prompt) + _longest(one) for one in asked)):
        read = [len(one.prompt) + decoding.in_common(one.continuations) for one in asked]
        groups = [[row for row in every if read[row] == length] for length in sorted(set(read))]
    else:
        groups = [every]
    found: dict[int, list[float]] = {}
    for rows in groups:
        found |= dict(zip(rows, _padded(model, [asked[row] for row in rows], pad=pad), strict=True))
    return [found[row] for row in every]


@torch.inference_mode()
def _padded(model: Any, asked: Sequence[Asked], *, pad: int) -> list[list[float]]:
    shared = [decoding.in_common(one.continuations) for one in asked]
    read = [one.prompt + one.continuations[0][:count] for one, count in zip(asked, shared, strict=True)]
    out, ids, mask = _read(model, read, pad=pad, keep=max(shared) + 1)
    # what all choices of an example begin with: (examples, tokens), the end of what is read
    start = _sums(out.logits[:, :-1], ids[:, ids.shape[1] - max(shared) :], shared, at_end=True)

    owner = [row for row, one in enumerate(asked) for _ in one.continuations]
    rest = [tokens[count:] for one, count in zip(asked, shared, strict=True) for tokens in one.continuations]
    lengths, width = [len(tokens) for tokens in rest], max(map(len, rest))
    target = torch.tensor([row + [pad] * (width - len(row)) for row in rest], device=model.device)
    of_row = torch.tensor(owner, device=model.device)
    logits = out.logits[:, -1:][of_row]
    if width > 1:
        out.past_key_values.batch_select_indices(of_row)
        # a continuation's own last token is predicted and not read: it may stand behind the model's last position
        real = torch.tensor([[place < n - 1 for place in range(width - 1)] for n in lengths]).to(mask)
        more = _continued(model, out.past_key_values, mask[of_row], target[:, :-1], real, keep=width - 1)
        logits = torch.cat([logits, more.logits], dim=1)
    found: list[list[float]] = [[] for _ in asked]
    for row, value in zip(owner, _sums(logits, target, lengths, at_end=False), strict=True):
        found[row].append(start[row] + value)
    return found


def _read(model: Any, rows: Sequence[list[int]], *, pad: int, keep: int) -> tuple[Any, Tensor, Tensor]:
    """Read rows of tokens; what they all begin with, such as the template's first lines, is read once for all.

    Returns:
        The model's output, with the logits of the last ``keep`` places and a cache; the last ids, padded on the left
        (rows, tokens); the mask of all that the cache holds (rows, places).
    """
    common = 0 if len(rows) == 1 or window_of(model.config) else decoding.in_common(rows, spare=keep)
    ids, mask = decoding.pad_left([row[common:] for row in rows], pad=pad, device=model.device)
    start = torch.tensor([rows[0][:common]], device=model.device) if common else ids
    callee, inputs, _ = generation_inputs(model, start, torch.ones_like(start) if common else mask)
    place = positions(inputs["attention_mask"])
    out = callee(**inputs, position_ids=place, use_cache=True, logits_to_keep=1 if common else keep)
    # a prefix in the cache ahead of all was not in the mask
    ahead = out.past_key_values.get_seq_length() - inputs["attention_mask"].shape[1]
    seen = torch.cat([mask.new_ones(len(start), ahead), inputs["attention_mask"]], dim=1)
    if not common:
        return out, ids, seen
    out.past_key_values.batch_repeat_interleave(len(rows))
    seen = seen.expand(len(rows), -1)
    out = _continued(model, out.past_key_values, seen, ids, mask, keep=keep)
    return out, ids, torch.cat([seen, mask], dim=1)


def _continued(model: Any, cache: Any, seen: Tensor, ids: Tensor, mask: Tensor, *, keep: int) -> Any:
    """Return the output behind further ids (rows, tokens) with their mask; ``seen`` is that of what the cache holds."""
    whole = torch.cat([seen, mask], dim=1)
    return decoding.past_soft_prompt(model)(
        input_ids=ids,
        attention_mask=whole,
        position_ids=positions(whole)[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )


def _sums(logits: Tensor, target: Tensor, lengths: Sequence[int], *, at_end: bool) -> list[float]:
    """Return the summed log-probability of each row's target tokens, in float32 or better.

    Args:
        logits: (rows, tokens, vocabulary).
        target: (rows, tokens).
        lengths: how many of a row's tokens count, at the end or at the beginning.
        at_end: which of the two.
    """
    places = torch.arange(target.shape[1], device=target.device)
    counts = torch.tensor(lengths, device=target.device)[:, None]
    real = places >= target.shape[1] - counts if at_end else places < counts
    logits = logits.float()
    values = logits.gather(2, target[..., None])[..., 0] - logits.logsumexp(dim=-1)
    found: list[float] = torch.where(real, values, 0).double().sum(dim=1).tolist()
    return found
