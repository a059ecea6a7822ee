"""Combined adapters compared with what their members compute: exact where the way to combine them is."""

import json
from typing import get_args, get_type_hints

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraModel

from pipeline.adapters import BottleneckConfig
from pipeline.adapters.combining import combine_adapters
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, write_json
from pipeline.models.combination.combine import build_skeleton, combine
from pipeline.params.methods import LORA_COMBINATIONS
from tests.tiny import model_of, save_base

IDS = torch.tensor([[1, 5, 9, 33, 2, 17]])
LAYER = "base_model.model.model.layers.1.mlp"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base("llama", folder)
    return folder


def save_adapter(folder, config, *, seed):
    """Write an adapter with random weights, as a training writes its adapter."""
    torch.manual_seed(seed)
    model = get_peft_model(model_of("llama"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
                if "bottleneck_scaling" in name:
                    parameter.fill_(0.6)
    model.save_pretrained(folder)
    write_json(folder / "manifest.json", {"tokenizer": "t"})
    return folder


def save_lora(folder, *, seed, **changes):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1}
    return save_adapter(folder, LoraConfig(task_type="CAUSAL_LM", **{**settings, **changes}), seed=seed)


def save_bottleneck(folder, *, seed, **changes):
    settings = {"placement": "before", "target_modules": ["up_proj", "gate_proj"], "bottleneck_size": 3}
    config = BottleneckConfig(task_type="CAUSAL_LM", **{**settings, **changes})
    return save_adapter(folder, config, seed=seed)


def combined(base, members, folder, combination_type, *, seed=0, **settings):
    settings = {"weights": [1.0] * len(members), **settings, "combination_type": combination_type}
    combine(base, members, combination=settings, seed=seed, output=folder, manifest={})
    return folder


@pytest.mark.parametrize(("portable", "machine"), [(None, {}), (True, {"portable": True})])
def test_run_json_says_whether_the_kernels_were_portable(base, tmp_path, portable, machine):
    members = [save_lora(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    settings = {"weights": [1.0, 1.0], "combination_type": "cat"}
    output = tmp_path / "combined"
    combine(base, members, combination=settings, seed=0, output=output, manifest={}, portable=portable)
    assert read_json(output / "run.json")["machine"] == machine


def load(folder):
    return PeftModel.from_pretrained(model_of("llama"), str(folder)).eval()


def logits_of(folder):
    with torch.no_grad():
        return load(folder)(IDS).logits


def weights_of(folder):
    return get_peft_model_state_dict(load(folder))


def delta_of(folder, module="down_proj"):
    layer = getattr(load(folder).base_model.model.model.layers[1].mlp, module)
    return layer.get_delta_weight("default")


def assert_close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_the_ways_to_combine_lora_are_those_of_peft():
    choices = get_args(get_type_hints(LoraModel.add_weighted_adapter)["combination_type"])
    assert sorted(choices) == sorted(LORA_COMBINATIONS)


def test_cat_of_lora_adds_the_weighted_changes_whatever_their_ranks_and_scales(base, tmp_path):
    members = [
        save_lora(tmp_path / "a", seed=1),
        save_lora(tmp_path / "b", seed=2, r=2, lora_alpha=5, use_rslora=True),
    ]
    folder = combined(base, members, tmp_path / "both", "cat", weights=[0.75, -2.0])
    assert_close(delta_of(folder), 0.75 * delta_of(members[0]) - 2 * delta_of(members[1]))
    # the order of the members decides whose config the combination gets
    reverse = combined(base, members[::-1], tmp_path / "reverse", "cat", weights=[-2.0, 0.75])
    assert_close(delta_of(reverse), delta_of(folder))


@pytest.mark.parametrize("kind", ["cat", "linear", "svd"])
def test_weights_1_and_0_give_the_first_member(base, tmp_path, kind):
    members = [save_lora(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    folder = combined(base, members, tmp_path / "both", kind, weights=[1.0, 0.0])
    assert_close(logits_of(folder), logits_of(members[0]))
    assert not torch.allclose(logits_of(folder), logits_of(members[1]), atol=0.1)


@pytest.mark.parametrize("kind", LORA_COMBINATIONS)
def test_each_combination_of_lora_is_a_plain_lora_of_the_same_bytes(base, tmp_path, kind):
    members = [save_lora(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    prunes = kind not in ("cat", "linear", "svd")
    settings = {"density": 0.5} if prunes else {}
    first, again = (combined(base, members, tmp_path / name, kind, **settings) for name in ("1", "2"))
    for file in ("adapter_model.safetensors", "adapter_config.json", "manifest.json"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
    config = json.loads((first / "adapter_config.json").read_text())
    rank = 8 if kind == "cat" else 4
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["use_rslora"]) == (
        "LORA",
        rank,
        rank,
        False,
    )
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not torch.equal(logits_of(first), logits_of(members[0]))
    # only dare draws at random
    other = combined(base, members, tmp_path / "3", kind, seed=5, **settings)
    assert torch.equal(delta_of(other), delta_of(first)) == (not kind.startswith("dare"))


@pytest.mark.parametrize("placement", ["before", "after", "parallel"])
def test_the_sum_of_bottlenecks_adds_the_outputs_of_their_members(base, tmp_path, placement):
    """Compared with two active adapters, whose detours are added; and each layer with its closed form."""
    targets = ["down_proj"] if placement == "after" else ["up_proj", "gate_proj"]
    settings = {"placement": placement, "target_modules": targets}
    members = [
        save_bottleneck(tmp_path / "a", seed=1, scaling=0.5, **settings),
        save_bottleneck(tmp_path / "b", seed=2, bottleneck_size=5, scaling="learned", **settings),
    ]
    folder = combined(base, members, tmp_path / "both", "sum")
    model = PeftModel.from_pretrained(model_of("llama"), str(members[0]), adapter_name="a")
    model.load_adapter(str(members[1]), adapter_name="b")
    model.base_model.set_adapter(["a", "b"])
    with torch.no_grad():
        expected = model.eval()(IDS).logits
    assert_close(logits_of(folder), expected)
    layer = dict(load(folder).named_modules())[f"{LAYER}.{targets[0]}"]
    u = torch.randn(2, 3, layer.bottleneck_down["default"].in_features)
    parts = [
        dict(load(member).named_modules())[f"{LAYER}.{targets[0]}"].detour("default", u) for member in members
    ]
    assert_close(layer.detour("default", u), parts[0] + parts[1])
    weighted = combined(base, members, tmp_path / "weighted", "sum", weights=[1.0, 0.0])
    assert_close(logits_of(weighted), logits_of(members[0]))


@pytest.mark.parametrize("placement", ["before", "after"])
def test_stacked_bottlenecks_read_what_the_members_before_them_wrote(base, tmp_path, placement):
    settings = {"placement": placement, "target_modules": ["down_proj"]}
    members = [
        save_bottleneck(tmp_path / "a", seed=1, scaling=0.5, **settings),
        save_bottleneck(tmp_path / "b", seed=2, bottleneck_size=5, **settings),
    ]
    folder = combined(base, members, tmp_path / "both", "stack", weights=[1.0, 2.0])
    layers = [dict(load(path).named_modules())[f"{LAYER}.down_proj"] for path in (folder, *members)]
    u = torch.randn(2, 3, layers[0].bottleneck_down["default"].in_features)
    first = layers[1].detour("default", u)
    assert_close(layers[0].detour("default", u), first + 2 * layers[2].detour("default", u + first))
    other_order = combined(base, members[::-1], tmp_path / "reverse", "stack", weights=[2.0, 1.0])
    assert not torch.allclose(logits_of(folder), logits_of(other_order), atol=1e-3)
    # the config that training writes has no such key, as before it existed
    assert "stack_sizes" not in json.loads((members[0] / "adapter_config.json").read_text())
    assert json.loads((folder / "adapter_config.json").read_text())["stack_sizes"] == [3, 5]


def test_a_combination_counts_its_own_weights_and_those_of_the_base(base, tmp_path):
    members = [save_bottleneck(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    folder = combined(base, members, tmp_path / "both", "sum")
    manifest = json.loads((folder / "manifest.json").read_text())
    own = sum(tensor.numel() for tensor in weights_of(folder).values())
    assert manifest["trainable_parameters"] == own
    assert manifest["all_parameters"] == own + sum(p.numel() for p in model_of("llama").parameters())
    assert manifest["tokenizer"] == "t"
    assert not (folder / "README.md").exists()


def test_the_skeleton_of_a_base_with_tied_weights_takes_no_memory_and_counts_them_once(tmp_path):
    save_base("bloom", tmp_path)
    skeleton = build_skeleton(tmp_path)
    model = model_of("bloom")
    assert sum(p.numel() for p in skeleton.parameters()) == sum(p.numel() for p in model.parameters())
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in skeleton.parameters()}
    assert max(storages.values()) == 4


def test_members_of_other_tokenizers_or_other_shapes_are_refused_in_one_line(base, tmp_path):
    members = [save_lora(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    write_json(members[1] / "manifest.json", {"tokenizer": "other"})
    with pytest.raises(UserError, match=r"several tokenizers .*a: t, .*b: other"):
        combined(base, members, tmp_path / "both", "cat")
    wide = save_lora(tmp_path / "wide", seed=3, r=8)
    settings = {"combination_type": "linear", "weights": [1.0, 1.0]}
    with pytest.raises(
        UserError, match=r"linear does not fit .*/a, .*/wide: All adapters must have the same r"
    ):
        combine_adapters(build_skeleton(base), [members[0], wide], settings, seed=0)
    assert not (tmp_path / "both").exists()
