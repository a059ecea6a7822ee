"""Models whose card says that their modules are called as LLaMA's: trained and evaluated without a row of their own."""

import json
import shutil

import pytest
import torch

from pipeline.adapters import add_adapter
from pipeline.commands.app import run_command
from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.loading import load_model
from pipeline.models.train import train
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.base import Training
from pipeline.params.models import Model, architecture_of_modules
from pipeline.params.reading import PARAMS, parse_card, read_card
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from tests.integration.conftest import enter, write_project
from tests.tiny import FAMILY, NAMED_LIKE_LLAMA, linear_modules, model_of, save_base, write_rows

METHODS = {
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
    "series": {"bottleneck_size": 4},
    "parallel": {"bottleneck_size": 4},
    "prefix-tuning": {"num_virtual_tokens": 4},
}
MODELS = sorted(path.stem for path in (PARAMS / "models").glob("*.yaml"))
CARD = {
    "name": "X",
    "kind": "hub",
    "repo_id": "a/x",
    "revision": None,
    "licence": "mit",
    "source": "test",
}


def resolve(method, architecture="llama"):
    return resolve_method(
        Entry(method=method, **METHODS[method]), architecture=architecture, where="params/study/s.yaml"
    )


@pytest.mark.parametrize("architecture", NAMED_LIKE_LLAMA)
def test_the_modules_are_called_as_the_card_says(architecture):
    card = parse_card(Model, CARD | {"architecture": architecture, "modules": "llama"}, where="card")
    assert architecture_of_modules(card) == "llama"
    assert linear_modules(model_of(architecture)) == set(LINEAR_MODULES["llama"])


@pytest.mark.parametrize(
    "architecture",
    # two seconds each: the one with the most of its own, soft caps and windows, is for every run
    [name if name == "gemma2" else pytest.param(name, marks=pytest.mark.slow) for name in NAMED_LIKE_LLAMA],
)
def test_an_adapter_is_trained_and_its_answers_do_not_depend_on_the_batch(architecture, tmp_path):
    save_base(architecture, tmp_path / "base")
    prompts = write_rows(tmp_path / "prompts.parquet")
    settings = Training(
        max_steps=2, epochs=None, batch_size=4, warmup_steps=0, logging_steps=1, cutoff_len=64
    )
    for method in METHODS:
        output = tmp_path / method
        train(
            tmp_path / "base",
            prompts,
            method=resolve(method),
            training=settings,
            seed=0,
            output=output,
            validation=None,
            manifest={"fingerprint": "abc"},
            device="cpu",
        )
        losses = [json.loads(line)["loss"] for line in (output / "history.jsonl").read_text().splitlines()]
        assert len(losses) == 2
        model, tokenizer = load_model(tmp_path / "base", output, "float32", "cpu")
        check_batches(model, tokenizer)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["phi3"])
def test_fused_modules_are_adapted(method, architecture):
    fields = resolve(method, architecture)
    model = add_adapter(model_of(architecture), fields, architecture=architecture, seed=0)
    ids = torch.arange(4, 14)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def check_batches(model, tokenizer):
    """Check that prompts of several lengths get the same tokens in a batch as alone, beyond the attention window."""
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(4, 64, (2 + 3 * row,), generator=generator).tolist() for row in range(8)]
    config = decoding.configure_decoding(model, tokenizer, max_new_tokens=6, num_beams=1)
    assert decoding.decode(model, rows, config) == [decoding.decode(model, [row], config)[0] for row in rows]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"architecture": "qwen2"},
            "architecture: unknown 'qwen2' .*llama.*; if its decoder layer .* set modules",
        ),
        ({"architecture": "qwen2", "modules": "lama"}, "modules: unknown 'lama' .*llama"),
        ({"architecture": "bloom", "modules": "llama"}, "modules: 'bloom' is listed .* remove the key"),
    ],
)
def test_a_wrong_name_of_modules_is_refused_in_one_line(keys, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_card(Model, CARD | keys, where="params/models/x.yaml")
    assert "\n" not in str(caught.value)


STUDY = """
title: All
description: every released model with the published methods
models: [{models}]
methods: [series, parallel, lora, prefix-tuning, adapter-p]
seeds: [0]
arms: [{{name: arithmetic, training_set: world-math, tasks: [world-addsub]}}]
protocols: [strict]
"""


def test_every_model_resolves_with_the_published_methods(tmp_path, monkeypatch, capsys):
    models = [name for name in MODELS if read_card("models", name).kind not in ("pretrained", "endpoint")]
    write_project(tmp_path, {"study/all": STUDY.format(models=", ".join(models)), "params": "study: all\n"})
    shutil.copytree(PARAMS / "models", tmp_path / "params/models")
    enter(monkeypatch, tmp_path)
    try:
        assert run_command(["check"]) == 0
        assert f" {len(models)} base," in capsys.readouterr().out
    finally:
        read_card.cache_clear()


def test_every_card_with_modules_is_tried_here():
    cards = [card for name in MODELS if (card := read_card("models", name)).kind != "endpoint"]
    assert {card.architecture for card in cards} <= set(NAMED_LIKE_LLAMA) | set(FAMILY)
