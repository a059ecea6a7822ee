"""Log-likelihoods of the choices of many examples at once: a prompt is read once, for all of its choices.

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

from pipeline.adapters.padding import generation_inputs, needs_equal_lengths, positions
from pipeline.errors import UserError
from pipeline.evaluate import decoding
from pipeline.evaluate.choices import continuation
from pipeline.evaluate.options import option_texts
from pipeline.evaluate.resume import answer
from pipeline.prompts import encode

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
        lengths = sorted({len(one.prompt) for one in asked})
        groups = [[row for row in every if len(asked[row].prompt) == length] for length in lengths]
    else:
        groups = [every]
    found: dict[int, list[float]] = {}
    for rows in groups:
        found |= dict(zip(rows, _padded(model, [asked[row] for row in rows], pad=pad), strict=True))
    return [found[row] for row in every]


@torch.inference_mode()
def _padded(model: Any, asked: Sequence[Asked], *, pad: int) -> list[list[float]]:
    prompts, mask = decoding.pad_left([one.prompt for one in asked], pad=pad, device=model.device)
    callee, inputs, _ = generation_inputs(model, prompts, mask)
    read = callee(
        **inputs, position_ids=positions(inputs["attention_mask"]), use_cache=True, logits_to_keep=1
    )
    owner = [row for row, one in enumerate(asked) for _ in one.continuations]
    tokens = [tokens for one in asked for tokens in one.continuations]
    # (continuations, tokens), padded on the right
    width = max(map(len, tokens))
    target = torch.tensor([row + [pad] * (width - len(row)) for row in tokens], device=model.device)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens], device=model.device)
    of_row = torch.tensor(owner, device=model.device)
    logits = read.logits[:, -1:][of_row]
    if width > 1:
        rest = _continued(model, read.past_key_values, inputs["attention_mask"], of_row, target, real)
        logits = torch.cat([logits, rest], dim=1)
    values = _log_probability(logits, target) * real
    sums = torch.where(real.bool(), values, 0).double().sum(dim=1).tolist()
    found: list[list[float]] = [[] for _ in asked]
    for row, value in zip(owner, sums, strict=True):
        found[row].append(value)
    return found


def _continued(model: Any, cache: Any, mask: Tensor, of_row: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """Return the logits (continuations, tokens - 1, vocabulary) behind every token of the continuations but the last.

    The cache holds the prompts, and ahead of them what a prefix put there, which is not in ``mask`` (prompts, tokens). A
    continuation's own last token is predicted and not read: it may stand behind the model's last position.
    """
    ahead = cache.get_seq_length() - mask.shape[1]
    cache.batch_select_indices(of_row)
    parts = [mask.new_ones(len(of_row), ahead), mask[of_row], real[:, 1:].to(mask.dtype)]
    whole = torch.cat(parts, dim=1)
    out = decoding.past_soft_prompt(model)(
        input_ids=target[:, :-1],
        attention_mask=whole,
        position_ids=positions(whole)[:, -(target.shape[1] - 1) :],
        past_key_values=cache,
        use_cache=True,
    )
    logits: Tensor = out.logits
    return logits


def _log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-probability (rows, tokens) of each target token, in float32 or better."""
    logits = logits.float()
    return logits.gather(2, target[..., None])[..., 0] - logits.logsumexp(dim=-1)
