"""Registration of the bottleneck method with peft."""

import pickle

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import PeftType
from transformers.activations import ACT2FN

from pipeline.adapters import BottleneckConfig, _peft_registry
from pipeline.adapters.bottleneck import BottleneckModel
from pipeline.core.errors import UserError
from pipeline.params.architectures import ACTIVATIONS, PEFT_TYPES


def test_the_method_is_a_member_of_the_enum_of_peft():
    member = PeftType.BOTTLENECK
    assert member is PeftType("BOTTLENECK") is PeftType["BOTTLENECK"]
    assert member == "BOTTLENECK"
    assert member in list(PeftType)
    assert pickle.loads(pickle.dumps(member)) is member
    assert PEFT_TYPE_TO_CONFIG_MAPPING["BOTTLENECK"] is BottleneckConfig
    assert PEFT_TYPE_TO_PREFIX_MAPPING[member] == "bottleneck_"


def test_a_second_registration_changes_nothing():
    count = len(PeftType)
    _peft_registry.register_tuner("bottleneck", BottleneckConfig, BottleneckModel)
    assert len(PeftType) == count


@pytest.mark.parametrize("version", ["0.20.0", "0.22.1", "1.0.0", "0.21"])
def test_an_unsupported_peft_version_is_refused(version):
    with pytest.raises(UserError, match=rf"peft {version}.*0\.21\.x"):
        _peft_registry.check_peft_version(version)


def test_the_installed_peft_version_is_supported():
    _peft_registry.check_peft_version(peft.__version__)


def test_a_method_of_peft_is_not_replaced():
    with pytest.raises(UserError, match="already has a method 'lora'"):
        _peft_registry.register_tuner("lora", BottleneckConfig, BottleneckModel)


def test_the_table_of_methods_lists_those_of_the_installed_peft():
    assert set(PEFT_TYPES) == {member.value for member in PEFT_TYPE_TO_CONFIG_MAPPING} - {"BOTTLENECK"}


def test_cards_may_use_the_activations_of_transformers_without_weights():
    assert set(ACTIVATIONS) == {name for name in ACT2FN if not any(True for _ in ACT2FN[name].parameters())}
