"""Which examples make an optimizer step, and how a step is split into micro-batches.

The choice of examples is part of the science; it depends on the seed and the batch size alone. The split is not: every
split gives the same gradients up to rounding, so it is chosen to compute little padding.
"""

import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.params.base import Training
from pipeline.prompts.encode import IGNORED, encode_example
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts, refuse_empty_responses

# as in the published training script
HELD_OUT_SEED = 42
# Cost of one more pass through the model, in padded tokens of computing, by type of device. CPU: measured on tiny models,
# where a pass of a few hundred tokens loses the time of some tens of tokens to overhead. CUDA: a roofline estimate for
# models of 1 to 13 billion parameters on an H100, not measured: a pass reads all weights and starts thousands of kernels,
# and products of fewer rows do not fill the GPU.
PASS_OVERHEAD = {"cpu": 64, "cuda": 1500}


# Attention in a packed row computes the scores of all pairs of its tokens, masked or not: 4 width FLOP for each pair. The
# linear modules of a layer need 24 width^2 FLOP for each token. The two are equal in a row of this many tokens, as a
# multiple of the width.
PACKED_TOKENS_PER_WIDTH = 6


def pass_overhead(device: torch.device) -> int:
    """Return what one more pass through the model costs on a device, in padded tokens of computing."""
    return PASS_OVERHEAD.get(device.type, PASS_OVERHEAD["cpu"])


class Example(NamedTuple):
    """Token ids (tokens,) and labels (tokens,), int32; a label is the id itself, or IGNORED if it bears no loss."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]

    @property
    def supervised(self) -> int:
        """Number of tokens that bear loss; the first never does, since nothing predicts it."""
        return int((self.labels[1:] != IGNORED).sum())


def pack_example(ids: Sequence[int], labels: Sequence[int]) -> Example:
    """Return an example whose arrays take a tenth of the memory of the lists."""
    return Example(np.asarray(ids, np.int32), np.asarray(labels, np.int32))


class TrainingExamples(NamedTuple):
    """The examples of a training: those to train on, those held out, and counts of the rows that were encoded."""

    train: list[Example]
    held_out: list[Example]
    # rows in which no token bears loss
    skipped: int
    # rows that are cut to the model's positions, which are fewer than cutoff_len
    cut: int
    # rows with an empty response
    empty: int
    # rows of the training set less the held-out and the skipped ones
    usable: int


def choose_examples(
    prompts: Path,
    validation: Path | None,
    tokenizer: Any,
    settings: Training,
    *,
    seed: int,
    positions: int | None = None,
) -> TrainingExamples:
    """Encode the training examples and the held-out ones.

    If ``max_steps`` needs fewer examples than there are, only that many are drawn: encoding the 130,000 rows of the
    commonsense sets takes longer than a hundred steps of a small model.

    Args:
        prompts: prompts file of the training examples.
        validation: prompts file of the held-out examples; None: ``val_set_size`` training examples.
        tokenizer: of the base model.
        settings: of the training.
        seed: of the draw for ``max_steps``.
        positions: most tokens of an example, by the model; a longer one is cut as by ``cutoff_len``. None: no limit.

    Raises:
        UserError: nothing is left to train on, no token bears loss, or all responses are empty.
    """
    rows = read_prompts(prompts)
    held_out = read_prompts(validation) if validation else []
    if not validation and settings.val_set_size:
        rows, held_out = _hold_out(rows, settings.val_set_size, prompts)
    if not rows:
        raise UserError(f"{prompts}: no example to train on")
    refuse_empty_responses(sum(not row["response"].strip() for row in rows), len(rows), where=str(prompts))
    needed = min(len(rows), (settings.max_steps or len(rows)) * settings.batch_size)
    if needed < len(rows):
        random.Random(f"choice of examples, seed {seed}").shuffle(rows)
    usable: list[Example] = []
    skipped = cut = empty = 0
    for row in rows:
        example, is_cut = _encode_training_row(tokenizer, row, settings, positions)
        usable += [example] if example.supervised else []
        skipped += not example.supervised
        cut += is_cut
        empty += not row["response"].strip()
        if len(usable) == needed:
            break
    if not usable:
        within = (
            f"the model's {positions} positions" if cut else f"cutoff_len={settings.cutoff_len}; raise it"
        )
        raise UserError(f"{prompts}: no example has a token that bears loss within {within}")
    measured = [_encode_training_row(tokenizer, row, settings, positions)[0] for row in held_out]
    return TrainingExamples(
        train=usable,
        held_out=[example for example in measured if example.supervised],
        skipped=skipped,
        cut=cut,
        empty=empty,
        usable=len(rows) - skipped,
    )


def _hold_out(rows: Sequence[PromptRow], size: int, prompts: Path) -> tuple[list[PromptRow], list[PromptRow]]:
    """Split rows into training and held-out rows, by the draw of the published script (datasets' train_test_split)."""
    if size >= len(rows):
        raise UserError(f"val_set_size: {size} of {len(rows)} examples of {prompts} leave none to train on")
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(rows))
    return [rows[index] for index in order[size:]], [rows[index] for index in order[:size]]


def _encode_training_row(
    tokenizer: Any, row: PromptRow, settings: Training, positions: int | None
) -> tuple[Example, bool]:
    """Return the example of a row, and whether it was cut to the model's positions."""
    cutoffs = (settings.cutoff_len, *([positions] if positions and positions < settings.cutoff_len else []))
    for cutoff_len in cutoffs:
        ids, labels = encode_example(
            tokenizer, row, cutoff_len=cutoff_len, train_on_inputs=settings.train_on_inputs
        )
        if positions is None or len(ids) <= positions:
            break
    return pack_example(ids, labels), cutoff_len != settings.cutoff_len


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the optimizer steps of a pass over ``examples``; the last, smaller batch counts."""
    return -(-examples // batch_size)


def iterate_steps(
    examples: int, *, batch_size: int, seed: int, start: int, stop: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (step number, indices of its examples) for the steps ``start`` to ``stop`` - 1, counted from 0.

    The order of every epoch is drawn from the seed and the epoch alone, so that a resumed run needs no stored order.
    """
    per_epoch = steps_per_epoch(examples, batch_size)
    for epoch in range(start // per_epoch, steps_per_epoch(stop, per_epoch)):
        order = list(range(examples))
        random.Random(f"order of epoch {epoch}, seed {seed}").shuffle(order)
        first = epoch * per_epoch
        for step in range(max(start, first), min(stop, first + per_epoch)):
            offset = (step - first) * batch_size
            yield step, order[offset : offset + batch_size]


def split_into_micro_batches(
    lengths: Sequence[int],
    *,
    budget: int,
    parts: int = 1,
    overhead: int = PASS_OVERHEAD["cpu"],
    packed_width: int | None = None,
) -> list[list[int]]:
    """Split a step into micro-batches of examples of similar length.

    Args:
        lengths: tokens of each example.
        budget: most tokens of a micro-batch, padding included (examples times the longest); a longer example goes alone.
        parts: processes that share the step; there are at least as many micro-batches, if there are enough examples.
        overhead: cost of a micro-batch besides its tokens; see ``pass_overhead``.
        packed_width: size of the model's hidden state if micro-batches are packed into one row; None: they are padded.

    Returns:
        Indices into ``lengths`` of each micro-batch. For one process, of all such splits, the one with the lowest cost. For
        several, the split is finer where the slowest of them then finishes earlier.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    # more than four micro-batches a process hardly balance better, and each costs a pass
    finenesses = range(parts, 4 * parts + 1) if parts > 1 else (1,)
    splits = [
        _split_in_order(order, lengths, budget, fineness, overhead, packed_width) for fineness in finenesses
    ]

    def finish(micro_batches: list[list[int]]) -> int:
        costs = pass_costs(lengths, micro_batches, overhead=overhead, packed_width=packed_width)
        return max(sum(costs[number] for number in dealt) for dealt in deal_micro_batches(costs, parts))

    return min(splits, key=finish) if parts > 1 else splits[0]


def _split_in_order(
    order: Sequence[int],
    lengths: Sequence[int],
    budget: int,
    parts: int,
    overhead: int,
    packed_width: int | None,
) -> list[list[int]]:
    """Return the cheapest split of examples in order into runs of at most a ``parts``-th of the examples."""
    largest = -(-len(order) // parts)
    # dynamic programming: for the first n examples in order, the lowest cost and where its last micro-batch begins
    costs, cuts = [0], [0]
    for end in range(1, len(order) + 1):
        longest, tokens = lengths[order[end - 1]], 0
        candidates: list[tuple[int, int]] = []
        # from a single example on, as many as fit
        for cut in range(end - 1, max(-1, end - 1 - largest), -1):
            tokens += lengths[order[cut]] if packed_width else longest
            if candidates and tokens > budget:
                break
            candidates.append((costs[cut] + _pass_cost(tokens, packed_width) + overhead, cut))
        cost, cut = min(candidates)
        costs.append(cost)
        cuts.append(cut)
    micro_batches, end = [], len(order)
    while end:
        micro_batches.append(list(order[cuts[end] : end]))
        end = cuts[end]
    return micro_batches


def _pass_cost(tokens: int, packed_width: int | None) -> int:
    attention = tokens * tokens // (PACKED_TOKENS_PER_WIDTH * packed_width) if packed_width else 0
    return tokens + attention


def pass_costs(
    lengths: Sequence[int],
    micro_batches: Sequence[Sequence[int]],
    *,
    overhead: int,
    packed_width: int | None = None,
) -> list[int]:
    """Return the cost of each micro-batch: its tokens, the overhead of a pass, and the attention of a packed row."""
    rows = [[lengths[index] for index in indices] for indices in micro_batches]
    tokens = [sum(row) if packed_width else len(row) * max(row) for row in rows]
    return [_pass_cost(number, packed_width) + overhead for number in tokens]


def deal_micro_batches(costs: Sequence[int], processes: int) -> list[list[int]]:
    """Deal micro-batches to processes so that all finish at about the same time.

    The longest goes first, to the process with the least to do. The last to finish then needs at most a third more time than
    with the best deal (Graham 1969, doi:10.1137/0117039). All processes compute the same deal.

    Returns:
        For each process, the numbers of its micro-batches, in ascending order.
    """
    dealt: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for number in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        process = loads.index(min(loads))
        dealt[process].append(number)
        loads[process] += costs[number]
    return [sorted(numbers) for numbers in dealt]


def collate(examples: Sequence[Example], *, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return input ids, attention mask and labels, each (examples, longest), int64, padded on the right."""
    shape = (len(examples), max(len(example.ids) for example in examples))
    ids = np.full(shape, pad, np.int64)
    mask = np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.ids)] = 1
        labels[row, : len(example.ids)] = example.labels
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels)


def concatenate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Return input ids, position ids and labels of examples that share one row, each (1, tokens), int64.

    Positions begin at 0 with each example. An example's first token bears no loss, since nothing predicts it.
    """
    ids = np.concatenate([example.ids for example in examples], dtype=np.int64)
    labels = np.concatenate([example.labels for example in examples], dtype=np.int64)
    positions = np.concatenate([np.arange(len(example.ids)) for example in examples], dtype=np.int64)
    labels[positions == 0] = IGNORED
    return torch.from_numpy(ids)[None], torch.from_numpy(positions)[None], torch.from_numpy(labels)[None]


def report_examples(examples: TrainingExamples, prompts: Path, positions: int | None) -> None:
    """Report on stderr which examples teach something other than their rows say."""
    if examples.cut:
        print(f"{prompts}: {examples.cut} examples are cut to {positions} positions", file=sys.stderr)
    if examples.empty:
        print(f"{prompts}: {examples.empty} responses are empty", file=sys.stderr)


def count_steps(examples: int, training: Training) -> int:
    """Return the optimizer steps of a training on a number of examples."""
    if training.max_steps is not None:
        return training.max_steps
    # a training has either max_steps or epochs
    return math.ceil(float(training.epochs or 0) * steps_per_epoch(examples, training.batch_size))
