"""The tokens of a batch: from a GPU's free memory, unchanged on a CPU, and from the machine's setting where there is one."""

import pytest

from pipeline.evaluate.generation.budget import batch_budget, gpu_tokens
from tests.tiny import model_of


@pytest.mark.parametrize(
    ("free_gib", "token_bytes", "tokens"),
    [
        # LLaMA-7B in 16 bits: 512 KiB a token
        (8, 2**19, 2**13),
        (100, 2**19, 2**16),
        # never fewer or more than this
        (0, 2**19, 2048),
        (100, 512, 2**19),
    ],
)
def test_a_gpus_batch_grows_with_its_free_memory(free_gib, token_bytes, tokens):
    assert gpu_tokens(free_gib * 2**30, token_bytes) == tokens


def test_a_little_less_memory_changes_no_batch():
    assert gpu_tokens(100 * 2**30, 2**19) == gpu_tokens(90 * 2**30, 2**19)


def test_a_cpus_batch_is_as_before():
    model = model_of("llama")
    assert batch_budget(model, chosen=None, rows=1) == batch_budget(model, chosen=None, rows=4) == 16384
    assert batch_budget(model, chosen=None, rows=None) == 8192


@pytest.mark.parametrize(("beams", "tokens"), [(None, 300), (1, 300), (4, 75)])
def test_a_chosen_batch_is_shared_by_the_beams(beams, tokens):
    assert batch_budget(model_of("llama"), chosen=300, rows=beams) == tokens
