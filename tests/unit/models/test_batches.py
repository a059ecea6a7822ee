"""The order of examples depends on the seed only; micro-batches contain every example and little padding."""

import random
from itertools import chain

import pytest
import torch

from pipeline.models.batches import (
    PASS_OVERHEAD,
    collate,
    concatenate,
    deal_micro_batches,
    iterate_steps,
    pack_example,
    pass_costs,
    pass_overhead,
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
    return sum(pass_costs(lengths, batches, overhead=PASS_OVERHEAD["cpu"]))


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


def test_a_step_is_one_pass_where_a_pass_costs_more_than_its_padding():
    lengths = [40, 60, 80, 250, 240, 90, 100, 70]
    overheads = [pass_overhead(torch.device(name)) for name in ("cpu", "cuda")]
    passes = [len(split_into_micro_batches(lengths, budget=4096, overhead=n)) for n in overheads]
    assert passes[0] > passes[1] == 1


def test_packed_rows_have_no_padding_to_count():
    lengths = [10, 30, 10, 30, 10, 10]
    (row,) = split_into_micro_batches(lengths, budget=100, packed_width=4096)
    assert sorted(row) == list(range(6))
    # padded, six examples of 30 tokens do not fit
    assert len(split_into_micro_batches(lengths, budget=100, overhead=1500)) > 1
    rng = random.Random(0)
    for _ in range(100):
        lengths = [rng.randint(1, 300) for _ in range(rng.randint(1, 20))]
        batches = split_into_micro_batches(lengths, budget=256, packed_width=64)
        assert sorted(chain(*batches)) == list(range(len(lengths)))
        assert all(len(batch) == 1 or sum(lengths[index] for index in batch) <= 256 for batch in batches)


def test_packed_rows_end_where_their_attention_costs_more_than_a_pass():
    lengths = [100] * 32
    longest = {
        width: max(map(len, split_into_micro_batches(lengths, budget=10**6, packed_width=width)))
        for width in (64, 576, 4096)
    }
    # a row of T tokens has attention worth T^2 / (6 width) tokens; a pass on a CPU is worth 64
    assert longest[64] < longest[576] < longest[4096]
    assert pass_costs([100, 200], [[0, 1]], overhead=64, packed_width=50) == [300 + 300 + 64]


def test_examples_of_a_row_begin_at_position_0_and_never_predict_the_next_example():
    batch = [pack_example([5, 6, 7], [5, 6, 7]), pack_example([8, 9], [8, 9])]
    ids, positions, labels = concatenate(batch)
    assert ids.tolist() == [[5, 6, 7, 8, 9]]
    assert positions.tolist() == [[0, 1, 2, 0, 1]]
    assert labels.tolist() == [[-100, 6, 7, -100, 9]]
    assert batch[1].labels.tolist() == [8, 9]
    assert {tensor.dtype for tensor in (ids, positions, labels)} == {torch.int64}


def test_micro_batches_are_dealt_by_their_cost():
    assert deal_micro_batches([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]
    assert deal_micro_batches([7], 3) == [[0], [], []]
    assert deal_micro_batches([2, 9, 4], 1) == [[0, 1, 2]]


def busy_share(lengths, processes, parts, deal):
    """The share of the time that processes compute, until the last has finished."""
    batches = split_into_micro_batches(lengths, budget=4096, parts=parts)
    costs = pass_costs(lengths, batches, overhead=PASS_OVERHEAD["cpu"])
    loads = [sum(costs[number] for number in numbers) for numbers in deal(costs, processes)]
    return sum(loads) / (processes * max(loads))


def test_processes_finish_a_step_at_about_the_same_time():
    rng = random.Random(0)
    # lengths as of questions with worked answers: mostly 80 to 250 tokens
    steps = [[min(512, int(rng.lognormvariate(4.9, 0.4))) for _ in range(16)] for _ in range(50)]

    def deal_in_turn(costs, processes):
        return [range(len(costs))[process::processes] for process in range(processes)]

    def mean_share(parts, deal):
        return sum(busy_share(step, 2, parts, deal) for step in steps) / len(steps)

    assert mean_share(2, deal_micro_batches) > 0.95
    # with dropout the split is that of a single process
    assert mean_share(1, deal_micro_batches) > mean_share(1, deal_in_turn) + 0.03


def test_collate_pads_on_the_right():
    batch = [pack_example([5, 6, 7], [-100, 6, 7]), pack_example([8, 9], [8, 9])]
    ids, mask, labels = collate(batch, pad=3)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert labels.tolist() == [[-100, 6, 7], [8, 9, -100]]


def test_the_first_token_has_no_loss():
    assert pack_example([5, 6, 7], [5, 6, 7]).supervised == 2
    assert pack_example([5, 6, 7], [5, -100, -100]).supervised == 0
