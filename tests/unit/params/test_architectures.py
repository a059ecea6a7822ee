"""The tables of architectures compared with the classes of transformers, and checks of cards without torch."""

import subprocess
import sys

import pytest

from pipeline.core.errors import UserError
from pipeline.params.architectures import CONFIG_FIELDS, LINEAR_MODULES, check_method, select_for_architecture
from pipeline.params.recipes import ModelConfig
from tests.tiny import linear_modules


def linear_names(architecture):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(architecture)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return linear_modules(model)


@pytest.mark.parametrize("architecture", LINEAR_MODULES)
def test_linear_modules_match_the_transformers_class(architecture):
    assert set(LINEAR_MODULES[architecture]) == linear_names(architecture) - {"project_in", "project_out"}


def test_importing_the_table_imports_no_torch():
    code = "import sys, pipeline.params.architectures; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "lora"}, "kind: unknown 'lora' .*bottleneck, peft"),
        ({"kind": "peft", "peft_type": "LORRA"}, "peft_type: unknown 'LORRA' .*LORA"),
        ({"kind": "peft", "peft_type": "POLY"}, "peft_type: POLY needs the number of a task"),
        (
            {"kind": "peft", "peft_type": "LORA", "target_modules": {"llama": ["qq"]}},
            "llama has no module 'qq' .*q_proj",
        ),
        (
            {"kind": "peft", "peft_type": "LORA", "target_modules": {"gptj": ["fc_in"]}},
            "no value for architecture 'llama'",
        ),
        ({"kind": "bottleneck", "placement": {"llama": {"fc_in": "before"}}}, "llama has no module 'fc_in'"),
        (
            {"kind": "bottleneck", "placement": {"llama": {"up_proj": "in"}}},
            "placement: unknown 'in' .*parallel",
        ),
        (
            {"kind": "bottleneck", "placement": {"lama": {"up_proj": "before"}}},
            r"placement: unknown architecture 'lama' .*llama",
        ),
        (
            {"kind": "peft", "peft_type": "LORA", "target_modules": {"lama": ["q_proj"]}},
            "unknown architecture 'lama'",
        ),
        ({"kind": "bottleneck", "placement": "in"}, "placement: unknown 'in'"),
    ],
)
def test_an_impossible_method_is_refused(method, message):
    with pytest.raises(UserError, match=message):
        check_method(method, architecture="llama")


def test_a_valid_method_passes():
    check_method(
        {"kind": "peft", "peft_type": "LORA", "target_modules": {"bloom": ["self_attention.dense"]}},
        architecture="bloom",
    )
    check_method({"kind": "bottleneck", "placement": {"up_proj": "before"}}, architecture="llama")


def test_a_field_depends_on_the_architecture_only_if_its_keys_are_architectures():
    assert select_for_architecture({"llama": 1}, architecture="llama", field="x") == 1
    assert select_for_architecture({"up_proj": "before"}, architecture="llama", field="x") == {
        "up_proj": "before"
    }
    tokens = {"embed_tokens": [0, 1]}
    assert select_for_architecture(tokens, architecture="llama", field="trainable_token_indices") == tokens
    assert select_for_architecture(3, architecture="llama", field="x") == 3


@pytest.mark.parametrize("architecture", CONFIG_FIELDS)
def test_config_fields_match_the_transformers_class(architecture):
    from transformers import AutoConfig

    assert set(CONFIG_FIELDS[architecture]) <= set(AutoConfig.for_model(architecture).to_dict())
    assert set(CONFIG_FIELDS[architecture]) <= set(ModelConfig.model_fields)


def test_every_architecture_has_config_fields():
    assert list(CONFIG_FIELDS) == list(LINEAR_MODULES)
