"""Batches and decoding: what goes through the model together, and that rows leave when they have ended."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding
from tests.tiny import model_of

TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)


def test_batches_hold_every_prompt_once_longest_first_within_the_budget():
    lengths = [5, 30, 7, 7, 100, 2, 30, 1]
    made = list(decoding.batches(lengths, new_tokens=10, budget=90))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    assert [lengths[batch[0]] for batch in made] == sorted(
        (lengths[batch[0]] for batch in made), reverse=True
    )
    assert made[0] == [4]  # over the budget by itself
    assert all(len(batch) * (lengths[batch[0]] + 10) <= 90 for batch in made[1:])


def test_order_of_equal_lengths_is_that_of_the_prompts():
    assert list(decoding.batches([3, 3, 3, 3], new_tokens=1, budget=8)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("room", "wanted"), [(5, [1, 4, 5, 6, 7]), (9, [1, 2, 3, 4, 5, 6, 7]), (1, [1])])
def test_a_long_prompt_keeps_its_start_token_and_its_end(room, wanted):
    assert decoding.shortened([1, 2, 3, 4, 5, 6, 7], room=room, start=1) == wanted


def test_without_a_start_token_the_end_is_kept():
    assert decoding.shortened([5, 6, 7], room=2, start=None) == [6, 7]


def test_room_is_what_new_tokens_leave_of_the_positions():
    assert decoding.room_for_prompt(model_of("gptj"), max_new_tokens=28) == 100
    assert decoding.room_for_prompt(model_of("bloom"), max_new_tokens=10**6) is None
    with pytest.raises(UserError, match="max_new_tokens: 128 leaves no room"):
        decoding.room_for_prompt(model_of("gptj"), max_new_tokens=128)


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
def test_rows_that_have_ended_leave_the_batch_and_the_rest_is_as_if_asked_alone(architecture):
    model = model_of(architecture)
    config = decoding.settings(model, TOKENIZER, max_new_tokens=40, num_beams=1)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 64, (3 + n,), generator=generator).tolist() for n in range(16)]
    config.eos_token_id = [64]  # no token of the model, so that none ends
    endless = decoding.decode(model, prompts, config)
    config.eos_token_id = sorted({tokens[5] for tokens in endless[:9]})  # most rows end within six tokens
    rows = []
    model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    together = decoding.decode(model, prompts, config)
    assert rows[0] == 16
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] <= 8
    assert len(rows) <= 40
    assert together == [decoding.decode(model, [prompt], config)[0] for prompt in prompts]
    for tokens in together:
        assert len(tokens) <= 40
        assert not set(tokens[:-1]) & set(config.eos_token_id)
        assert len(tokens) == 40 or tokens[-1] in config.eos_token_id


LIKELIER = {"llama": 1.2, "bloom": 2.6, "gptj": 0.4, "gpt2": 1.9, "mistral": 0.8}


def likelier(tokens, *, by):
    """A hook that makes tokens likelier than a random model has them, so that its rows end at many lengths."""

    def change(_, __, out):
        out.logits[..., tokens] += by

    return change


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj", "gpt2", "mistral"])
def test_beams_find_what_transformers_own_search_finds_and_ended_rows_leave(architecture, ends):
    model = model_of(architecture)
    config = decoding.settings(model, TOKENIZER, max_new_tokens=24, num_beams=4)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 64, (3 + n % 5,), generator=generator).tolist() for n in range(24)]
    config.eos_token_id = [5, 9][:ends]
    hook = model.register_forward_hook(likelier(config.eos_token_id, by=LIKELIER[architecture]))
    alone = []
    for prompt in prompts:
        found = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=config,
        ).sequences[0, len(prompt) :]
        alone.append(decoding._until_end(found.tolist(), config.eos_token_id))
    rows = []
    model.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["input_ids"].numel()), with_kwargs=True
    )
    assert decoding.decode(model, prompts, config) == alone
    hook.remove()
    assert len({len(tokens) for tokens in alone}) > 3
    assert rows[0] == 24 * 7  # tokens of the prompts, once for all beams
    assert rows[1] == 4 * 24
    assert rows[1:] == sorted(rows[1:], reverse=True)
    assert rows[-1] < 4 * 24


def test_every_end_token_of_the_model_counts():
    model = model_of("llama")
    model.generation_config.eos_token_id = [5, 9]
    config = decoding.settings(model, TOKENIZER, max_new_tokens=4, num_beams=1)
    assert config.eos_token_id == [2, 5, 9]
    assert decoding.settings(model, TOKENIZER, max_new_tokens=4, num_beams=1).eos_token_id == [2, 5, 9]


START = [1, 7, 9, 4, 30, 12, 50, 8, 21]


def tokens_read(model, prompts, config):
    """Return what decoding gives and how many tokens went through the model for it, padding included."""
    read = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    found = decoding.decode(model, prompts, config)
    hook.remove()
    return found, sum(read)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
def test_what_all_prompts_begin_with_is_read_once(architecture, beams):
    model = model_of(architecture)
    config = decoding.settings(model, TOKENIZER, max_new_tokens=3, num_beams=beams)
    config.eos_token_id = [64]  # no token of the model
    prompts = [START + rest for rest in ([5], [40, 41, 42], [6, 33], [5, 3, 8, 9])]
    alone = [decoding.decode(model, [prompt], config)[0] for prompt in prompts]
    found, read = tokens_read(model, prompts, config)
    assert found == alone
    # the start once, the padded rests once a row, two of the new tokens once a beam
    assert read == len(START) + 4 * (4 + beams * 2)
    different = [[2, *prompt[1:]] if row == 3 else prompt for row, prompt in enumerate(prompts)]
    assert tokens_read(model, different, config)[1] > read


def test_prompts_that_are_equal_are_still_asked_for_their_last_token():
    model = model_of("llama")
    config = decoding.settings(model, TOKENIZER, max_new_tokens=5, num_beams=1)
    assert decoding.decode(model, [START, START], config) == 2 * decoding.decode(model, [START], config)


def test_a_window_is_left_to_the_tokens():
    model = model_of("mistral")
    config = decoding.settings(model, TOKENIZER, max_new_tokens=3, num_beams=1)
    prompts = [START + rest for rest in ([5], [40, 41, 42, 43, 44, 45])]
    assert decoding.decode(model, prompts, config) == [
        decoding.decode(model, [p], config)[0] for p in prompts
    ]


def test_what_rows_have_in_common_leaves_each_some_of_its_own():
    assert decoding.in_common([[1, 2, 3], [1, 2, 5], [1, 2, 4]]) == 2
    assert decoding.in_common([[1, 2, 3], [1, 2], [1, 2, 4]]) == 1
    assert decoding.in_common([[1, 2, 3], [1, 2, 4]], spare=3) == 0
    assert decoding.in_common([[1, 2], [3]]) == 0
