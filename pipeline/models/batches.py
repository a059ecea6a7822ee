"""Which examples make an optimizer step, and how a step is split into what goes through the model at once.

The first is part of the science and depends on seed and batch size alone. The second is not: any split gives the same
gradients up to rounding, so it is chosen to compute little padding.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.prompts.encode import encode_example
from pipeline.prompts.write import read_prompts

IGNORED = -100
HELD_OUT_SEED = 42  # as the published training script has it
# What one more pass through the model costs, in padded tokens of computing: measured on tiny CPU models, where a pass
# of a few hundred tokens loses some tens of tokens' time to overhead.
PASS_OVERHEAD = 64


class Example(NamedTuple):
    """Token ids (tokens,) and labels (tokens,), int32; a label is the id itself, or IGNORED where it bears no loss."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]

    @property
    def supervised(self) -> int:
        """Number of tokens that bear loss; the first never does, since nothing predicts it."""
        return int((self.labels[1:] != IGNORED).sum())


def make_example(ids: Sequence[int], labels: Sequence[int]) -> Example:
    """Pack lists of ids and labels, a tenth of the lists' memory."""
    return Example(np.asarray(ids, np.int32), np.asarray(labels, np.int32))


def choose(
    prompts: Path, validation: Path | None, tokenizer: Any, training: dict[str, Any], *, seed: int
) -> dict[str, Any]:
    """Return the examples to train on, those held out, how many were skipped (no token bears loss), and out of how many.

    Where ``max_steps`` needs fewer examples than there are, as many are drawn: encoding the 130,000 rows of the
    commonsense sets takes longer than a hundred steps of a small model.
    """
    rows = read_prompts(prompts)
    held_out = read_prompts(validation) if validation else []
    if not validation and training["val_set_size"]:
        if training["val_set_size"] >= len(rows):
            raise UserError(
                f"val_set_size: {training['val_set_size']} of {len(rows)} examples of {prompts} leave none to train on"
            )
        # the published script's draw: datasets' train_test_split
        order = np.random.default_rng(HELD_OUT_SEED).permutation(len(rows))
        held_out = [rows[index] for index in order[: training["val_set_size"]]]
        rows = [rows[index] for index in order[training["val_set_size"] :]]
    if not rows:
        raise UserError(f"{prompts}: no example to train on")
    fields = {name: training[name] for name in ("cutoff_len", "train_on_inputs")}
    wanted = min(len(rows), (training["max_steps"] or len(rows)) * training["batch_size"])
    if wanted < len(rows):
        random.Random(f"choice of examples, seed {seed}").shuffle(rows)
    usable, skipped = [], 0
    for row in rows:
        example = make_example(*encode_example(tokenizer, row, **fields))
        usable += [example] if example.supervised else []
        skipped += not example.supervised
        if len(usable) == wanted:
            break
    if not usable:
        raise UserError(
            f"{prompts}: no example has a token that bears loss within cutoff_len={training['cutoff_len']}; raise it"
        )
    checked = [make_example(*encode_example(tokenizer, row, **fields)) for row in held_out]
    measured = [example for example in checked if example.supervised]
    return {"examples": usable, "held_out": measured, "skipped": skipped, "of": len(rows) - skipped}


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the optimizer steps of a pass over ``examples``; the last, smaller batch counts."""
    return -(-examples // batch_size)


def steps(
    examples: int, *, batch_size: int, seed: int, start: int, stop: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (number of the step, indices of its examples) for the steps ``start`` to ``stop``, counted from 0.

    Every epoch has its own order, drawn from seed and epoch alone, so that a resumed run needs no stored order.
    """
    per_epoch = steps_per_epoch(examples, batch_size)
    for epoch in range(start // per_epoch, steps_per_epoch(stop, per_epoch)):
        order = list(range(examples))
        random.Random(f"order of epoch {epoch}, seed {seed}").shuffle(order)
        first = epoch * per_epoch
        for step in range(max(start, first), min(stop, first + per_epoch)):
            at = (step - first) * batch_size
            yield step, order[at : at + batch_size]


def split(lengths: Sequence[int], *, budget: int, parts: int = 1) -> list[list[int]]:
    """Split a step into micro-batches of similar length.

    Args:
        lengths: tokens of each example.
        budget: most padded tokens (examples times the longest) of a micro-batch; an example longer than that goes alone.
        parts: processes that share the step; there are at least as many micro-batches, if there are examples enough.

    Returns:
        Indices into ``lengths`` of each micro-batch. Of all such splits the one with the least padded tokens, a
        micro-batch counted as PASS_OVERHEAD more.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    most = -(-len(order) // parts)
    best, cuts = (
        [0.0],
        [0],
    )  # of the first n examples in order: the least cost, and where its last micro-batch begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        low = max(0, end - max(1, min(most, budget // max(1, longest))))
        costs = [best[cut] + (end - cut) * longest + PASS_OVERHEAD for cut in range(low, end)]
        best.append(min(costs))
        cuts.append(low + costs.index(best[-1]))
    batches, end = [], len(order)
    while end:
        batches.append(order[cuts[end] : end])
        end = cuts[end]
    return batches


def collate(examples: Sequence[Example], *, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return input ids, attention mask and labels, each (examples, longest), int64, padded on the right."""
    shape = (len(examples), max(len(example.ids) for example in examples))
    ids, mask, labels = (
        np.full(shape, pad, np.int64),
        np.zeros(shape, np.int64),
        np.full(shape, IGNORED, np.int64),
    )
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.ids)] = 1
        labels[row, : len(example.ids)] = example.labels
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels)
