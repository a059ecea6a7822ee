"""Sampled answers: each token is drawn from the model's distribution, by numbers that depend on the question alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.search.sampling import DRAW_BITS, Sampling, draw_numbers, sample_tokens
from tests.tiny import model_of

TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)
# of several lengths, and with a common beginning that is read once
PROMPTS = [[1, *range(5, 16), *(5 + (row * n) % 50 for n in range(2 + row % 3))] for row in range(5)]
STEPS, SAMPLES = 6, 3


def every_draw(count):
    """Draws that divide their range evenly."""
    return torch.arange(count) * (2**DRAW_BITS // count)


def frequencies(logits, *, temperature=1.0, top_p=None, count=20_000):
    draws = every_draw(count)
    rows = torch.tensor(logits).repeat(count, 1)
    tokens = sample_tokens(rows, draws, temperature=temperature, top_p=top_p)
    return torch.bincount(tokens, minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_tokens_have_the_frequencies_of_the_distribution(temperature):
    logits = [1.0, -2.0, 3.0, 0.5, -np.inf]
    expected = torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, dim=0)
    assert torch.allclose(frequencies(logits, temperature=temperature).double(), expected, atol=1e-4)


def test_a_low_temperature_draws_the_likeliest_token():
    assert frequencies([200.0, 199.0, -50.0], temperature=1e-30, count=50).tolist() == [1, 0, 0]


def test_top_p_draws_the_fewest_tokens_that_have_the_share():
    shares = [0.1, 0.45, 0.05, 0.4]
    logits = np.log(shares).tolist()
    # the first token reaches 0.4, two are needed for 0.5 and three for 0.9
    assert frequencies(logits, top_p=0.4).tolist() == [0, 1, 0, 0]
    assert frequencies(logits, top_p=0.5) == pytest.approx([0, 0.45 / 0.85, 0, 0.4 / 0.85], abs=1e-4)
    assert frequencies(logits, top_p=0.9) == pytest.approx([0.1 / 0.95, 0.45 / 0.95, 0, 0.4 / 0.95], abs=1e-4)


def test_logits_that_are_not_finite_give_a_token_of_the_vocabulary():
    logits = torch.full((2, 4), torch.nan)
    tokens = sample_tokens(logits, torch.tensor([0, 2**DRAW_BITS - 1]), temperature=1.0, top_p=0.5)
    assert all(0 <= token < 4 for token in tokens.tolist())


def test_the_draws_of_a_sample_depend_on_seed_question_and_sample_alone():
    few = draw_numbers("t/test/1", seed=0, samples=2, steps=4)
    assert [row[:4] for row in draw_numbers("t/test/1", seed=0, samples=5, steps=9)[:2]] == few
    others = [
        draw_numbers("t/test/2", seed=0, samples=2, steps=4),
        draw_numbers("t/test/1", seed=1, samples=2, steps=4),
    ]
    assert len({tuple(row) for rows in (few, *others) for row in rows}) == 6
    # the same on every machine and in every version of Python
    assert few[0] == [1040381325, 667870899, 866810926, 1063529317]


def sample_answers(model, rows, **options):
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=STEPS, num_beams=1)
    draws = [draw_numbers(str(row), seed=0, samples=SAMPLES, steps=STEPS) for row in rows]
    sampling = Sampling(options.get("temperature", 1.0), options.get("top_p"), draws)
    return decoding.decode(model, [PROMPTS[row] for row in rows], config, sampling=sampling)


def loop_without_cache(model, prompt, draws, *, temperature):
    """Return sampled tokens by the whole sequence at each step and probabilities in 64 bits."""
    new = []
    while len(new) < STEPS and new[-1:] != [2]:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + new])).logits[0, -1].double()
        ends = torch.softmax(logits / temperature, dim=0).cumsum(0)
        new.append(int((ends <= draws[len(new)] / 2**DRAW_BITS).sum()))
    return new


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gpt_neo"])
def test_a_sample_does_not_depend_on_its_batch(architecture):
    # logits of about the size that leaves several tokens likely
    model = model_of(architecture, sharpness=4.0)
    together = sample_answers(model, range(len(PROMPTS)), temperature=1.5)
    alone = [
        sample for row in range(len(PROMPTS)) for sample in sample_answers(model, [row], temperature=1.5)
    ]
    backwards = sample_answers(model, [4, 2, 0], temperature=1.5)
    assert together == alone
    assert backwards == [
        sample for row in (4, 2, 0) for sample in together[SAMPLES * row : SAMPLES * (row + 1)]
    ]
    expected = [
        loop_without_cache(model, prompt, draws, temperature=1.5)
        for row, prompt in enumerate(PROMPTS)
        for draws in draw_numbers(str(row), seed=0, samples=SAMPLES, steps=STEPS)
    ]
    assert together == expected
    # the samples of a question differ, or the test tests nothing
    assert len(set(map(tuple, together))) > len(PROMPTS)
