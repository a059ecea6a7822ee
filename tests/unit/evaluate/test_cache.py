"""The cache with room holds what transformers' own does, whatever is done to it, and leaves old tokens where they are."""

import pytest
import torch
from transformers import AutoConfig, DynamicCache

from pipeline.evaluate.generation import cache as ours
from pipeline.evaluate.generation.cache import ROOM, bytes_kept, cache_with_room, share, with_room
from tests.tiny import FAMILY, model_of

LLAMA = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}


def config():
    return AutoConfig.for_model("llama", **LLAMA)


def states(tokens, *, rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 2, tokens, 4, generator=generator) for _ in range(2)]


def both(*steps):
    """Return our cache and transformers' own, both after the same steps."""
    caches = cache_with_room(config()), DynamicCache(config=config())
    for cache in caches:
        for step in steps:
            step(cache)
    return caches


def append(tokens, **given):
    def step(cache):
        for layer in (0, 1):
            cache.update(*states(tokens, seed=10 * layer + tokens, **given), layer)

    return step


def assert_equal(found, expected):
    assert found.get_seq_length() == expected.get_seq_length()
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


@pytest.mark.parametrize(
    "steps",
    [
        [append(5), append(1), append(1)],
        [append(5), append(ROOM), append(1)],
        [append(ROOM + 5), append(ROOM + 6), append(1)],
        [append(5), append(1), lambda c: c.batch_select_indices(torch.tensor([0, 2])), append(1, rows=2)],
        [append(5), append(1), lambda c: c.batch_repeat_interleave(2), append(1, rows=6)],
        [append(5), append(2), lambda c: c.crop(-1), append(1)],
        [append(5), append(2), lambda c: c.reorder_cache(torch.tensor([2, 1, 1])), append(1)],
        [append(5), lambda c: c.reset(), append(2)],
    ],
)
def test_it_holds_what_transformers_own_does(steps):
    assert_equal(*both(*steps))


def test_tokens_stay_where_they_are_until_the_room_is_full():
    cache = cache_with_room(config())
    append(5)(cache)
    before = cache.layers[0].keys
    for _ in range(ROOM):
        append(1)(cache)
    assert cache.layers[0].keys.data_ptr() == before.data_ptr()
    append(1)(cache)
    assert cache.layers[0].keys.data_ptr() != before.data_ptr()
    assert torch.equal(cache.layers[0].keys[:, :, :5], before)


def test_room_can_be_given_to_a_cache_in_use():
    found, expected = DynamicCache(config=config()), DynamicCache(config=config())
    for cache in (found, expected):
        append(5)(cache)
    found = with_room(found)
    for cache in (found, expected):
        append(1)(cache)
    assert_equal(found, expected)


def test_what_beams_share_is_left_alone_when_they_are_reordered():
    cache = cache_with_room(config())
    append(5)(cache)
    share(cache, beams=2)
    prompt = cache.layers[0].keys
    append(1, rows=6)(cache)
    cache.layers[0].keys[0, :, :5] += 100  # would be copied to the other beam, if it were moved
    last = cache.layers[0].keys[:, :, 5].clone()
    cache.reorder_cache(torch.tensor([0, 0, 3, 2, 4, 5]))
    assert torch.equal(cache.layers[0].keys[1, :, :5], prompt[1])
    assert torch.equal(cache.layers[0].keys[:, :, 5], last[[0, 0, 3, 2, 4, 5]])


def test_layers_with_a_window_stay_transformers_own():
    kinds = [type(layer) for layer in cache_with_room(model_of("gemma3_text").config).layers]
    assert kinds[0].__module__.startswith("transformers")
    assert kinds[1] is ours._RoomyLayer


@pytest.mark.parametrize("architecture", FAMILY)
def test_what_is_kept_of_a_token_is_counted(architecture):
    model = model_of(architecture)
    cache = model(torch.ones(1, 3, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert bytes_kept(model) == held // 3
