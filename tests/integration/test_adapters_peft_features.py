"""Features of peft with the bottleneck tuner, used through peft's interface, on small models of real classes."""

import copy
import json
import pickle

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from pipeline.adapters import BottleneckConfig
from pipeline.adapters.bottleneck import BottleneckLinear
from pipeline.adapters.bottleneck.model import DEFAULT_TARGETS
from pipeline.params.architectures import LINEAR_MODULES
from tests.elsewhere import last_word
from tests.tiny import CONFIGS, model_of, save_base, train_steps

PLACEMENTS = ("before", "after", "parallel")
# for each architecture a map that uses all three placements
MAPS = {
    "llama": {"up_proj": "before", "down_proj": "after", "q_proj": "parallel"},
    "bloom": {"dense_h_to_4h": "before", "dense_4h_to_h": "after", "query_key_value": "parallel"},
    "gptj": {"fc_in": "before", "fc_out": "after", "q_proj": "parallel"},
}
IDS = torch.arange(3, 15)[None]

for_all_architectures = pytest.mark.parametrize("architecture", list(CONFIGS))
for_all_placements = pytest.mark.parametrize("placement", PLACEMENTS)


def make_config(architecture="llama", **changes):
    settings = {"placement": MAPS[architecture], "bottleneck_size": 4, "task_type": "CAUSAL_LM"}
    return BottleneckConfig(**{**settings, **changes})


def make_model(architecture="llama", **changes):
    torch.manual_seed(0)
    return peft.get_peft_model(model_of(architecture), make_config(architecture, **changes)).eval()


def logits(model, ids=IDS, **options):
    with torch.no_grad():
        return model(input_ids=ids, **options).logits


def train(model, steps=2):
    """Train on one sentence; return the losses."""
    return train_steps(model, count=steps, input_ids=IDS, labels=IDS)


def generate(model, ids=IDS, **options):
    return model.generate(input_ids=ids, max_new_tokens=8, min_new_tokens=8, do_sample=False, **options)


def adapter_parameters(model):
    return {name: p for name, p in model.named_parameters() if ".bottleneck_" in name}


@for_all_architectures
def test_adapters_are_added_set_and_deleted_by_name(architecture):
    bare = logits(model_of(architecture))
    model = make_model(architecture)
    first = logits(model)
    model.add_adapter("second", make_config(architecture, bottleneck_size=2, scaling="learned"))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(model)
    assert not torch.equal(second, first)
    assert all("second" in name for name, p in model.named_parameters() if p.requires_grad)
    assert any("bottleneck_scaling" in name for name, p in model.named_parameters() if p.requires_grad)
    with model.disable_adapter():
        assert torch.equal(logits(model), bare)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    assert not any("second" in name for name, _ in model.named_parameters())
    assert torch.equal(logits(model.unload()), bare)


@for_all_architectures
def test_a_batch_can_mix_adapters_and_the_bare_base(architecture):
    model = make_model(architecture, modules_to_save=["lm_head"])
    model.add_adapter("second", make_config(architecture, bottleneck_size=2, placement="parallel"))
    train(model)
    names = ["second", "__base__", "default", "second"]
    rows = IDS.repeat(4, 1)
    mixed = logits(model, rows, adapter_names=names)
    beams = {n: generate(model, rows, adapter_names=names, num_beams=n) for n in (1, 3)}
    for row, name in enumerate(names):
        if name != "__base__":
            model.set_adapter(name)
        with model.disable_adapter() if name == "__base__" else torch.no_grad():
            assert (mixed[row] - logits(model)[0]).abs().max() < 1e-5
            for count, sequences in beams.items():
                assert torch.equal(sequences[row], generate(model, num_beams=count)[0])


def test_mixed_batches_refuse_training_unknown_names_and_a_wrong_number_of_names():
    model = make_model()
    with pytest.raises(ValueError, match="works in eval mode only"):
        model.train()(input_ids=IDS, adapter_names=["default"])
    with pytest.raises(ValueError, match="unknown 'other'"):
        model.eval()(input_ids=IDS, adapter_names=["other"])
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        model(input_ids=IDS.repeat(2, 1), adapter_names=["default"])


def test_merging_is_refused_with_the_reason_and_changes_nothing():
    model = make_model()
    before = logits(model)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="not linear"):
            merge()
    assert torch.equal(logits(model), before)


@for_all_architectures
def test_only_adapter_weights_are_saved_as_safetensors(architecture, tmp_path):
    model = make_model(architecture, scaling="learned")
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == model.get_nb_trainable_parameters()[0]
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, BottleneckConfig)
    assert config.placement == MAPS[architecture]


@for_all_architectures
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_second_adapter_is_loaded_beside_the_first(architecture, low_cpu_mem_usage, tmp_path):
    saved = make_model(architecture, scaling="learned", placement="after", target_modules="all-linear")
    train(saved)
    saved.save_pretrained(tmp_path)
    model = make_model(architecture)
    first = logits(model)
    model.load_adapter(tmp_path, "loaded", low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(model), first)
    model.set_adapter("loaded")
    assert (logits(model) - logits(saved)).abs().max() < 1e-6


def test_a_second_adapter_can_have_other_modules(tmp_path):
    saved = make_model(placement="after", target_modules=["o_proj"])
    saved.save_pretrained(tmp_path)
    for low in (False, True):
        model = make_model()
        model.load_adapter(tmp_path, "loaded", low_cpu_mem_usage=low)
        model.set_adapter("loaded")
        assert torch.equal(logits(model), logits(saved))


def test_low_cpu_mem_usage_creates_weights_on_meta():
    model = peft.get_peft_model(model_of("llama"), make_config(scaling="learned"), low_cpu_mem_usage=True)
    assert {p.device.type for p in adapter_parameters(model).values()} == {"meta"}


def test_training_continues_from_a_loaded_adapter(tmp_path):
    model = make_model(scaling="learned")
    train(model)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model_of("llama"), tmp_path, is_trainable=True)
    assert train(loaded) == train(model)


def test_loading_an_adapter_reads_no_file_of_the_base(tmp_path):
    save_base("llama", tmp_path / "base")
    model = type(model_of("llama")).from_pretrained(tmp_path / "base")
    peft.get_peft_model(model, make_config()).save_pretrained(tmp_path / "adapter")
    base = type(model).from_pretrained(tmp_path / "base")
    for path in (tmp_path / "base").iterdir():
        path.unlink()
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(model.eval()))


def test_a_new_process_unpickles_config_and_model(tmp_path):
    model = make_model()
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    code = (
        "import sys, pickle, torch\n"
        "model = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "print(model(input_ids=torch.arange(3, 15)[None]).logits.double().sum().item())"
    )
    assert float(last_word(code, tmp_path / "model")) == logits(model).double().sum().item()


def test_training_a_copy_does_not_change_the_model():
    model = make_model(scaling="learned")
    before = logits(model)
    for model_copy in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(model_copy), before)
        train(model_copy)
        assert torch.equal(logits(model), before)


def test_modules_to_save_are_trained_and_saved(tmp_path):
    model = make_model(modules_to_save=["lm_head"])
    train(model)
    model.save_pretrained(tmp_path)
    assert "base_model.model.lm_head.weight" in load_file(tmp_path / "adapter_model.safetensors")
    loaded = peft.PeftModel.from_pretrained(model_of("llama"), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    for peft_model in (model, loaded):
        with peft_model.disable_adapter():
            assert torch.equal(logits(peft_model), logits(model_of("llama")))


@pytest.mark.parametrize("bias", ["none", "bottleneck_only", "all"])
def test_the_bias_setting_selects_the_biases_that_are_trained_and_saved(bias, tmp_path):
    model = make_model("bloom", bias=bias, placement="after", target_modules=["dense", "dense_h_to_4h"])
    biases = {name for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")}
    everywhere = sum(name.endswith("bias") for name, _ in model_of("bloom").named_parameters())
    assert len(biases) == {"none": 0, "bottleneck_only": 4, "all": everywhere}[bias]
    assert all("dense" in name for name in biases) or bias == "all"
    train(model)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model_of("bloom"), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))


def adapted_modules(**settings):
    model = peft.get_peft_model(model_of("llama"), BottleneckConfig(bottleneck_size=4, **settings))
    return {
        name.removeprefix("base_model.model.model.")
        for name, m in model.named_modules()
        if isinstance(m, BottleneckLinear)
    }


def test_layers_patterns_and_all_linear_select_the_modules():
    assert adapted_modules(target_modules=["up_proj"], layers_to_transform=1) == {"layers.1.mlp.up_proj"}
    assert adapted_modules(target_modules=["up_proj"], layers_to_transform=[0], layers_pattern="layers") == {
        "layers.0.mlp.up_proj"
    }
    assert adapted_modules(target_modules=r".*layers\.0\..*up_proj") == {"layers.0.mlp.up_proj"}
    assert len(adapted_modules(target_modules="all-linear")) == 14
    assert len(adapted_modules(target_modules="all-linear", exclude_modules=["q_proj"])) == 12
    assert len(adapted_modules(target_modules=["q_proj", "k_proj"], exclude_modules=r".*\.1\..*")) == 2
    assert {name.rpartition(".")[2] for name in adapted_modules()} == {"gate_proj", "up_proj"}


@pytest.mark.parametrize("architecture", DEFAULT_TARGETS)
@for_all_placements
def test_default_targets_are_modules_of_the_architecture(placement, architecture):
    names = {name.rpartition(".")[2] for name in DEFAULT_TARGETS[architecture][placement]}
    assert names <= set(LINEAR_MODULES[architecture])


def test_all_linear_applies_to_an_adapted_model():
    model = make_model(target_modules="all-linear", placement="before")
    model.add_adapter("second", make_config(target_modules="all-linear", placement="after"))
    first = logits(model)
    model.base_model.set_adapter(["default", "second"])
    assert sum(isinstance(m, BaseTunerLayer) for m in model.modules()) == 14
    assert not torch.equal(logits(model), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@for_all_architectures
def test_a_half_precision_base_keeps_its_dtype_and_has_float32_adapters(architecture, dtype, tmp_path):
    model = peft.get_peft_model(
        model_of(architecture).to(dtype), make_config(architecture, scaling="learned")
    )
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}
    losses = train(model, steps=3)
    assert losses[-1] < losses[0]
    assert logits(model).dtype == dtype
    model.save_pretrained(tmp_path)
    for low in (False, True):
        base = model_of(architecture).to(dtype)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low).eval()
        assert {p.dtype for p in adapter_parameters(loaded).values()} == {torch.float32}
        assert torch.equal(logits(loaded), logits(model))


def test_adapter_weights_can_have_the_dtype_of_the_base():
    base = model_of("llama").to(torch.bfloat16)
    model = peft.get_peft_model(base, make_config(scaling="learned"), autocast_adapter_dtype=False).eval()
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.bfloat16}
    assert logits(model).isfinite().all()


@for_all_placements
def test_autocast_keeps_the_dtype_of_the_frozen_layer(placement):
    model = make_model(placement=placement, target_modules=["up_proj"])
    model.add_adapter("second", make_config(placement=placement, target_modules=["up_proj"]))
    types = set()
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda _, inputs, output: types.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits(model)
        logits(model, IDS.repeat(2, 1), adapter_names=["second", "default"])
    assert types == {torch.bfloat16}


@for_all_architectures
def test_reentrant_checkpointing_gives_the_same_gradients(architecture):
    """Reentrant checkpointing needs inputs that require gradients, which a method of peft enables."""
    model = make_model(architecture)
    model(input_ids=IDS, labels=IDS).loss.backward()
    expected = {name: p.grad for name, p in adapter_parameters(model).items()}
    model.zero_grad()
    model.train().gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, p in adapter_parameters(model).items():
        assert torch.allclose(p.grad, expected[name], atol=1e-6), name


def test_peft_reports_the_status_of_layers_and_model():
    model = make_model(scaling="learned")
    status = model.get_model_status()
    assert (status.adapter_model_type, status.num_adapter_layers) == ("BottleneckModel", 6)
    assert status.requires_grad == {"default": True}
    assert {layer.module_type for layer in model.get_layer_status()} == {"bottleneck.BottleneckLinear"}


def test_the_settings_of_a_saved_adapter_are_plain_json(tmp_path):
    make_model(layers_to_transform=[0, 1]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "BOTTLENECK"
    assert config["placement"] == MAPS["llama"]
    assert config["layers_to_transform"] == [0, 1]
