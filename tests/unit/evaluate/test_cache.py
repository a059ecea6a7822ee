"""The growing cache equals transformers' own cache after any operation, and appends in place."""

import pytest
import torch
from transformers import AutoConfig, DynamicCache

from pipeline.evaluate.generation import cache as cache_module
from pipeline.evaluate.generation.cache import (
    SPARE_TOKENS,
    bytes_per_token,
    growing_cache,
    reorder_beams,
    repeat_for_beams,
)
from tests.tiny import FAMILY, model_of

LLAMA = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}


def config():
    return AutoConfig.for_model("llama", **LLAMA)


def states(tokens, *, rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 2, tokens, 4, generator=generator) for _ in range(2)]


def apply_steps(*steps):
    """Return our cache and transformers' own after the same steps."""
    caches = growing_cache(config()), DynamicCache(config=config())
    for cache in caches:
        for step in steps:
            step(cache)
    return caches


def append(tokens, **options):
    def step(cache):
        for layer in (0, 1):
            cache.update(*states(tokens, seed=10 * layer + tokens, **options), layer)

    return step


def assert_equal(cache, expected):
    assert cache.get_seq_length() == expected.get_seq_length()
    for layer, expected_layer in zip(cache.layers, expected.layers, strict=True):
        assert torch.equal(layer.keys, expected_layer.keys)
        assert torch.equal(layer.values, expected_layer.values)


@pytest.mark.parametrize(
    "steps",
    [
        [append(5), append(1), append(1)],
        [append(5), append(SPARE_TOKENS), append(1)],
        [append(SPARE_TOKENS + 5), append(SPARE_TOKENS + 6), append(1)],
        [append(5), append(1), lambda c: c.batch_select_indices(torch.tensor([0, 2])), append(1, rows=2)],
        [append(5), append(1), lambda c: c.batch_repeat_interleave(2), append(1, rows=6)],
        [append(5), append(2), lambda c: c.crop(-1), append(1)],
        [append(5), append(2), lambda c: c.reorder_cache(torch.tensor([2, 1, 1])), append(1)],
        [append(5), lambda c: c.reset(), append(2)],
    ],
)
def test_the_growing_cache_equals_transformers_cache(steps):
    assert_equal(*apply_steps(*steps))


def test_tokens_are_appended_in_place_until_the_free_space_is_full():
    cache = growing_cache(config())
    append(5)(cache)
    before = cache.layers[0].keys
    for _ in range(SPARE_TOKENS):
        append(1)(cache)
    assert cache.layers[0].keys.data_ptr() == before.data_ptr()
    append(1)(cache)
    assert cache.layers[0].keys.data_ptr() != before.data_ptr()
    assert torch.equal(cache.layers[0].keys[:, :, :5], before)


def test_reordering_beams_does_not_copy_their_prompt():
    cache = growing_cache(config())
    append(5)(cache)
    repeat_for_beams(cache, beams=2)
    prompt = cache.layers[0].keys
    append(1, rows=6)(cache)
    # would be copied to the second beam, if prompts were reordered
    cache.layers[0].keys[0, :, :5] += 100
    last = cache.layers[0].keys[:, :, 5].clone()
    reorder_beams(cache, torch.tensor([0, 0, 3, 2, 4, 5]), torch.tensor([1, 2, 3]))
    assert torch.equal(cache.layers[0].keys[1, :, :5], prompt[1])
    assert torch.equal(cache.layers[0].keys[:, :, 5], last[[0, 0, 3, 2, 4, 5]])


def test_layers_with_a_sliding_window_stay_transformers_own():
    kinds = [type(layer) for layer in growing_cache(model_of("gemma3_text").config).layers]
    assert kinds[0].__module__.startswith("transformers")
    assert kinds[1] is cache_module._GrowingLayer


@pytest.mark.parametrize("architecture", FAMILY)
def test_bytes_per_token_equal_the_size_of_the_cache(architecture):
    model = model_of(architecture)
    cache = model(torch.ones(1, 3, dtype=torch.long), use_cache=True).past_key_values
    total = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert bytes_per_token(model) == total // 3
