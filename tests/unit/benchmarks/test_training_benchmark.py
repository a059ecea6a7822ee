"""The pure parts of benchmarks.training."""

import pytest
import torch

from benchmarks.training.__main__ import format_limit, format_table
from benchmarks.training.limit import count_products, time_products
from benchmarks.training.runs import Meter, measured, our_order
from pipeline.params.base import Training


def test_products_are_counted_by_shape_forward_and_backward():
    layer = torch.nn.Linear(8, 16, bias=False)
    inputs = torch.randn(4, 8)

    def run():
        layer(inputs).sum().backward()
        layer(inputs)

    counts = count_products(run)
    # twice forward, once for the weight's gradient; the input needs none
    assert sorted(counts.values()) == [1, 2]
    _, flop = time_products(counts, repeats=1)
    assert flop == 3 * 2 * 4 * 8 * 16


def test_products_keep_the_layout_of_their_factors():
    left, right = torch.randn(4, 8), torch.randn(16, 8).T
    (factors,) = count_products(lambda: left @ right)
    assert [factor.strides for factor in factors] == [(8, 1), (1, 8)]


def test_a_meter_counts_the_tokens_that_are_read_in_training():
    embedding = torch.nn.Embedding(10, 4)
    with measured() as meter:
        embedding(torch.zeros(2, 5, dtype=torch.int64))
        with torch.no_grad():
            embedding(torch.zeros(2, 5, dtype=torch.int64))
        meter.end_step(1.5)
    assert (meter.computed, meter.losses) == (10, [1.5])
    assert meter.wall > 0


def test_ratios_say_how_much_faster_ours_is():
    ours = [Meter(computed=110, wall=2, cpu=2), Meter(computed=110, wall=1, cpu=1)]
    other = [Meter(computed=200, wall=3, cpu=4), Meter(computed=200, wall=3, cpu=2)]
    table = format_table({"pipeline.models.train": ours, "Trainer": other}, tokens=100)
    assert [cell.strip() for cell in table.splitlines()[3].split("|")[1:-1]] == [
        *("Trainer", "33", "33", "50.0%", "0"),
        *("2.25", "2.00"),
    ]
    assert "reaches 50%" in format_limit(ours, [1, 0.5], flop=1e9)


def test_our_order_is_every_example_once_an_epoch():
    training = Training(batch_size=2, epochs=None, max_steps=3)
    assert sorted(our_order(6, training)) == list(range(6))


@pytest.mark.parametrize("seed", [0, 1])
def test_our_order_does_not_depend_on_global_generators(seed):
    torch.manual_seed(seed)
    training = Training(batch_size=2, epochs=None, max_steps=3)
    assert our_order(6, training) == our_order(6, training)
