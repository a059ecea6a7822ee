"""The bottleneck layer compared with numbers from the published code and with its closed form."""

import json

import pytest
import torch
from torch import nn

from pipeline.adapters import BottleneckConfig
from pipeline.adapters.bottleneck import BottleneckLinear

PLACEMENT = {"mh_adapter": "before", "output_adapter": "after", "parallel_adapter": "parallel"}


def tensor(values):
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def make_layer(base, **settings):
    config = BottleneckConfig(**settings)
    layer = BottleneckLinear(base)
    layer.set_adapter(["default"])
    layer.add_detour("default", config, placement=config.placement)
    return layer


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden/bottleneck_vectors.json").read_text())


def test_outputs_and_gradients_equal_the_published_code(golden):
    assert len(golden["cases"]) == 5
    for case in golden["cases"]:
        base = nn.Linear(case["in"], case["out"], bias=case["b"] is not None, dtype=torch.float64)
        layer = make_layer(
            base,
            placement=PLACEMENT[case["type"]],
            bottleneck_size=case["k"],
            non_linearity=case["act"],
            scaling=case["scaling"] if isinstance(case["scaling"], (int, float)) else "learned",
        ).double()
        down, up = layer.bottleneck_down["default"].weight, layer.bottleneck_up["default"].weight
        with torch.no_grad():
            base.weight.copy_(tensor(case["W"]))
            if case["b"] is not None:
                base.bias.copy_(tensor(case["b"]))
            down.copy_(tensor(case["down"]))
            up.copy_(tensor(case["up"]))
            if case["grad_scaling"] is not None:
                # written as "learned(0.7)"
                layer.bottleneck_scaling["default"].fill_(float(case["scaling"][len("learned(") : -1]))
        x = tensor(case["x"]).requires_grad_()
        y = layer(x)
        y.backward(tensor(case["grad_out"]))
        tensors = {"y": y, "grad_down": down.grad, "grad_up": up.grad, "grad_x": x.grad}
        if case["grad_scaling"] is not None:
            tensors["grad_scaling"] = layer.bottleneck_scaling["default"].grad
        for name, value in tensors.items():
            expected = tensor(case[name]).reshape(value.shape)
            assert (value - expected).abs().max() < 1e-6, (case["type"], case["act"], name)


def test_initial_weights_have_the_published_standard_deviation(golden):
    torch.manual_seed(0)
    for init, row in (("normal", "bert"), ("mam", "mam_adapter")):
        layer = make_layer(nn.Linear(688, 688), placement="after", bottleneck_size=256, init_weights=init)
        stats = golden["init_stats_688x256"][row]
        assert layer.bottleneck_down["default"].weight.std().item() == pytest.approx(
            stats["down_std"], rel=0.02
        )
        assert layer.bottleneck_up["default"].weight.std().item() == pytest.approx(
            stats["up_std"], rel=0.02, abs=1e-9
        )


@pytest.mark.parametrize("placement", ["before", "after", "parallel"])
def test_zero_up_starts_without_any_change_of_the_output(placement):
    base = nn.Linear(6, 4)
    layer = make_layer(base, placement=placement, bottleneck_size=2, init_weights="zero_up")
    x = torch.randn(2, 3, 6)
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("placement", ["before", "after", "parallel"])
def test_dropout_applies_to_the_detour_in_training_only(placement):
    layer = make_layer(nn.Linear(6, 6), placement=placement, bottleneck_size=4, adapter_dropout=0.5)
    x = torch.randn(2, 3, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("scale", [2, 0, -3])
def test_an_integer_scaling_is_accepted(scale):
    torch.manual_seed(0)
    layer = make_layer(nn.Linear(6, 6), placement="parallel", bottleneck_size=4, scaling=scale)
    x = torch.randn(3, 6)
    base_output = layer.base_layer(x)
    scaled = layer(x) - base_output
    layer.scaling["default"] = 1.0
    assert torch.allclose(scaled, scale * (layer(x) - base_output), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "behind"}, "placement: unknown 'behind' .*before, after, parallel"),
        ({"placement": {"up_proj": "behind"}}, "placement: unknown 'behind'"),
        ({"placement": {}}, "placement: the map is empty"),
        ({"bottleneck_size": 0}, "bottleneck_size: .*got 0"),
        ({"bottleneck_size": -8}, "bottleneck_size: .*got -8"),
        ({"bottleneck_size": True}, "bottleneck_size: .*got True"),
        ({"bottleneck_size": 2.5}, "bottleneck_size: .*got 2.5"),
        ({"bottleneck_size": "64"}, "bottleneck_size: .*got '64'"),
        ({"adapter_dropout": -0.1}, "adapter_dropout: .*got -0.1"),
        ({"scaling": float("nan")}, "scaling: .*got nan"),
        ({"non_linearity": None}, "non_linearity: unknown None"),
        ({"bias": "lora_only"}, "bias: unknown 'lora_only' .*bottleneck_only"),
        ({"placement": None}, "placement: unknown None"),
        ({"adapter_dropout": 1.0}, "adapter_dropout: .*got 1.0"),
        ({"scaling": "big"}, "scaling: .*'big'"),
        ({"non_linearity": "tanhh"}, "non_linearity: unknown 'tanhh'.*tanh"),
        ({"non_linearity": "prelu"}, "non_linearity: 'prelu' has trainable weights"),
        ({"init_weights": "zero"}, "init_weights: unknown 'zero' .*zero_up"),
        ({"target_modules": []}, "target_modules: the list is empty"),
        (
            {"placement": {"up_proj": "before"}, "target_modules": ["up_proj", "q_proj"]},
            "no entry for module 'q_proj'",
        ),
        ({"placement": {"up_proj": "before"}, "target_modules": ".*up_proj"}, "if placement is a map"),
        ({"target_modules": ".*up", "layers_to_transform": 1}, "layers_to_transform"),
    ],
)
def test_invalid_settings_are_refused_with_their_name(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        BottleneckConfig(**settings)
    assert "\n" not in str(error.value)


def test_the_longest_matching_name_of_a_placement_map_applies():
    config = BottleneckConfig(placement={"dense": "after", "self_attention.dense": "parallel"})
    assert config.placement_of("h.0.self_attention.dense") == "parallel"
    assert config.placement_of("h.0.mlp.dense") == "after"
