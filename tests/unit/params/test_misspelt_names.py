"""A misspelt name, and a name of another program, get the right one."""

import pytest

from pipeline.core.errors import UserError, list_choices
from pipeline.params.base import FOREIGN_KEYS, Training
from pipeline.params.machine import check_config_options
from pipeline.params.models import HubModel
from pipeline.params.reading import CARDS, parse_card, read_card


def message_of(call) -> str:
    with pytest.raises(UserError) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("methods", "lroa", "lora"),
        ("models", "tiny-lama", "tiny-llama"),
        ("models", "yahma/llama-7b-hf", "llama-7b"),
        ("study", "quickstrat", "quickstart"),
        ("protocols", "likelyhood", "likelihood"),
    ],
)
def test_a_card_that_does_not_exist(kind, name, meant):
    assert message_of(lambda: read_card(kind, name)).endswith(f"; did you mean '{meant}'?")


def test_a_name_like_no_other_has_choices_alone():
    assert list_choices("xyz", ["lora", "series"]) == "(choices: lora, series)"


@pytest.mark.parametrize(
    ("key", "meant"), [("num_train_epochs", "epochs"), ("load_in_4bit", "quantization"), ("epoch", "epochs")]
)
def test_a_key_of_training(key, meant):
    message = message_of(lambda: parse_card(Training, {key: 1}, where="card"))
    assert message.startswith(f"card: {key}: unknown key (choices: ")
    assert message.endswith(f"; did you mean '{meant}'?")


def test_a_key_of_lora_in_the_words_of_llm_adapters():
    card = read_card("methods", "lora").model_dump(exclude_unset=True) | {"lora_r": 8}
    message = message_of(lambda: parse_card(CARDS["methods"], card, where="card"))
    assert message.endswith("; did you mean 'r'?")


def test_a_key_of_config():
    message = message_of(lambda: check_config_options({"stuyd": "quickstart"}))
    assert message.endswith("; did you mean 'study'?")


def test_every_foreign_key_leads_to_a_key_that_exists():
    keys = {*Training.model_fields, *HubModel.model_fields, "r", "target_modules"}
    assert set(FOREIGN_KEYS.values()) <= keys
