"""The card of a pretrained base: every key of its recipe is checked before a job is planned."""

import copy

import pytest
import yaml

from pipeline.core.errors import UserError
from pipeline.params.reading import CARDS, PARAMS, parse_card, read_card
from pipeline.study import load_study
from pipeline.study.artifacts import Artifact

PRETRAINED = [
    path
    for path in sorted((PARAMS / "models").glob("*.yaml"))
    if yaml.safe_load(path.read_text()).get("kind") == "pretrained"
]


def card_with(section: str, *, name: str = "tiny-llama", **changes):
    """The shipped card ``name`` as plain data, with keys of one section changed; None removes a key."""
    card = copy.deepcopy(yaml.safe_load((PARAMS / "models" / f"{name}.yaml").read_text()))
    merged = {**card[section], **changes}
    card[section] = {key: value for key, value in merged.items() if value is not None}
    return card


def error_message(card) -> str:
    with pytest.raises(UserError) as caught:
        parse_card(CARDS["models"], card, where="params/models/x.yaml")
    message = str(caught.value)
    assert message.startswith("params/models/x.yaml: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("config", {"hidden_sice": 128}, "config.hidden_sice: unknown key (choices: hidden_size, "),
        ("config", {"n_embd": 128}, "config.n_embd: unknown key (choices: hidden_size, "),
        ("config", {"vocab_size": 10}, "config.vocab_size: unknown key"),
        ("config", {"hidden_size": 0}, "config.hidden_size: Input should be greater than 0 (got 0)"),
        ("config", {"hidden_size": "128"}, "config.hidden_size: Input should be a valid integer (got '128')"),
        ("config", {"attention_dropout": 1.0}, "config.attention_dropout: "),
        ("tokenizer", {"kind": "wrld"}, "'world', 'bpe'"),
        ("tokenizer", {"vocab_size": 9}, "tokenizer.vocab_size: unknown key (choices: kind)"),
        ("tokenizer", {"kind": "bpe"}, "tokenizer.vocab_size: missing"),
        ("tokenizer", {"kind": "bpe", "vocab_size": 400}, "corpus: a 'bpe' tokenizer is trained on it"),
        ("pretraining", {"lable_weight": 4.0}, "pretraining.lable_weight: unknown key (choices: steps, "),
        ("pretraining", {"learning_rat": 1e-3}, "pretraining.learning_rat: unknown key (choices: steps, "),
        ("pretraining", {"learning_rate": None}, "pretraining.learning_rate: missing"),
        ("pretraining", {"warmup_steps": 0}, "pretraining.warmup_steps: Input should be greater than 0"),
        ("pretraining", {"first_stage": 1.5}, "pretraining.first_stage: "),
        ("pretraining", {"batch_tokens": 95}, "batch_tokens: 95 is less than length, 96"),
        (
            "config",
            {"max_position_embeddings": 95},
            "pretraining.length: 96 tokens, but the config has 95 positions",
        ),
        ("pretraining", {"world_seed": None}, "pretraining.world_seed: missing"),
    ],
)
def test_a_wrong_key_or_value_of_a_recipe_is_an_error_in_one_line(section, changes, message):
    assert message in error_message(card_with(section, **changes))


def test_a_config_accepts_only_the_fields_of_its_architecture():
    message = error_message(card_with("config", name="tiny-gptj", hidden_size=128))
    assert "config.hidden_size: unknown key (choices: n_embd, " in message


def test_an_unknown_architecture_lists_the_choices():
    card = {**card_with("config"), "architecture": "lama"}
    assert "architecture: unknown 'lama' (choices: llama, bloom, " in error_message(card)


def test_look_back_is_refused_for_other_architectures():
    card = {**card_with("config"), "architecture": "gpt2", "config": {"n_embd": 32}}
    assert "pretraining.look_back: only for llama, bloom, gptj" in error_message(card)


@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_only_the_keys_of_the_card_enter_the_fingerprint(path):
    """Defaults that a card does not set must not enter the params, and numbers keep their type (1 is not 1.0)."""
    card = yaml.safe_load(path.read_text())
    params = {key: card[key] for key in ("architecture", "config", "tokenizer", "pretraining")}
    written = Artifact("base", f"{path.stem}/", params)
    resolved = read_card("models", path.stem).model_dump(include=set(params), exclude_unset=True)
    assert Artifact("base", f"{path.stem}/", resolved).fingerprint == written.fingerprint


def test_an_integer_stays_an_integer():
    card = parse_card(CARDS["models"], card_with("pretraining", weight_decay=0), where="x")
    assert repr(card.pretraining.weight_decay) == "0"


def test_the_params_of_a_base_are_its_recipe():
    base = load_study("quickstart").base("tiny-llama")
    assert base.params["pretraining"]["learning_rate"] == 1.5e-3
    assert set(base.params) == {"architecture", "config", "tokenizer", "pretraining"}
