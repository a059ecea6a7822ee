"""Generate the text answers to a task: its prompts as tokens, in batches, and the rows of its answers file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.resume import write_answers
from pipeline.evaluate.generation.rows import StopReason, TaskCost, TextAnswer
from pipeline.params.protocols import Decoding
from pipeline.prompts.encode import encode_example
from pipeline.prompts.rows import PromptRow, RenderedExample


def write_text_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RenderedExample],
    settings: Decoding,
    *,
    budget: int,
    output: Path,
    label: str,
) -> TaskCost:
    """Generate the answers to a task that are still missing, and write its file.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        tokenizer: the model's.
        examples: rendered rows of a prompts file.
        settings: num_beams, max_new_tokens and perhaps padding and batch_size.
        budget: padded tokens of a batch, new ones included; each row may have several beams.
        output: file to write, with ``TextAnswer`` rows in the order of the examples.
        label: of the progress bar.

    Raises:
        UserError: a single example, or a batch that the protocol sets, does not fit in memory.
    """
    config = decoding.configure_decoding(
        model, tokenizer, max_new_tokens=settings["max_new_tokens"], num_beams=settings["num_beams"]
    )
    ids, cut_prompts = encode_prompts(model, tokenizer, examples, settings["max_new_tokens"], label=label)
    masked = settings.get("padding", "masked") == "masked"
    # unmasked padding repeats the published evaluation, in which only the end token or the limit ends an answer
    completion = decoding.completion_check(tokenizer, config) if masked else None

    def answer_batch(batch: Sequence[int]) -> list[TextAnswer]:
        prompts = [ids[index] for index in batch]
        if masked:
            tokens = decoding.decode(model, prompts, config, completion)
        else:
            tokens = decoding.decode_unmasked(model, prompts, config)
        return [
            _text_answer(examples[index], new, tokenizer, stop=decoding.stop_reason(new, config, completion))
            for index, new in zip(batch, tokens, strict=True)
        ]

    batches: Iterable[Sequence[int]]
    if masked:
        batches = decoding.batch_by_length(
            [len(row) for row in ids], new_tokens=settings["max_new_tokens"], budget=budget
        )
    else:
        size = settings["batch_size"]
        # as in the published code, which takes its batches in the order of the data
        batches = (range(start, min(start + size, len(ids))) for start in range(0, len(ids), size))
    stats = write_answers(
        examples, batches, answer_batch, output=output, label=label, fixed_batches=not masked
    )
    cost: TaskCost = {
        "asked": stats.answered,
        "rows_at_once": stats.smallest,
        "largest_batch": stats.largest,
        "cut_prompts": cut_prompts,
    }
    if masked:
        cost["batch_tokens"] = budget
    return cost


def encode_prompts(
    model: Any,
    tokenizer: Any,
    examples: Sequence[PromptRow | RenderedExample],
    max_new_tokens: int,
    *,
    label: str = "",
) -> tuple[list[list[int]], int]:
    """Return prompts as token ids, as in training, and how many were cut to the model's positions.

    With the ``label`` of a task, cut prompts are reported on stderr.
    """
    limit = decoding.max_prompt_tokens(model, max_new_tokens=max_new_tokens, label=label)
    full = [encode_example(tokenizer, example, with_response=False)[0] for example in examples]
    if limit is None:
        return full, 0
    fitting = [decoding.truncate_prompt(row, limit=limit, start=tokenizer.bos_token_id) for row in full]
    cut = sum(len(row) < len(before) for row, before in zip(fitting, full, strict=True))
    if label and cut:
        decoding.report_cut_prompts(cut, longest=max(map(len, full)), limit=limit, label=label)
    return fitting, cut


def _text_answer(example: RenderedExample, new: list[int], tokenizer: Any, *, stop: StopReason) -> TextAnswer:
    return {
        "id": example["id"],
        "prompt": example["prompt"],
        "text": tokenizer.decode(new, skip_special_tokens=True),
        "tokens": len(new),
        "stop": stop,
    }
