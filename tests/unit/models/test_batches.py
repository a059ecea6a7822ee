"""Steps are of the seed; splits waste little and lose nothing."""

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


def taken(start, stop, **changes):
    return list(
        iterate_steps(**{"examples": 10, "batch_size": 4, "seed": 1, **changes}, start=start, stop=stop)
    )


def test_an_epoch_has_every_example_once_and_keeps_the_last_batch():
    batches = [chosen for _, chosen in taken(0, 3)]
    assert [len(one) for one in batches] == [4, 4, 2]
    assert sorted(chain(*batches)) == list(range(10))
    assert steps_per_epoch(10, 4) == 3


def test_epochs_and_seeds_have_orders_of_their_own():
    whole = taken(0, 6)
    assert [chosen for _, chosen in whole[:3]] != [chosen for _, chosen in whole[3:]]
    assert whole != taken(0, 6, seed=2)


@pytest.mark.parametrize("start", range(8))
def test_any_step_can_be_begun_at(start):
    assert taken(start, 7) == taken(0, 7)[start:]


def cost(lengths, batches):
    return sum(len(one) * max(lengths[i] for i in one) + PASS_OVERHEAD for one in batches)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_split_keeps_budget_and_examples(parts):
    draw = random.Random(0)
    for _ in range(200):
        lengths = [draw.randint(1, 300) for _ in range(draw.randint(1, 20))]
        batches = split_into_micro_batches(lengths, budget=256, parts=parts)
        assert sorted(chain(*batches)) == list(range(len(lengths)))
        assert all(len(one) == 1 or len(one) * max(lengths[i] for i in one) <= 256 for one in batches)
        assert len(batches) >= min(parts, len(lengths))


def test_a_split_computes_less_padding_than_one_batch():
    lengths = [10, 500, 12, 490, 11, 505]
    batches = split_into_micro_batches(lengths, budget=10_000)
    assert sorted(sorted(lengths[i] for i in one) for one in batches) == [[10, 11, 12], [490, 500, 505]]
    assert cost(lengths, batches) < cost(lengths, [list(range(6))])


def test_equal_lengths_stay_together():
    assert len(split_into_micro_batches([50] * 8, budget=400)) == 1
    assert len(split_into_micro_batches([50] * 8, budget=399)) == 2


def test_collate_pads_on_the_right():
    batch = [pack_example([5, 6, 7], [-100, 6, 7]), pack_example([8, 9], [8, 9])]
    ids, mask, labels = collate(batch, pad=3)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert labels.tolist() == [[-100, 6, 7], [8, 9, -100]]


def test_the_first_token_bears_no_loss():
    assert pack_example([5, 6, 7], [5, 6, 7]).supervised == 2
    assert pack_example([5, 6, 7], [5, -100, -100]).supervised == 0
