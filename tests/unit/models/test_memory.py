"""The arithmetic of memory: how many tokens a pass may have."""

import pytest

from pipeline.core.errors import UserError
from pipeline.models.memory import budget_for_memory, halve_budget

GIB = 2**30


def budget(**changes):
    values = {
        "free": 40 * GIB,
        "peak": 4 * GIB,
        "probe_tokens": 4096,
        "trained": 0,
        "longest": 256,
        "most": 10**6,
    }
    return budget_for_memory(**{**values, **changes})


def test_the_budget_grows_with_the_free_memory():
    # 80 % of 40 GiB, at 1 MiB a token
    assert budget() == 32 * 1024
    assert budget(free=20 * GIB) == 16 * 1024


def test_gradients_and_moments_of_the_trained_numbers_are_set_aside():
    # 12 bytes each: 12 GiB
    assert budget(trained=GIB) == 20 * 1024


def test_the_budget_is_between_the_longest_example_and_a_step():
    assert budget(free=0) == 256
    assert budget(most=5000) == 5000
    assert budget(peak=0, most=5000) == 5000


def test_halving_ends_at_the_longest_example():
    assert halve_budget(4096, longest=300) == 2048
    assert halve_budget(500, longest=300) == 300
    with pytest.raises(
        UserError, match=r"single examples, of up to 300 tokens; .*gradient_checkpointing.*quantization"
    ):
        halve_budget(300, longest=300)
