"""Batches and decoding: which prompts are read together, and that ended rows leave the batch."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.text_answers import encode_prompts
from pipeline.models.base import load_base
from pipeline.prompts.rows import question_row
from tests.tiny import model_of, save_base

TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)


def test_batches_hold_every_prompt_once_longest_first_within_the_budget():
    lengths = [5, 30, 7, 7, 100, 2, 30, 1]
    batches = list(decoding.batch_by_length(lengths, new_tokens=10, budget=90))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)
    # over the budget by itself
    assert batches[0] == [4]
    assert all(len(batch) * (lengths[batch[0]] + 10) <= 90 for batch in batches[1:])


def test_prompts_of_equal_length_keep_their_order():
    assert list(decoding.batch_by_length([3, 3, 3, 3], new_tokens=1, budget=8)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("limit", "expected"), [(5, [1, 4, 5, 6, 7]), (9, [1, 2, 3, 4, 5, 6, 7]), (1, [1])])
def test_a_long_prompt_keeps_its_start_token_and_its_end(limit, expected):
    assert decoding.truncate_prompt([1, 2, 3, 4, 5, 6, 7], limit=limit, start=1) == expected


def test_a_long_prompt_without_a_start_token_keeps_its_end():
    assert decoding.truncate_prompt([5, 6, 7], limit=2, start=None) == [6, 7]


def test_new_tokens_reduce_the_positions_left_for_the_prompt():
    assert decoding.max_prompt_tokens(model_of("gptj"), max_new_tokens=28) == 100
    assert decoding.max_prompt_tokens(model_of("bloom"), max_new_tokens=10**6) is None
    with pytest.raises(UserError, match="max_new_tokens: 128 leaves no room"):
        decoding.max_prompt_tokens(model_of("gptj"), max_new_tokens=128)


def test_cut_prompts_are_reported_with_task_length_and_limit(tmp_path, capsys):
    save_base("gpt2", tmp_path, n_positions=16)
    model, tokenizer = load_base(tmp_path)
    rows = [question_row(" ".join(["w5"] * words), template="strict") for words in (1, 2)]
    # transformers may have written a progress bar while it saved the base
    capsys.readouterr()
    ids, cut = encode_prompts(model, tokenizer, rows, 6, label="sums-strict")
    assert ([len(row) for row in ids], cut) == ([10, 10], 2)
    longest = len(encode_prompts(model_of("bloom"), tokenizer, rows, 6)[0][1])
    assert capsys.readouterr().err == (
        f"sums-strict: the beginnings of 2 prompts are cut: they have up to {longest} tokens, but the model's positions "
        "leave 10\n"
    )
    with pytest.raises(UserError, match=r"^sums-strict: max_new_tokens: 16 leaves no room"):
        encode_prompts(model, tokenizer, rows, 16, label="sums-strict")


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
def test_ended_rows_leave_the_batch_and_all_rows_are_as_if_decoded_alone(architecture):
    model = model_of(architecture)
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=40, num_beams=1)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 64, (3 + n,), generator=generator).tolist() for n in range(16)]
    # not a token of the model, so that no row ends
    config.eos_token_id = [64]
    endless = decoding.decode(model, prompts, config)
    # most rows end within six tokens
    config.eos_token_id = sorted({tokens[5] for tokens in endless[:9]})
    rows = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    batched = decoding.decode(model, prompts, config)
    assert rows[0] == 16
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] <= 8
    assert len(rows) <= 40
    assert batched == [decoding.decode(model, [prompt], config)[0] for prompt in prompts]
    for tokens in batched:
        assert len(tokens) <= 40
        assert not set(tokens[:-1]) & set(config.eos_token_id)
        assert len(tokens) == 40 or tokens[-1] in config.eos_token_id


END_BONUS = {"llama": 1.2, "bloom": 2.6, "gptj": 0.4, "gpt2": 1.9, "mistral": 0.8}


def raise_logits(tokens, *, by):
    """Return a hook that makes tokens likelier than in a random model, so that rows end at many lengths."""

    def change(_, __, out):
        out.logits[..., tokens] += by

    return change


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj", "gpt2", "mistral"])
def test_beams_equal_transformers_beam_search_and_ended_rows_leave_the_batch(architecture, ends):
    model = model_of(architecture)
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=24, num_beams=4)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 64, (3 + n % 5,), generator=generator).tolist() for n in range(24)]
    config.eos_token_id = [5, 9][:ends]
    hook = model.register_forward_hook(raise_logits(config.eos_token_id, by=END_BONUS[architecture]))
    alone = []
    for prompt in prompts:
        row = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=config,
        ).sequences[0, len(prompt) :]
        alone.append(decoding._cut_after_end(row.tolist(), config.eos_token_id))
    rows = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    assert decoding.decode(model, prompts, config) == alone
    hook.remove()
    assert len({len(tokens) for tokens in alone}) > 3
    # tokens of the prompts, once for all beams
    assert rows[0] == 24 * 7
    assert rows[1] == 4 * 24
    assert rows[1:] == sorted(rows[1:], reverse=True)
    assert rows[-1] < 4 * 24


def test_all_end_tokens_of_the_model_count():
    model = model_of("llama")
    model.generation_config.eos_token_id = [5, 9]
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=4, num_beams=1)
    assert config.eos_token_id == [2, 5, 9]
    assert decoding.configure_decoding(model, TOKENIZER, max_new_tokens=4, num_beams=1).eos_token_id == [
        2,
        5,
        9,
    ]


START = [1, 7, 9, 4, 30, 12, 50, 8, 21]


def decode_and_count(model, prompts, config):
    """Return the decoded rows and how many tokens the model read for them, padding included."""
    token_counts = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: token_counts.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    rows = decoding.decode(model, prompts, config)
    hook.remove()
    return rows, sum(token_counts)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
def test_the_common_beginning_of_prompts_is_read_once(architecture, beams):
    model = model_of(architecture)
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=3, num_beams=beams)
    # not a token of the model
    config.eos_token_id = [64]
    prompts = [START + ending for ending in ([5], [40, 41, 42], [6, 33], [5, 3, 8, 9])]
    alone = [decoding.decode(model, [prompt], config)[0] for prompt in prompts]
    rows, tokens_read = decode_and_count(model, prompts, config)
    assert rows == alone
    # the start once, the padded endings once per row, two of the new tokens once per beam
    assert tokens_read == len(START) + 4 * (4 + beams * 2)
    different = [[2, *prompt[1:]] if row == 3 else prompt for row, prompt in enumerate(prompts)]
    assert decode_and_count(model, different, config)[1] > tokens_read


def test_equal_prompts_keep_their_last_token_apart():
    model = model_of("llama")
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=5, num_beams=1)
    assert decoding.decode(model, [START, START], config) == 2 * decoding.decode(model, [START], config)


def test_with_a_sliding_window_the_beginning_is_not_read_apart():
    model = model_of("mistral")
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=3, num_beams=1)
    prompts = [START + ending for ending in ([5], [40, 41, 42, 43, 44, 45])]
    assert decoding.decode(model, prompts, config) == [
        decoding.decode(model, [p], config)[0] for p in prompts
    ]


def test_the_common_beginning_leaves_each_row_some_tokens():
    assert decoding.common_prefix_length([[1, 2, 3], [1, 2, 5], [1, 2, 4]]) == 2
    assert decoding.common_prefix_length([[1, 2, 3], [1, 2], [1, 2, 4]]) == 1
    assert decoding.common_prefix_length([[1, 2, 3], [1, 2, 4]], spare=3) == 0
    assert decoding.common_prefix_length([[1, 2], [3]]) == 0
