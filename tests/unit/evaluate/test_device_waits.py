"""Greedy decoding and beam search read the device once a token, however many layers a model has."""

from types import SimpleNamespace

import pytest

from benchmarks.waits import count_waits
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.likelihood import EncodedChoices, loglikelihoods
from pipeline.evaluate.generation.search.sampling import Sampling, draw_numbers
from tests.tiny import model_of

TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)
# of two lengths, so that there is padding
PROMPTS = [[1, *(5 + (row * n) % 50 for n in range(3 + row % 2))] for row in range(6)]
# transformers looks at the mask of each layer kind of Gemma 3
MORE = {"gemma3_text": 1}


def waits_of_search(model, *, beams, new_tokens, samples=None):
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=new_tokens, num_beams=beams)
    # not a token of the vocabulary, so that no row ends early
    config.eos_token_id = [64]
    completion = (lambda new: False) if beams == 1 else None
    draws = [
        draw_numbers(str(row), seed=0, samples=samples or 0, steps=new_tokens) for row in range(len(PROMPTS))
    ]
    sampling = Sampling(1.0, 0.9, draws) if samples else None
    with count_waits() as waits:
        decoding.decode(model, PROMPTS, config, completion, sampling=sampling)
    return waits.count


@pytest.mark.parametrize(("beams", "samples"), [(1, None), (3, None), (1, 2)])
@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj", "opt", "gpt2", "mistral", "gemma3_text"])
def test_a_search_waits_for_the_device_once_a_token(architecture, beams, samples):
    model = model_of(architecture)
    short, long = (
        waits_of_search(model, beams=beams, new_tokens=count, samples=samples) for count in (4, 20)
    )
    assert long - short == 16 * (1 + MORE.get(architecture, 0))


def test_log_likelihoods_are_read_once_a_batch():
    model = model_of("bloom")
    batches = [
        [EncodedChoices(prompt, [[5, 6], [5, 7, 8]]) for prompt in PROMPTS[:count]] for count in (2, 6)
    ]
    counts = []
    for batch in batches:
        with count_waits() as waits:
            loglikelihoods(model, batch, pad=0)
        counts.append(waits.count)
    assert counts[0] == counts[1] == 1
