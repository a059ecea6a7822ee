"""Invalid settings and files of the bottleneck tuner: an error in one line, and the model is unchanged."""

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.adapters import BottleneckConfig
from pipeline.adapters.bottleneck import BottleneckLinear, BottleneckModel
from tests.tiny import model_of

IDS = torch.arange(3, 15)[None]
PLACES = {"up_proj": "before", "down_proj": "after", "q_proj": "parallel"}


def make_config(**changes):
    return BottleneckConfig(
        **{"placement": PLACES, "bottleneck_size": 4, "task_type": "CAUSAL_LM", **changes}
    )


def make_model(**changes):
    torch.manual_seed(0)
    return peft.get_peft_model(model_of("llama"), make_config(**changes)).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["up_proj", "fc_in"]}, "no module 'fc_in' .*down_proj.*up_proj"),
        ({"target_modules": "up_proj"}, "'up_proj' matches no module .*down_proj.*up_proj"),
        ({"target_modules": r".*fc_in"}, "fc_in. matches no module .*up_proj"),
        ({"target_modules": ["embed_tokens", "up_proj"]}, "embed_tokens' is a Embedding.*up_proj"),
        ({"target_modules": r".*mlp"}, "mlp' is a LlamaMLP.*up_proj"),
        ({"target_modules": ["up_proj"], "layers_to_transform": 7}, "layers_to_transform 7 .*up_proj"),
        ({"target_modules": ["up_proj"], "layers_to_transform": [0, 7]}, "layers_to_transform: no .* 7"),
        (
            {"target_modules": ["up_proj"], "layers_pattern": "h", "layers_to_transform": 0},
            "layers_pattern 'h'",
        ),
        ({"target_modules": ["up_proj"], "exclude_modules": ["up_proj"]}, "exclude_modules .*up_proj"),
        ({"target_modules": "all-linear", "exclude_modules": ".*proj"}, "exclude_modules '.*proj' .*up_proj"),
        (
            {"target_modules": ["up_proj"], "modules_to_save": ["nohead"]},
            "modules_to_save: .* no module 'nohead'.*lm_head",
        ),
        ({"placement": {"up_proj": "after", "fc": "after"}}, "no module 'fc' .*up_proj"),
        ({"placement": {"up_proj": "after"}, "target_modules": ["up_proj", "up"]}, "module 'up'"),
    ],
)
def test_invalid_targets_are_an_error_in_one_line_and_leave_the_model_unchanged(changes, message):
    settings = {"placement": "before", "bottleneck_size": 4, **changes}
    bare = model_of("llama")
    model = make_model()
    for add in (
        lambda: peft.get_peft_model(bare, BottleneckConfig(**settings)),
        lambda: model.add_adapter("second", BottleneckConfig(**settings)),
    ):
        with pytest.raises(ValueError, match=message) as error:
            add()
        assert "\n" not in str(error.value)
    assert [n for n, _ in bare.named_parameters()] == [n for n, _ in model_of("llama").named_parameters()]
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), logits(make_model()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target_modules": "(up_proj"},
            r"target_modules: '\(up_proj' is not a regular expression \(missing \)",
        ),
        ({"exclude_modules": "*"}, r"exclude_modules: '\*' is not a regular expression"),
        ({"layers_to_transform": "x"}, "layers_to_transform: must be layer numbers, counted from 0 .got 'x'"),
        (
            {"layers_to_transform": [0, -1]},
            r"layers_to_transform: must be layer numbers, counted from 0 \(got \[0, -1\]",
        ),
        ({"layers_to_transform": 1.0}, "layers_to_transform: must be layer numbers"),
    ],
)
def test_settings_of_the_wrong_form_are_refused_without_a_model(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        BottleneckConfig(**{"placement": "before", "target_modules": ["up_proj"], **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 16}, r"bottleneck_\w+\.\w+\.weight is .* x 32 in the file and .* x 16 in the model"),
        ({"intermediate_size": 64}, "is .*48.* in the file and .*64.* in the model"),
        ({"num_hidden_layers": 1}, r"the file has .*layers\.1\..*this model lacks \(6 such tensors\)"),
        ({"num_hidden_layers": 3}, r"the file lacks .*layers\.2\..*\(6 such tensors\)"),
    ],
)
def test_an_adapter_of_a_base_of_another_shape_is_refused_and_leaves_the_base_unchanged(
    changes, message, tmp_path
):
    places = {"up_proj": "parallel", "down_proj": "before", "q_proj": "after"}
    make_model(placement=places).save_pretrained(tmp_path)
    base = model_of("llama", **changes)
    bare = logits(base)
    for options in ({}, {"low_cpu_mem_usage": True}):
        with pytest.raises(ValueError, match=message) as error:
            peft.PeftModel.from_pretrained(base, tmp_path, **options)
        assert "\n" not in str(error.value)
        assert not any(isinstance(m, BottleneckLinear) for m in base.modules())
        assert torch.equal(logits(base), bare)
    model = peft.get_peft_model(base, make_config(placement=places)).eval()
    expected = logits(model)
    for name in ("default", "second"):
        with pytest.raises(ValueError, match=message):
            model.load_adapter(tmp_path, name)
        assert list(model.peft_config) == ["default"]
        assert torch.equal(logits(model), expected)


def test_modules_to_save_of_another_shape_are_refused(tmp_path):
    make_model(modules_to_save=["lm_head"]).save_pretrained(tmp_path)
    larger = model_of("llama")
    larger.resize_token_embeddings(80)
    with pytest.raises(ValueError, match=r"lm_head.* is 64 x 32 in the file and 80 x 32 in the model"):
        peft.PeftModel.from_pretrained(larger, tmp_path)


def test_a_file_that_lacks_tensors_is_refused(tmp_path):
    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"the file lacks .*\(1 such tensors\)"):
        peft.PeftModel.from_pretrained(model_of("llama"), tmp_path)


def test_a_failed_load_keeps_the_adapter_of_the_same_name(tmp_path):
    peft.get_peft_model(model_of("llama", hidden_size=16), make_config()).save_pretrained(tmp_path)
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * parameter.requires_grad)
    before = logits(model)
    with pytest.raises(ValueError, match="another shape"):
        model.load_adapter(tmp_path, "default", is_trainable=True)
    assert isinstance(model.base_model, BottleneckModel)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("targets", ["all-linear", ["out_proj"]])
def test_a_linear_layer_that_is_never_called_is_refused(targets):
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(ValueError, match=r"self_attn\.out_proj' is a NonDynamicallyQuantizableLinear"):
        peft.get_peft_model(encoder, BottleneckConfig(placement="after", target_modules=targets))
    config = BottleneckConfig(placement="after", target_modules="all-linear", exclude_modules=["out_proj"])
    model = peft.get_peft_model(encoder, config)
    assert sum(isinstance(m, BottleneckLinear) for m in model.modules()) == 2


def test_a_model_without_default_targets_is_an_error_with_the_names_of_its_modules():
    model = nn.Sequential()
    model.add_module("inner", nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"no default for a model of type 'custom'.*inner"):
        peft.get_peft_model(model, BottleneckConfig())
