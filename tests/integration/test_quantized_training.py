"""Training and evaluation on a quantized base: the same bytes after a stop, and one load for several adapters."""

import json

import pytest
import torch

from pipeline.evaluate.generation.loading import BaseLoader, load_model
from pipeline.models.base import load_base
from pipeline.models.quantization import is_quantized
from pipeline.models.train import train
from tests.integration.test_methods_training import settings

pytest.importorskip(
    "bitsandbytes",
    reason="bitsandbytes, an optional package, is not installed: pip install '.[quantization]'",
)
# peft's own
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

LORA = {"kind": "peft", "peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "down_proj"]}
SERIES = {"kind": "bottleneck", "placement": "before", "bottleneck_size": 8}
IDS = torch.tensor([[1, *range(4, 16)]])
for_both = pytest.mark.parametrize("quantization", ["nf4", "int8"])


# for the fixtures of conftest.py
BASE, ROWS = {"sharpness": 3.0, "hidden_size": 64, "intermediate_size": 96}, 16


def run(base, prompts, output, method=LORA, on_log=None, **changes):
    """Train; return the losses that are logged."""
    options = {"seed": 1, "manifest": {"fingerprint": "f"}, "on_log": on_log}
    training = settings(logging_steps=1, **changes)
    train(
        *(base, prompts),
        method=method,
        training=training,
        output=output,
        validation=None,
        device="cpu",
        **options,
    )
    return [json.loads(line)["loss"] for line in (output / "history.jsonl").read_text().splitlines()]


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@for_both
def test_linear_modules_are_stored_in_few_bits_and_the_others_in_the_dtype(base, quantization):
    model, _ = load_base(base, dtype="bfloat16", quantization=quantization)
    layer = model.model.layers[0]
    assert is_quantized(layer.self_attn.q_proj)
    bits = 8 * layer.self_attn.q_proj.weight.nbytes / 64**2
    assert bits == {"nf4": 4, "int8": 8}[quantization]
    assert not is_quantized(model.lm_head)
    others = (model.lm_head, layer.input_layernorm, model.get_input_embeddings())
    assert {module.weight.dtype for module in others} == {torch.bfloat16}


def test_weights_are_rounded_before_they_are_quantized_and_computed_in_float32(base):
    stored, _ = load_base(base, dtype="bfloat16", quantization="nf4")
    widened, _ = load_base(base, rounded_to="bfloat16", quantization="nf4")
    first, second = (model.model.layers[0].mlp.up_proj.weight for model in (stored, widened))
    assert torch.equal(first, second)
    assert logits(widened).dtype == torch.float32


def test_a_cpu_with_bfloat16_instructions_computes_the_same(base, monkeypatch):
    plain, _ = load_base(base, quantization="nf4")
    expected = logits(plain.eval())
    # bitsandbytes would repack the weights for a kernel of its own, and fail for rows shorter than a block
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model, _ = load_base(base, quantization="nf4")
    assert torch.equal(logits(model.eval()), expected)


@for_both
def test_an_interrupted_training_ends_in_the_same_bytes(base, prompts, tmp_path, quantization):
    changes = {"max_steps": 6, "save_steps": 2, "quantization": quantization}
    run(base, prompts, tmp_path / "whole", **changes)

    def interrupt(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(base, prompts, tmp_path / "resumed", on_log=interrupt, **changes)
    run(base, prompts, tmp_path / "resumed", **changes)
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


@for_both
@pytest.mark.parametrize("method", [LORA, SERIES], ids=["lora", "series"])
def test_checkpointing_trains_the_same_and_the_loss_falls(base, prompts, tmp_path, quantization, method):
    changes = {"max_steps": 8, "dtype": "bfloat16", "quantization": quantization}
    plain = run(base, prompts, tmp_path / "plain", method, **changes)
    checkpointed = run(
        base, prompts, tmp_path / "checkpointed", method, gradient_checkpointing=True, **changes
    )
    assert sum(plain[-2:]) < sum(plain[:2])
    assert checkpointed == pytest.approx(plain, rel=0.01)


@for_both
def test_adapters_of_one_quantized_base_share_its_load(base, prompts, tmp_path, quantization):
    for name, method in (("lora", LORA), ("series", SERIES)):
        run(base, prompts, tmp_path / name, method, max_steps=4, quantization=quantization)
    loader, precision = BaseLoader(base, "cpu", reuse=True), ("float32", "float32", quantization)
    for name in (None, "lora", "series", None):
        adapter = tmp_path / name if name else None
        model, tokenizer = loader.load(adapter, *precision)
        alone, _ = load_model(base, adapter, "float32", "cpu", quantization=quantization)
        assert torch.equal(logits(model), logits(alone))
        loader.release(model, tokenizer, *precision)
    assert loader.loads == 1
    # the quantized base is no other's
    unquantized, _ = loader.load(None, "float32", "float32")
    assert not any(is_quantized(module) for module in unquantized.modules())
