"""Write answers batch by batch, so that a killed job can resume and still write the same bytes."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline.core.errors import UserError
from pipeline.core.hardware.accelerators import empty_caches
from pipeline.core.io import read_complete_rows, write_jsonl
from pipeline.core.progress import progress_bar
from pipeline.evaluate.generation.rows import LikelihoodAnswer, TextAnswer, TextLikelihood
from pipeline.models.memory import is_out_of_memory
from pipeline.prompts.rows import RenderedExample

AnswerRow = TypeVar("AnswerRow", TextAnswer, LikelihoodAnswer, TextLikelihood)
# from indices of examples to their answers
AnswerBatch = Callable[[Sequence[int]], list[AnswerRow]]


class BatchStats(NamedTuple):
    """How the examples of a task were divided.

    Attributes:
        answered: examples that this process answered.
        smallest: rows of the smallest batch.
        largest: rows of the largest batch; those of an earlier, killed process count as they were planned.
    """

    answered: int
    smallest: int
    largest: int


def write_answers(
    examples: Sequence[RenderedExample],
    batches: Iterable[Sequence[int]],
    answer_batch: AnswerBatch[AnswerRow],
    *,
    output: Path,
    label: str,
    fixed_batches: bool = False,
    known: Mapping[str, AnswerRow] | None = None,
) -> BatchStats:
    """Write the answers to ``examples``, in their order.

    Args:
        examples: to answer.
        batches: of indices into ``examples``.
        answer_batch: returns the answers to a batch, each with its example's id. A batch that does not fit in memory
            is divided into halves.
        output: JSONL file to write. Finished batches are in ``.NAME.partial`` beside it until all are answered.
        label: of the progress bar.
        fixed_batches: the protocol prescribes the batches, so that one which does not fit in memory is an error.
        known: answers by the ids of the examples that are in no batch.

    Raises:
        UserError: an example, or a fixed batch, does not fit in memory.
    """
    partial = output.with_name(f".{output.stem}.partial")
    rows: dict[str, AnswerRow] = read_finished_rows(partial) | dict(known or {})
    # A batch with a missing answer is repeated in full: the resumed job pads, and so rounds, as an uninterrupted one.
    unfinished, largest_batch = [], 0
    for batch in batches:
        if any(examples[index]["id"] not in rows for index in batch):
            unfinished.append(batch)
        else:
            largest_batch = max(largest_batch, len(batch))
    count, smallest, fitting_share = sum(map(len, unfinished)), len(examples), 1.0
    with (
        partial.open("a", encoding="utf-8") as file,
        progress_bar(len(examples), label=label, unit="examples", initial=len(examples) - count) as bar,
    ):
        for batch in unfinished:
            # Batches have about as many tokens each, so a size that was too large once is not tried again.
            size, largest = max(1, int(len(batch) * fitting_share)), 0
            for part in (batch[start : start + size] for start in range(0, len(batch), size)):
                answers, rows_used = _answer_within_memory(answer_batch, part, fixed=fixed_batches)
                for row in answers:
                    rows[row["id"]] = row
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                largest = max(largest, rows_used)
                if rows_used < len(part):
                    fitting_share = min(fitting_share, rows_used / len(batch))
                bar.update(len(part))
            smallest, largest_batch = min(smallest, largest), max(largest_batch, largest)
    write_jsonl(output, [rows[example["id"]] for example in examples])
    partial.unlink()
    return BatchStats(count, smallest, largest_batch)


def read_finished_rows(partial: Path) -> dict[str, Any]:
    """Return the complete rows of an unfinished file by id, and cut off the torn line that a kill may have left.

    Raises:
        UserError: another line is invalid.
    """
    if not partial.exists():
        return {}
    try:
        rows, length = read_complete_rows(partial)
    except UserError as error:
        raise UserError(f"{error}, or delete the file to generate its answers again") from None
    os.truncate(partial, length)
    return {row["id"]: row for row in rows}


def _answer_within_memory(
    answer_batch: AnswerBatch[AnswerRow], batch: Sequence[int], *, fixed: bool
) -> tuple[list[AnswerRow], int]:
    """Answer a batch, in halves where memory is too small; return the answers and the largest part that fit."""
    try:
        return answer_batch(batch), len(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1 or fixed:
            part = "a single example" if len(batch) == 1 else f"a batch of {len(batch)}, set by the protocol"
            raise UserError(f"out of memory with {part}; use more memory or a smaller dtype") from None
    empty_caches()
    middle = len(batch) // 2
    first, first_size = _answer_within_memory(answer_batch, batch[:middle], fixed=fixed)
    second, second_size = _answer_within_memory(answer_batch, batch[middle:], fixed=fixed)
    return first + second, max(first_size, second_size)
