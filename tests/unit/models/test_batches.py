"""The order of examples depends on the seed only; micro-batches contain every example and little padding."""

import random
from itertools import chain

import pytest

from pipeline.models.batches import (
    PASS_OVERHEAD,
    collate,
    iterate_steps,
    pack_example,
    split_into_micro_batches,
    steps_per_epoch,
)


def list_steps(start, stop, **changes):
    return list(
        iterate_steps(**{"examples": 10, "batch_size": 4, "seed": 1, **changes}, start=start, stop=stop)
    )


def test_an_epoch_has_every_example_once_and_keeps_the_last_batch():
    batches = [indices for _, indices in list_steps(0, 3)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(chain(*batches)) == list(range(10))
    assert steps_per_epoch(10, 4) == 3


def test_the_order_differs_between_epochs_and_seeds():
    steps = list_steps(0, 6)
    assert [indices for _, indices in steps[:3]] != [indices for _, indices in steps[3:]]
    assert steps != list_steps(0, 6, seed=2)


@pytest.mark.parametrize("start", range(8))
def test_a_run_can_start_at_any_step(start):
    assert list_steps(start, 7) == list_steps(0, 7)[start:]


def padded_cost(lengths, batches):
    return sum(len(batch) * max(lengths[i] for i in batch) + PASS_OVERHEAD for batch in batches)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_split_contains_every_example_and_stays_within_the_budget(parts):
    rng = random.Random(0)
    for _ in range(200):
        lengths = [rng.randint(1, 300) for _ in range(rng.randint(1, 20))]
        batches = split_into_micro_batches(lengths, budget=256, parts=parts)
        assert sorted(chain(*batches)) == list(range(len(lengths)))
        assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 256 for batch in batches)
        assert len(batches) >= min(parts, len(lengths))


def test_a_split_has_less_padding_than_a_single_batch():
    lengths = [10, 500, 12, 490, 11, 505]
    batches = split_into_micro_batches(lengths, budget=10_000)
    assert sorted(sorted(lengths[i] for i in batch) for batch in batches) == [[10, 11, 12], [490, 500, 505]]
    assert padded_cost(lengths, batches) < padded_cost(lengths, [list(range(6))])


def test_equal_lengths_stay_together():
    assert len(split_into_micro_batches([50] * 8, budget=400)) == 1
    assert len(split_into_micro_batches([50] * 8, budget=399)) == 2


def test_collate_pads_on_the_right():
    batch = [pack_example([5, 6, 7], [-100, 6, 7]), pack_example([8, 9], [8, 9])]
    ids, mask, labels = collate(batch, pad=3)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert labels.tolist() == [[-100, 6, 7], [8, 9, -100]]


def test_the_first_token_has_no_loss():
    assert pack_example([5, 6, 7], [5, 6, 7]).supervised == 2
    assert pack_example([5, 6, 7], [5, -100, -100]).supervised == 0
