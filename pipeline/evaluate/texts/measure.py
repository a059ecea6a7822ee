"""Measure the negative log-likelihood of texts under a model, the same way for a bare base and every adapter.

A text is a row's response: a passage, whose prompt is empty, or the reference of an instruction behind its prompt. Only
the tokens of the text count, without an end token. A passage is read behind the start token (the end token where the
tokenizer has no start token). A passage longer than the window is divided: each piece is read behind the last token of the
piece before it, and the last one with all the tokens that fit. So every token counts once. Of a reference, what does not
fit into the window is left out.

Batches are the same on every machine unless it sets their tokens: base and adapter are compared, and another batch
rounds otherwise.

Source of the division: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/utils.py (get_rolling_token_windows,
make_disjoint_window) with a context of one token; a test compares the values.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError
from pipeline.data.passages import PASSAGE
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.likelihood import EncodedChoices, encode_pair, loglikelihoods
from pipeline.evaluate.generation.resume import write_answers
from pipeline.evaluate.generation.rows import TaskCost, TextLikelihood
from pipeline.prompts.rows import RenderedExample

# padded tokens of a batch; fewer where the logits of that many tokens would take more than a GiB in float32
TOKENS, LOGITS = 8192, 2**28


class _EncodedText(NamedTuple):
    """A text as pieces, each a prompt with one continuation, and whether tokens of it or of its prompt are left out."""

    pieces: list[EncodedChoices]
    is_cut: bool

    @property
    def tokens(self) -> int:
        """Tokens that count."""
        return sum(piece.longest for piece in self.pieces)


def text_budget(model: Any, *, chosen: int | None) -> int:
    """Return the padded tokens of a batch: ``chosen`` by the machine, else the same on every machine."""
    return chosen or min(TOKENS, LOGITS // model.config.get_text_config().vocab_size)


def write_text_likelihoods(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RenderedExample],
    *,
    window: int,
    budget: int,
    output: Path,
    label: str,
) -> TaskCost:
    """Measure the texts that are still missing, and write their file.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        tokenizer: the model's.
        examples: rendered rows of a prompts file; their responses are the texts.
        window: tokens that the model reads at once.
        budget: padded tokens of a batch.
        output: file to write, with ``TextLikelihood`` rows in the order of the examples.
        label: of the progress bar.

    Raises:
        UserError: the model has fewer positions than the window, or a text has no tokens.
    """
    _refuse_long_window(model, window, label=label)
    encoded = [_encode_text(tokenizer, example, window) for example in examples]
    sizes = [max(len(piece.prompt) + piece.longest for piece in text.pieces) for text in encoded]

    def answer_batch(batch: Sequence[int]) -> list[TextLikelihood]:
        sums = dict.fromkeys(batch, 0.0)
        for number in range(max(len(encoded[index].pieces) for index in batch)):
            rows = [index for index in batch if number < len(encoded[index].pieces)]
            pieces = [encoded[index].pieces[number] for index in rows]
            values = loglikelihoods(model, pieces, pad=tokenizer.pad_token_id or 0)
            for index, (value,) in zip(rows, values, strict=True):
                sums[index] -= value
        return [_text_likelihood(examples[index], encoded[index].tokens, sums[index]) for index in batch]

    batches = decoding.batch_by_length(sizes, new_tokens=0, budget=budget)
    stats = write_answers(examples, batches, answer_batch, output=output, label=label)
    return {
        "answered": stats.answered,
        "rows_at_once": stats.smallest,
        "largest_batch": stats.largest,
        "cut_prompts": sum(text.is_cut for text in encoded),
        "batch_tokens": budget,
    }


def _refuse_long_window(model: Any, window: int, *, label: str) -> None:
    limit = decoding.max_prompt_tokens(model, max_new_tokens=0, label=label)
    if limit is not None and window > limit:
        raise UserError(
            f"{label}: texts: window: {window}, but the model has {limit} positions for text; set it to {limit} or less"
        )


def _encode_text(tokenizer: Any, example: RenderedExample, window: int) -> _EncodedText:
    prompt, text = encode_pair(
        tokenizer, example["prompt"], example["response"], add_start=example.get("add_start", True)
    )
    if not text:
        raise UserError(f"{example['id']}: the tokenizer has no token for its text")
    if example["answer_form"] == PASSAGE:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return _EncodedText(_divide_passage(prompt or [start], text, window), is_cut=False)
    # the model never reads the last token, it only predicts it
    room = max(window // 2, window + 1 - len(text))
    context = decoding.truncate_prompt(prompt, limit=room, start=tokenizer.bos_token_id)
    counted = text[: window + 1 - len(context)]
    return _EncodedText(
        [EncodedChoices(context, [counted])], is_cut=len(counted) < len(text) or len(context) < len(prompt)
    )


def _divide_passage(start: list[int], text: list[int], window: int) -> list[EncodedChoices]:
    """Return a passage's pieces, each with the tokens that it is read behind."""
    pieces = [EncodedChoices(start, [text[:window]])]
    for begin in range(window, len(text), window):
        piece = text[begin : begin + window]
        pieces.append(EncodedChoices(text[begin + len(piece) - window - 1 : begin], [piece]))
    return pieces


def _text_likelihood(example: RenderedExample, tokens: int, nats: float) -> TextLikelihood:
    return {
        "id": example["id"],
        # JSON has no infinity and no NaN
        "nats": nats if math.isfinite(nats) else None,
        "tokens": tokens,
        "characters": len(example["response"]),
        "bytes": len(example["response"].encode()),
    }
