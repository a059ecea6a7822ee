"""Bottleneck adapters on 8-bit and 4-bit bases of bitsandbytes, on its CPU backend."""

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pipeline.adapters import BottleneckConfig
from pipeline.adapters.bottleneck import BottleneckLinear
from tests.tiny import save_base, train_steps

bitsandbytes = pytest.importorskip(
    "bitsandbytes", reason="bitsandbytes, an optional package, is not installed: pip install bitsandbytes"
)

IDS = torch.arange(3, 35)[None]
PLACES = {"up_proj": "before", "down_proj": "after", "q_proj": "parallel"}
QUANTIZED = {
    "8 bit": (BitsAndBytesConfig(load_in_8bit=True), bitsandbytes.nn.Linear8bitLt),
    "4 bit": (
        BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
        bitsandbytes.nn.Linear4bit,
    ),
}
for_all_widths = pytest.mark.parametrize("width", list(QUANTIZED))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    save_base("llama", directory, hidden_size=64, intermediate_size=128)
    return directory


def load_quantized(folder, width):
    base = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=QUANTIZED[width][0], device_map="cpu"
    )
    return base.eval()


def make_model(folder, width, **changes):
    torch.manual_seed(0)
    settings = {"placement": PLACES, "bottleneck_size": 8, "task_type": "CAUSAL_LM", **changes}
    base = peft.prepare_model_for_kbit_training(load_quantized(folder, width))
    return peft.get_peft_model(base, BottleneckConfig(**settings)).eval()


def logits(model, ids=IDS, **options):
    with torch.no_grad():
        return model(input_ids=ids, **options).logits


def train(model):
    return train_steps(model, count=3, input_ids=IDS, labels=IDS)


@for_all_widths
def test_training_lowers_the_loss_and_does_not_change_the_quantized_base(folder, width):
    model = make_model(folder, width, scaling="learned")
    layers = [m for m in model.modules() if isinstance(m, BottleneckLinear)]
    assert {type(layer.base_layer) for layer in layers} == {QUANTIZED[width][1]}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = train(model)
    assert losses[0] > losses[1] > losses[2]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if ".bottleneck_" in name}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with model.disable_adapter():
        assert (logits(model) - logits(load_quantized(folder, width))).abs().max() < 1e-5


@for_all_widths
def test_only_the_adapter_is_saved_and_loaded(folder, width, tmp_path):
    model = make_model(folder, width)
    train(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == model.get_nb_trainable_parameters()[0]
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = peft.PeftModel.from_pretrained(load_quantized(folder, width), tmp_path, **options).eval()
        assert (logits(loaded) - logits(model)).abs().max() < 1e-5


@for_all_widths
def test_a_quantized_base_generates_and_mixes_adapters(folder, width):
    model = make_model(folder, width)
    model.add_adapter("second", BottleneckConfig(placement=PLACES, bottleneck_size=4, task_type="CAUSAL_LM"))
    mixed = logits(model, IDS.repeat(2, 1), adapter_names=["second", "default"])
    # 8-bit activations are scaled row by row, so only rounding differs
    assert (mixed[1] - logits(model)[0]).abs().max() < 1e-3
    for beams in (1, 3):
        new = model.generate(input_ids=IDS, max_new_tokens=4, min_new_tokens=4, num_beams=beams)
        assert new.shape == (1, IDS.shape[1] + 4)
    model.set_adapter("second")
    assert (mixed[0] - logits(model)[0]).abs().max() < 1e-3


@for_all_widths
def test_all_linear_finds_the_quantized_modules(folder, width):
    model = make_model(folder, width, placement="parallel", target_modules="all-linear")
    assert sum(isinstance(m, BottleneckLinear) for m in model.modules()) == 14
    with pytest.raises(ValueError, match="not linear"):
        model.merge_and_unload()
    bare = model.unload()
    assert (logits(bare) - logits(load_quantized(folder, width))).abs().max() < 1e-5
