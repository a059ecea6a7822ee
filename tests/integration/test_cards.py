"""A base over several cards: the same results as on one device, with every operation on the card of what it computes with.

The cards are pretended (tests/pretended.py): they compute on the CPU, and an operation across them is an error.
"""

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load

from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.likelihood import EncodedChoices, loglikelihoods
from pipeline.evaluate.generation.loading import BaseLoader
from pipeline.evaluate.generation.predict import predict
from pipeline.models import head
from pipeline.models.bases import placement
from pipeline.models.train import train
from pipeline.params.architectures import ONE_CARD, PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from pipeline.params.machine import MachineSettings
from tests.integration.test_peft_types import SETTINGS
from tests.integration.training_cases import PROMPT, SERIES, lora, settings
from tests.pretended import WrongDevice, pretended_cards
from tests.tiny import FAMILY, save_base

CARDS = [torch.device("cpu", 0), torch.device("cpu", 1)]
PROMPTS = [[1, 5, 6, 7, 8, 9], [1, 5, 6, 11], [1, 5, 6, 12, 13, 14, 15, 16]]
CHOICES = [EncodedChoices(prompt, [[20, 21, 22], [20, 23], [24]]) for prompt in PROMPTS]
METHODS = {"lora": lora(), "series": SERIES, "prompt": PROMPT, "full": {"kind": "full"}}


# for the fixtures of conftest.py
ROWS = 12


@pytest.fixture
def cards(monkeypatch):
    """Two pretended cards for a job that asks for two."""
    monkeypatch.setattr(placement, "list_cards", lambda device, count: CARDS if count == 2 else [])
    # where a training puts its inputs
    monkeypatch.setitem(PartialState(cpu=True)._shared_state, "device", CARDS[0])
    with pretended_cards() as used:
        yield used


def run(base, prompts, output, *, gpus, method, packing=None, **changes):
    training = settings(**{"epochs": 1, "save_steps": 100, **changes})
    options = {"seed": 1, "validation": None, "manifest": {"fingerprint": "abc"}, "device": "cpu"}
    machine = MachineSettings(gpus_per_job=gpus, packing=packing)
    train(base, prompts, method=method, training=training, output=output, machine=machine, **options)
    weights = "model.safetensors" if method["kind"] == "full" else "adapter_model.safetensors"
    return (output / weights).read_bytes(), (output / "history.jsonl").read_bytes()


def test_pretended_cards_refuse_what_cards_refuse():
    with pretended_cards():
        first = torch.ones(3, device=CARDS[0], requires_grad=True)
        second = torch.ones(3, device=CARDS[1])
        assert [tensor.device for tensor in (first * 2, second[1:], torch.ones(2))] == [
            *CARDS,
            torch.device("cpu"),
        ]
        for other in (second, torch.ones(3)):
            with pytest.raises(WrongDevice, match="aten::add"):
                first + other
        (first.to(CARDS[1]) * second).sum().backward()
        assert first.grad.device == CARDS[0]


@pytest.mark.parametrize(
    "method",
    ["lora", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in METHODS if name != "lora")],
)
def test_a_training_over_two_cards_writes_the_bytes_of_one(method, base, prompts, tmp_path, request):
    one = run(base, prompts, tmp_path / "one", gpus=1, method=METHODS[method])
    used = request.getfixturevalue("cards")
    assert run(base, prompts, tmp_path / "two", gpus=2, method=METHODS[method]) == one
    assert used >= set(CARDS)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "peft_type", [name for name in PEFT_TYPES if name not in (*UNSUPPORTED_PEFT_TYPES, *ONE_CARD)]
)
def test_every_other_method_of_peft_trains_over_two_cards(peft_type, base, prompts, tmp_path, request):
    method = {"kind": "peft", "peft_type": peft_type, **SETTINGS.get(peft_type, {})}
    one = run(base, prompts, tmp_path / "one", gpus=1, method=method)
    request.getfixturevalue("cards")
    two = run(base, prompts, tmp_path / "two", gpus=2, method=method)
    if peft_type not in ("UNILORA", "VBLORA"):
        assert two == one
        return
    # their layers share weights, whose gradients are added in another order
    assert two[1] == one[1]
    values = load(two[0])
    assert all(torch.allclose(values[name], value, atol=1e-6) for name, value in load(one[0]).items())


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "nf4", "dtype": "bfloat16"},
        {"quantization": "int8"},
        {"dtype": "float16"},
        {"method": lora(init_lora_weights="lora_ga", init_batches=2)},
        {"packing": True},
    ],
    ids=str,
)
def test_other_settings_over_two_cards(changes, base, prompts, tmp_path, request):
    options = {"method": SERIES, **changes}
    one = run(base, prompts, tmp_path / "one", gpus=1, **options)
    request.getfixturevalue("cards")
    assert run(base, prompts, tmp_path / "two", gpus=2, **options) == one


def test_logits_in_pieces_checkpointing_and_16_bits_over_two_cards(
    base, prompts, tmp_path, request, monkeypatch
):
    changes = {"gradient_checkpointing": True, "dtype": "bfloat16"}
    # a few logits at once
    for function in (head.needs_pieces, head.loss_of_hidden):
        monkeypatch.setitem(function.__kwdefaults__, "most", 200)
    one = run(base, prompts, tmp_path / "one", gpus=1, method=SERIES, **changes)
    request.getfixturevalue("cards")
    assert run(base, prompts, tmp_path / "two", gpus=2, method=SERIES, **changes) == one


def answer(model, tokenizer):
    texts = []
    for beams in (1, 3):
        config = decoding.configure_decoding(model, tokenizer, max_new_tokens=8, num_beams=beams)
        completion = decoding.completion_check(tokenizer, config)
        texts.append(decoding.decode(model, PROMPTS, config, completion))
    return texts, loglikelihoods(model, CHOICES, pad=0)


def test_predict_answers_over_two_cards_as_on_one(base, cards):
    decoding_options = {"template": "strict", "num_beams": 2, "max_new_tokens": 6}
    options = {"input": "", "decoding": decoding_options, "device": "cpu"}
    one = list(predict(base, None, [["w3 w4", "w9"]], **options))
    assert not cards & {CARDS[1]}
    assert list(predict(base, None, [["w3 w4", "w9"]], gpus=2, **options)) == one
    assert cards >= set(CARDS)


@pytest.mark.parametrize(
    "architecture",
    ["llama", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in FAMILY if name != "llama")],
)
def test_answers_over_two_cards_are_those_of_one(architecture, tmp_path, request):
    save_base(architecture, tmp_path / "base")
    texts, values = answer(*BaseLoader(tmp_path / "base", "cpu").load(None, "float32"))
    used = request.getfixturevalue("cards")
    model, tokenizer = BaseLoader(tmp_path / "base", "cpu", gpus=2).load(None, "float32")
    assert {parameter.device for parameter in model.parameters()} == set(CARDS)
    used.clear()
    spread_texts, spread_values = answer(model, tokenizer)
    assert spread_texts == texts
    for value, expected in zip(spread_values, values, strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
    assert used >= set(CARDS)
    assert placement.devices_of(model, model.device) == []


def test_layers_are_shared_out_by_their_bytes(tmp_path):
    save_base("llama", tmp_path / "llama", num_hidden_layers=4)
    save_base("gpt2", tmp_path / "gpt2")
    cards = [torch.device("cuda", index) for index in range(3)]
    places = placement.place_modules(tmp_path / "llama", cards)
    layers = [places[f"model.layers.{layer}"].index for layer in range(4)]
    assert layers == sorted(layers)
    assert set(layers) == {0, 1, 2}
    assert (places["model.embed_tokens"].index, places["lm_head"].index) == (0, 2)
    # a head with the embedding's weights is beside it
    assert placement.place_modules(tmp_path / "gpt2", cards)["lm_head"] == cards[0]


def test_only_cards_of_a_gpu_share_a_base():
    assert placement.list_cards("cuda", 2) == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert placement.list_cards("cuda", 1) == placement.list_cards("cpu", 2) == []
