"""The settings of trials: a plain design that the card and the seed decide."""

import pytest

from pipeline.core.errors import UserError
from pipeline.params.tuning.candidates import describe_values, list_candidates
from pipeline.params.tuning.cards import Tuning


def candidates(fields, trials, *, method="lora", **changes):
    settings = {"rule": "loss", "validation": {"held_out": 1}, "max_steps": 9, "seed": 3}
    tuning = Tuning(fields=fields, trials=trials, **settings | changes)
    return list_candidates(tuning, method, where="tune")


def test_a_grid_has_all_combinations_in_the_order_of_the_card():
    points = candidates({"learning_rate": [1e-3, 1e-2], "warmup_steps": [0, 5]}, 4)
    assert [tuple(point.values()) for point in points] == [(1e-3, 0), (1e-3, 5), (1e-2, 0), (1e-2, 5)]


def test_a_part_of_a_grid_is_drawn_by_the_seed_and_equal_for_methods_of_equal_grids():
    fields = {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1], "warmup_steps": [0, 5]}
    first = candidates(fields, 3)
    assert first == candidates(fields, 3)
    whole = candidates(fields, 8)
    assert first == [point for point in whole if point in first]
    drawn = {tuple(map(str, candidates(fields, 3, seed=seed))) for seed in range(9)}
    assert len(drawn) > 1
    lower = {"learning_rate": [1e-5, 1e-4, 1e-3, 1e-2], "warmup_steps": [0, 5]}
    other = candidates({}, 3, methods={"series": lower}, method="series")
    assert [candidates(lower, 8).index(point) for point in other] == [whole.index(point) for point in first]


def test_an_interval_is_spaced_by_its_logarithms():
    points = candidates({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, 3)
    assert [point["learning_rate"] for point in points] == [1e-4, 1e-3, 1e-2]
    points = candidates({"weight_decay": {"low": 0, "high": 0.2}}, 3)
    assert [point["weight_decay"] for point in points] == [0, 0.1, 0.2]


def test_draws_stay_within_the_interval_and_are_paired_between_methods():
    fields = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "warmup_steps": {"low": 0, "high": 9},
    }
    points = candidates(fields, 50, search="random")
    assert all(1e-4 <= point["learning_rate"] <= 1e-2 for point in points)
    assert all(isinstance(point["warmup_steps"], int) for point in points)
    # half of the draws are below the middle of the logarithms, about
    assert 10 < sum(point["learning_rate"] < 1e-3 for point in points) < 40
    higher = {
        "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        **{"warmup_steps": fields["warmup_steps"]},
    }
    others = candidates({}, 50, search="random", methods={"series": higher}, method="series")
    assert [other["learning_rate"] for other in others] == pytest.approx(
        [10 * point["learning_rate"] for point in points], rel=0.02
    )


def test_draws_that_repeat_are_refused_with_their_cause():
    # five values in twenty draws
    with pytest.raises(
        UserError, match="trials: 20 draws for 'lora' have only 5 different settings; use another seed"
    ):
        candidates({"warmup_steps": {"low": 0, "high": 4}}, 20, search="random")


def test_a_grid_of_rounded_integers_has_each_value_once():
    points = candidates({"warmup_steps": {"low": 0, "high": 2}, "learning_rate": [1e-3, 1e-2]}, 6)
    assert [tuple(point.values()) for point in points] == [
        (steps, rate) for steps in (0, 1, 2) for rate in (1e-3, 1e-2)
    ]


def test_settings_are_described_in_words():
    assert describe_values({"learning_rate": 0.01, "warmup_steps": 20, "lr_scheduler": "linear"}) == (
        "learning_rate 0.01, warmup_steps 20, lr_scheduler linear"
    )
