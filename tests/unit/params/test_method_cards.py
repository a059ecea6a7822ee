"""Cards of methods and models: each resolves for every architecture, and a mistake is an error in one line."""

import re

import pytest
import torch

from pipeline.adapters import add_adapter, methods
from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.models import architecture_of_modules
from pipeline.params.reading import PARAMS, read_card
from pipeline.params.resolve import resolve_method, resolve_training
from pipeline.params.studies import Entry
from pipeline.study.find import list_trained_methods
from tests.tiny import model_of

METHODS = list_trained_methods()
HUB = [
    card
    for path in (PARAMS / "models").glob("*.yaml")
    if (card := read_card("models", path.stem)).kind == "hub"
]


def resolve(method, architecture="llama", **changes):
    return resolve_method(
        Entry(method=method, **changes), architecture=architecture, where="params/study/s.yaml"
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_card_resolves_for_every_architecture(method):
    for architecture in LINEAR_MODULES:
        fields = resolve(method, architecture)
        assert not {"name", "source", "training"} & set(fields)
        for key in ("target_modules", "feedforward_modules"):
            assert isinstance(fields.get(key), (list, type(None)))
        assert not set(fields.get("placement", {})) & set(LINEAR_MODULES)


@pytest.mark.parametrize("method", METHODS)
def test_a_card_has_a_source_and_valid_training_settings(method):
    card = read_card("methods", method)
    assert re.search(r"arXiv:\d{4}\.\d{5}|github\.com/", card.source)
    resolve_training((f"params/methods/{method}.yaml", card.training))


def test_every_architecture_has_a_hub_model():
    assert {architecture_of_modules(card) for card in HUB} == set(LINEAR_MODULES)


def test_a_hub_model_has_a_licence_and_a_full_commit_hash_or_none():
    for card in HUB:
        assert card.revision is None or re.fullmatch("[0-9a-f]{40}", card.revision)
        assert card.licence
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", card.repo_id)
    assert len({card.repo_id for card in HUB}) == len(HUB)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("dora", {"use_dorra": True}, "use_dorra: unknown key"),
        ("adalora", {"target_r": 48}, "target_r: 48 must be below init_r, 48"),
        ("adalora", {"r": 8}, "r: unknown key"),
        ("adalora", {"deltaT": 0}, "deltaT: .* greater than 0 .*got 0"),
        ("vera", {"r": -1}, "r: .*greater than 0 .*got -1"),
        ("vera", {"vera_dropout": 1.0}, "vera_dropout: .*less than 1"),
        ("oft", {"oft_block_size": -2}, "oft_block_size: .*got -2"),
        (
            "ia3",
            {"feedforward_modules": ["fc_in"]},
            "feedforward_modules: llama has no module 'fc_in' .*down_proj",
        ),
        ("full", {"r": 8}, "r: unknown key"),
        ("prompt-tuning", {"num_virtual_tokens": 0}, "num_virtual_tokens: .*greater than 0 .*got 0"),
        ("p-tuning", {"encoder_dropout": 1.0}, "encoder_dropout: .*less than 1"),
        ("series", {"non_linearity": "tanhh"}, "non_linearity: unknown 'tanhh' .*relu.*tanh"),
        ("series", {"bottleneck_size": 0}, "bottleneck_size: .*greater than 0 .*got 0"),
        ("series", {"bias": "some"}, "bias: .*bottleneck_only"),
    ],
)
def test_a_mistake_is_an_error_in_one_line_with_the_field(method, changes, message):
    with pytest.raises(UserError, match=message) as error:
        resolve(method, **changes)
    assert "\n" not in str(error.value)


def test_a_bottleneck_card_can_set_layers_biases_and_modules_to_save():
    further = {
        "layers_to_transform": [1],
        "bias": "all",
        "modules_to_save": ["lm_head"],
        "exclude_modules": ["gate_proj"],
    }
    fields = resolve("series", **further)
    assert fields == {**resolve("series"), **further}
    # unset, they are no params, so that fingerprints of existing results do not change
    assert not set(further) & set(resolve("series"))
    model = add_adapter(model_of("llama"), {**fields, "bottleneck_size": 4}, architecture="llama", seed=0)
    adapted = {name for name, module in model.named_modules() if name.endswith("bottleneck_down")}
    assert {name.split(".")[4] for name in adapted} == {"1"}
    assert {name.split(".")[6] for name in adapted} == {"up_proj"}
    assert model.base_model.model.lm_head.weight.requires_grad


def resolve_new_card(folder, monkeypatch, text):
    """Write a card with these lines and resolve it."""
    (folder / "methods").mkdir()
    (folder / "methods/mine.yaml").write_text(f"name: Mine\nkind: peft\n{text}source: a test\n")
    monkeypatch.setattr(reading, "PARAMS", folder)
    reading.read_card.cache_clear()
    try:
        return resolve("mine")
    finally:
        reading.read_card.cache_clear()


UNLISTED_METHODS = {
    "LOHA": "r: 4\nalpha: 8\ntarget_modules: {llama: [up_proj], bloom: [dense_h_to_4h]}\n",
    "MISS": "r: 4\ntarget_modules: all-linear\n",
    "LN_TUNING": "target_modules: [input_layernorm]\n",
}


@pytest.mark.parametrize("peft_type", UNLISTED_METHODS)
def test_any_peft_method_needs_only_a_card(peft_type, tmp_path, monkeypatch):
    fields = resolve_new_card(tmp_path, monkeypatch, f"peft_type: {peft_type}\n{UNLISTED_METHODS[peft_type]}")
    model = add_adapter(model_of("llama"), fields, architecture="llama", seed=0)
    assert model.active_peft_config.peft_type.value == peft_type
    ids = torch.arange(4, 14)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    trained, total = methods.count_parameters(model)
    assert 0 < trained < total
    methods.save_trained(model, tmp_path, tokenizer=None, initial_weights=None)
    assert (tmp_path / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TRAINABLE_TOKENS\n", "mine.yaml: .*token_indices: missing"),
        ("TRAINABLE_TOKENS\ntoken_indices: []\n", "mine.yaml: .*token_indices: .*at least 1 item"),
        ("TRAINABLE_TOKENS\ntoken_indices: [-1]\n", "mine.yaml: .*token_indices.0: .*got -1"),
        ("CARTRIDGE\n", "mine.yaml: .*num_virtual_tokens: missing"),
        ("ADAPTION_PROMPT\nadapter_len: 4\n", "mine.yaml: .*adapter_layers: missing"),
        ("SHADOW\n", "mine.yaml: peft_type: SHADOW keeps no cache .*choose another method"),
        ("LILY\n", "mine.yaml: peft_type: LILY weighs its experts by the mean over .*choose another method"),
        ("XLORA\n", "mine.yaml: peft_type: XLORA mixes existing adapters .*choose another method"),
    ],
)
def test_an_impossible_peft_card_is_refused_before_the_dag(text, message, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=message) as error:
        resolve_new_card(tmp_path, monkeypatch, f"peft_type: {text}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("peft_type", "settings", "message"),
    [
        (
            "TRAINABLE_TOKENS",
            {"token_indices": [99]},
            r"index 99 is out of bounds.*change token_indices: \[99\]",
        ),
        ("VBLORA", {"vector_length": 0}, "modulo by zero.*change vector_length: 0"),
    ],
)
def test_a_value_that_fails_when_the_adapter_is_added_is_an_error_in_one_line(peft_type, settings, message):
    card = {"kind": "peft", "peft_type": peft_type, **settings}
    with pytest.raises(UserError, match=f"^{peft_type}: .*{message}") as error:
        add_adapter(model_of("llama"), card, architecture="llama", seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [1, 2])
def test_adalora_needs_at_least_three_steps(steps):
    with pytest.raises(UserError, match=f"ADALORA cannot choose ranks in {steps} steps .*3 steps or more"):
        methods.fill_schedule(resolve("adalora"), steps=steps)
    assert methods.fill_schedule(resolve("adalora"), steps=3)["tfinal"] == 1


@pytest.mark.parametrize("method", ["adalora", "dora", "rslora", "vera"])
def test_the_seed_determines_the_initial_weights(method):
    small = {"vera": {"r": 4}, "adalora": {"init_r": 6, "target_r": 3}}.get(method, {"r": 4})
    card = methods.fill_schedule(resolve(method, **small), steps=9)
    first, repeated, different = (
        add_adapter(model_of("llama"), card, architecture="llama", seed=seed).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    assert any(not torch.equal(first[name], different[name]) for name in first)


def test_a_projection_key_of_the_card_is_used():
    card = resolve("vera", r=4, projection_prng_key=7)
    model = add_adapter(model_of("llama"), card, architecture="llama", seed=1)
    assert model.active_peft_config.projection_prng_key == 7


def test_full_fine_tuning_trains_every_weight():
    model = add_adapter(
        model_of("llama").requires_grad_(False), {"kind": "full"}, architecture="llama", seed=0
    )
    assert all(parameter.requires_grad for parameter in model.parameters())
