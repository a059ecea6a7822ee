"""Every method of the installed peft that is supported is trained, loaded and evaluated with the stages' own functions."""

import pytest
import torch

from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.loading import load_model
from pipeline.models.train import train
from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from pipeline.params.methods import Peft
from tests.integration.test_methods_training import settings

# peft warns about its own methods
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# required settings of a method, and settings whose defaults do not fit a model with 32 hidden units
SETTINGS = {
    "ADAPTION_PROMPT": {"adapter_len": 2, "adapter_layers": 1},
    "C3A": {"block_size": 16},
    "CARTRIDGE": {"num_virtual_tokens": 2},
    "MISS": {"r": 8},
    "PREFIX_TUNING": {"num_virtual_tokens": 2},
    "PROMPT_TUNING": {"num_virtual_tokens": 2},
    "P_TUNING": {"num_virtual_tokens": 2},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [4, 5, 6]},
    "VBLORA": {"vector_length": 16, "num_vectors": 8},
    "WAVEFT": {"n_frequency": 100},
}
# like real prompts, these have a common start and different lengths
PROMPTS = [
    [1, *range(4, 16), *(4 + (7 * row + position) % 50 for position in range(2 + row % 4))]
    for row in range(10)
]
NEW_TOKENS = 4


# for the fixtures of conftest.py
BASE, ROWS = {"sharpness": 3.0}, 16


def logits(model, ids):
    """Return the logits of the next token, from a forward pass over a single row without a cache."""
    with torch.no_grad():
        return model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), use_cache=False).logits[
            0, -1
        ]


@pytest.mark.parametrize("peft_type", [name for name in PEFT_TYPES if name not in UNSUPPORTED_PEFT_TYPES])
def test_a_method_is_trained_and_generates_the_same_tokens_without_batch_and_cache(
    peft_type, base, prompts, tmp_path
):
    method = {"kind": "peft", "peft_type": peft_type, **SETTINGS.get(peft_type, {})}
    Peft(name="n", source="s", **method)
    options = {
        "training": settings(max_steps=4, learning_rate=5e-2),
        "seed": 1,
        "manifest": {"fingerprint": "f"},
    }
    train(base, prompts, method=method, output=tmp_path / "adapter", validation=None, device="cpu", **options)
    model, tokenizer = load_model(base, tmp_path / "adapter", "float32", "cpu")
    bare, _ = load_model(base, None, "float32", "cpu")
    ids = torch.tensor(PROMPTS[0])
    # the adapter changes the model
    assert not torch.allclose(logits(model, ids), logits(bare, ids), atol=1e-3)
    config = decoding.configure_decoding(model, tokenizer, max_new_tokens=NEW_TOKENS, num_beams=1)
    for prompt, new in zip(PROMPTS, decoding.decode(model, PROMPTS, config), strict=True):
        for position, token in enumerate(new):
            next_logits = logits(model, torch.tensor([*prompt, *new[:position]]))
            # the token with the largest logit, up to rounding
            assert float(next_logits.max() - next_logits[token]) < 1e-3
