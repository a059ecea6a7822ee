"""Answers as they come, kept through a kill: a restarted job asks what is left and gives the same bytes."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import UserError
from pipeline.core.io import write_jsonl
from pipeline.core.progress import progress_bar

Ask = Callable[[Sequence[int]], list[dict[str, Any]]]


def answer(
    examples: Sequence[Mapping[str, Any]],
    batches: Iterable[Sequence[int]],
    ask: Ask,
    *,
    output: Path,
    what: str,
    whole: bool = False,
) -> dict[str, int]:
    """Write the answers to ``examples``, in their order; return how many were asked now and the rows of the smallest batch.

    Args:
        examples: with their id.
        batches: of indices into ``examples``.
        ask: what returns the rows of a batch, each with its example's id; a batch that does not fit into memory is
            asked in halves.
        output: JSONL file to write; beside it lies ``.NAME.partial`` until all are answered.
        what: the progress bar's word.
        whole: batches are part of the protocol: one that does not fit into memory is an error.

    Raises:
        UserError: an example, or a whole batch, does not fit into memory.
    """
    partial = output.with_name(f".{output.stem}.partial")
    rows = finished_rows(partial)
    # Whole batches are asked again, so that a restarted run pads, and so rounds, as one that was not killed.
    left = [batch for batch in batches if any(examples[index]["id"] not in rows for index in batch)]
    asked, smallest, fitting = sum(map(len, left)), len(examples), 1.0
    with (
        partial.open("a", encoding="utf-8") as file,
        progress_bar(len(examples), label=what, unit="examples", initial=len(examples) - asked) as bar,
    ):
        for batch in left:
            # All batches are about as large in tokens, so what was too much for one is not tried with the next.
            size, largest = max(1, int(len(batch) * fitting)), 0
            for part in (batch[start : start + size] for start in range(0, len(batch), size)):
                made, used = _halving(ask, part, whole=whole)
                for row in made:
                    rows[row["id"]] = row
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                largest = max(largest, used)
                fitting = min(fitting, used / len(batch)) if used < len(part) else fitting
                bar.update(len(part))
            smallest = min(smallest, largest)
    write_jsonl(output, [rows[example["id"]] for example in examples])
    partial.unlink()
    return {"asked": asked, "rows_at_once": smallest}


def finished_rows(partial: Path) -> dict[str, dict[str, Any]]:
    """Return the whole rows of an unfinished file, and cut off the torn end that a kill may have left."""
    if not partial.exists():
        return {}
    rows, kept = {}, 0
    with partial.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            rows[row["id"]], kept = row, kept + len(line)
    os.truncate(partial, kept)
    return rows


def _halving(ask: Ask, batch: Sequence[int], *, whole: bool) -> tuple[list[dict[str, Any]], int]:
    """Ask a batch, in halves where memory is too small; return its rows and the largest part that fit."""
    try:
        return ask(batch), len(batch)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        if len(batch) == 1 or whole:
            size = (
                "a single example" if len(batch) == 1 else f"a batch of {len(batch)}, which the protocol sets"
            )
            raise UserError(f"out of memory with {size}; it takes more memory or a smaller dtype") from None
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    first, used = _halving(ask, batch[:middle], whole=whole)
    second, also_used = _halving(ask, batch[middle:], whole=whole)
    return first + second, max(used, also_used)


def _out_of_memory(error: Exception) -> bool:
    """Tell whether memory was too small; on a CPU torch has no class for that."""
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or "DefaultCPUAllocator: can't allocate memory" in str(error)
