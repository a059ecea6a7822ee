"""Pretraining of tiny bases: equal bytes twice, all architectures, real text, shipped models, bad recipes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.core.errors import UserError
from pipeline.core.io import sha256_file
from pipeline.models.bases import pretrain as stage
from pipeline.params.recipes import PretrainingRecipe

CONFIGS = {
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "gptj": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "rotary_dim": 12,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
    },
}


def recipe(architecture="llama", tokenizer=None, **changes):
    pretraining = {
        "steps": 6,
        "batch_tokens": 64,
        "length": 32,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "weight_decay": 0.05,
        "seed": 0,
        "world_seed": 1,
        "label_weight": 4.0,
        "first_stage": 0.5,
        "look_back": True,
        "logging_steps": 2,
    }
    card = {
        "architecture": architecture,
        "config": CONFIGS[architecture],
        "tokenizer": tokenizer or {"kind": "world"},
        # None: the card leaves the field out
        "pretraining": {key: value for key, value in (pretraining | changes).items() if value is not None},
    }
    return PretrainingRecipe.model_validate(card)


def run(folder, *, corpus=(), fingerprint="none", **settings):
    stage.pretrain(recipe(**settings), corpus=corpus, output=folder, manifest={"fingerprint": fingerprint})
    return folder


@pytest.fixture
def corpus(tmp_path):
    texts = [(f"Question {i}: how much is {i} and {i}? ", f"It is {2 * i}, naïvely.") for i in range(60)]
    table = pa.Table.from_pylist([{"prompt": prompt, "response": response} for prompt, response in texts])
    pq.write_table(table, tmp_path / "train.parquet")
    return [tmp_path / "train.parquet"]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_two_runs_give_equal_bytes(tmp_path, architecture):
    first, second = (run(tmp_path / name, architecture=architecture) for name in ("a", "b"))
    for name in ("model.safetensors", "config.json", "tokenizer.json", "history.jsonl"):
        assert sha256_file(first / name) == sha256_file(second / name)


@pytest.mark.parametrize(("portable", "machine"), [(None, {}), (True, {"portable": True})])
def test_run_json_says_whether_the_kernels_were_portable(tmp_path, portable, machine):
    output = tmp_path / "base"
    stage.pretrain(
        recipe(steps=1), corpus=(), output=output, manifest={"fingerprint": "x"}, portable=portable
    )
    assert json.loads((output / "run.json").read_text())["machine"] == machine


def test_the_thread_count_changes_no_byte(tmp_path):
    before = torch.get_num_threads()
    try:
        sums = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sums.add(sha256_file(run(tmp_path / str(threads)) / "model.safetensors"))
    finally:
        torch.set_num_threads(before)
    assert len(sums) == 1


@pytest.mark.parametrize("architecture", CONFIGS)
def test_transformers_loads_a_pretrained_base(tmp_path, architecture):
    folder = run(tmp_path / "base", architecture=architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == architecture
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    logits = model.float()(**tokenizer("the anvil", return_tensors="pt")).logits
    assert torch.isfinite(logits).all()


def test_the_first_stage_is_optional(tmp_path):
    folder = run(tmp_path / "base", first_stage=None, label_weight=None)
    assert (folder / "model.safetensors").stat().st_size > 1000


def test_another_seed_gives_another_model(tmp_path):
    sums = {sha256_file(run(tmp_path / str(seed), seed=seed) / "model.safetensors") for seed in (0, 1)}
    assert len(sums) == 2


def test_loss_falls_and_is_recorded(tmp_path):
    folder = run(tmp_path / "base", steps=60, logging_steps=20)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [20, 40, 60]
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_tokenizer_of_real_text_keeps_every_byte(tmp_path, corpus):
    folder = run(
        tmp_path / "base", tokenizer={"kind": "bpe", "vocab_size": 400}, corpus=corpus, label_weight=1.0
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Question 3: naïve “quotes”,\n\n  two spaces and 🙂"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_real_text_without_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="corpus"):
        run(tmp_path / "base", tokenizer={"kind": "bpe", "vocab_size": 400})
    assert not list(tmp_path.iterdir())


def test_a_shipped_model_of_the_same_fingerprint_is_copied(tmp_path, monkeypatch):
    shipped = run(tmp_path / "shipped" / "tiny", fingerprint="abc")
    monkeypatch.setattr(stage, "SHIPPED", tmp_path / "shipped")
    # a newly trained model would differ because of the seed
    copied = run(tmp_path / "copied", fingerprint="abc", seed=9)
    assert sha256_file(copied / "model.safetensors") == sha256_file(shipped / "model.safetensors")
    trained = run(tmp_path / "other", fingerprint="def", seed=9)
    assert sha256_file(trained / "model.safetensors") != sha256_file(shipped / "model.safetensors")


def test_shipped_models_are_pretrained_again_on_request(tmp_path, monkeypatch):
    shipped = run(tmp_path / "shipped" / "tiny", fingerprint="abc")
    monkeypatch.setattr(stage, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv(stage.REBUILD, "1")
    trained = run(tmp_path / "anew", fingerprint="abc", seed=9)
    assert sha256_file(trained / "model.safetensors") != sha256_file(shipped / "model.safetensors")
