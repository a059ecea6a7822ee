"""Trainable parameters of the published settings, on models of the published sizes without memory (meta device)."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.adapters import add_adapter

METHODS = Path(__file__).resolve().parents[3] / "params/methods"
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
LLAMA_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
SIZES = {
    "llama-7b": ("llama", {**LLAMA_7B, "vocab_size": 32000}),
    "llama-13b": ("llama", {**LLAMA_13B, "vocab_size": 32000}),
    "bloomz-7b1": ("bloom", {"hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880}),
    "gpt-j-6b": ("gptj", {}),
}
# (width, inner width of the MLP, layers, output width of the joined or single query projection)
SHAPES = {
    "llama-7b": (4096, 11008, 32, 4096),
    "llama-13b": (5120, 13824, 40, 5120),
    "bloomz-7b1": (4096, 16384, 30, 12288),
    "gpt-j-6b": (4096, 16384, 28, 4096),
}


def count_parameters(model, method, **changes):
    architecture, sizes = SIZES[model]
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
    card = {**yaml.safe_load((METHODS / f"{method}.yaml").read_text()), **changes}
    adapted = add_adapter(base, card, architecture=architecture, seed=0)
    assert all(p.device.type == "meta" for name, p in adapted.named_parameters() if "bottleneck" in name)
    return adapted.get_nb_trainable_parameters()


def expected_parameters(model, method):
    """Return the closed form: a bottleneck on u has 2 * size(u) * 256 weights, LoRA on W has (in + out) * 32."""
    width, inner, layers, query = SHAPES[model]
    # linear maps from the model's width into the MLP
    into_mlp = 2 if "llama" in model else 1
    # bottlenecks per layer, each on the model's width
    bottlenecks = {
        "series": into_mlp,
        "series-default": into_mlp + 1,
        "adapter-h": 2,
        "adapter-p": 1,
    }
    if method in bottlenecks:
        return layers * bottlenecks[method] * 2 * 256 * width
    if method in ("parallel", "scaled-parallel"):
        # on one map into the MLP and on the map out of it: each detour has one side of either width
        return layers * 2 * 256 * (width + inner)
    if method == "prefix-tuning":
        return layers * 2 * width * 10
    attention = 32 * (width + query) * (1 if "bloom" in model else 3)
    return layers * (attention + 2 * 32 * (width + inner))


@pytest.mark.parametrize(
    ("row", "method", "changes"),
    [
        ("lora r32 (published)", "lora", {}),
        ("series up,gate (published)", "series", {}),
        ("parallel up,down (published)", "parallel", {}),
        ("series default AdapterH (no target_modules)", "series-default", {}),
        ("series AdapterP down_proj", "adapter-p", {}),
        ("parallel default (no target_modules)", "parallel", {"placement": "parallel"}),
        (
            "lora r8 default targets (README example)",
            "lora",
            {"r": 8, "target_modules": ["q_proj", "v_proj"]},
        ),
        ("prefix vt10 (published)", "prefix-tuning", {}),
        ("prefix vt30 (finetune.py default)", "prefix-tuning", {"num_virtual_tokens": 30}),
    ],
)
def test_parameter_counts_on_llama_7b_equal_the_published_code(row, method, changes, shared):
    rows = {r["method"]: r for r in json.loads((shared / "golden/param_counts.json").read_text())["rows"]}
    assert len(rows) == 9
    assert count_parameters("llama-7b", method, **changes) == (rows[row]["trainable"], rows[row]["all"])


@pytest.mark.parametrize(
    "method",
    [
        "series",
        "series-default",
        "adapter-h",
        "adapter-p",
        "parallel",
        "scaled-parallel",
        "lora",
        "prefix-tuning",
    ],
)
@pytest.mark.parametrize("model", SIZES)
def test_parameter_counts_on_published_models_equal_the_closed_form(model, method):
    assert count_parameters(model, method)[0] == expected_parameters(model, method)
