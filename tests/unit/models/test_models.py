"""Base models: pretrained directories, the hub's cache, and invalid models."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoTokenizer

from pipeline.core.errors import UserError
from pipeline.core.io import sha256_file
from pipeline.models.base import architecture_of, load_base
from pipeline.models.bases.hub import fetch_base
from pipeline.models.special_tokens import set_special_tokens
from pipeline.params.models import Model
from pipeline.params.reading import parse_card, read_card
from pipeline.prompts.encode import encode
from pipeline.study import load_study
from tests.tiny import COMMIT, CONFIGS, model_of, put_in_hub_cache, save_base


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An offline hub cache with one small model of each architecture, laid out as the hub's client does."""
    cache = tmp_path / "hub"
    for architecture in CONFIGS:
        save_base(architecture, tmp_path / f"plain-{architecture}", dtype="float16")
        put_in_hub_cache(cache, f"org/{architecture}", tmp_path / f"plain-{architecture}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_later_fetches_use_the_recorded_commit_of_the_first(hub_cache, tmp_path):
    lock = tmp_path / "lock.yaml"
    fetch_base("org/llama", revision=None, output=tmp_path / "one", lock=lock)
    second_commit = "f" * 40
    root = hub_cache / "models--org--llama"
    shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / second_commit, symlinks=True)
    # the branch moves on; the record does not
    (root / "refs/main").write_text(second_commit)
    fetch_base("org/llama", revision=None, output=tmp_path / "two", lock=lock)
    assert json.loads((tmp_path / "two/manifest.json").read_text())["revision"] == COMMIT
    fetch_base("org/llama", revision=None, output=tmp_path / "three")
    assert json.loads((tmp_path / "three/manifest.json").read_text())["revision"] == second_commit
    (root / "snapshots" / COMMIT / "config.json").unlink()
    (root / "snapshots" / COMMIT / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"model org/llama@main: files is .* recorded"):
        fetch_base("org/llama", revision=None, output=tmp_path / "four", lock=lock)
    assert not (tmp_path / "four").exists()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_cached_hub_model_is_fetched_and_loaded(architecture, hub_cache, tmp_path):
    output = tmp_path / "base"
    fetch_base(f"org/{architecture}", revision=None, output=output)
    manifest = json.loads((output / "manifest.json").read_text())
    assert [path.name for path in output.iterdir()] == ["manifest.json"]
    assert (manifest["repo_id"], manifest["revision"]) == (f"org/{architecture}", COMMIT)
    snapshot = hub_cache / f"models--org--{architecture}/snapshots/{COMMIT}"
    assert manifest["files"] == {path.name: sha256_file(path) for path in snapshot.iterdir()}

    model, tokenizer = load_base(output)
    assert architecture_of(model.config) == architecture
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert (model.name_or_path, model.config._commit_hash) == (f"org/{architecture}", COMMIT)
    ids = tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt")
    # one token more than words: the start token
    assert ids["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    expected = model_of(architecture)
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.copy_(parameter.half())
        assert torch.equal(model(**ids).logits, expected(**ids).logits)


def test_a_cached_commit_needs_no_network(hub_cache, tmp_path):
    fetch_base("org/llama", revision=COMMIT, output=tmp_path / "base")
    assert json.loads((tmp_path / "base/manifest.json").read_text())["revision"] == COMMIT


def test_a_missing_model_is_an_error_in_one_line_and_writes_nothing(hub_cache, tmp_path):
    with pytest.raises(UserError) as error:
        fetch_base("org/absent", revision=None, output=tmp_path / "base")
    message = str(error.value)
    assert message.startswith("org/absent: ")
    assert str(hub_cache) in message
    assert "hf download org/absent" in message
    assert "HF_HOME" in message
    assert "\n" not in message
    assert not (tmp_path / "base").exists()


def test_a_snapshot_without_its_weights_counts_as_absent(hub_cache, tmp_path):
    (hub_cache / f"models--org--bloom/snapshots/{COMMIT}/model.safetensors").unlink()
    with pytest.raises(UserError, match="org/bloom: "):
        fetch_base("org/bloom", revision=None, output=tmp_path / "base")


def test_a_snapshot_that_lacks_a_shard_counts_as_absent(hub_cache, tmp_path):
    snapshot = hub_cache / f"models--org--bloom/snapshots/{COMMIT}"
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UserError, match="org/bloom: "):
        fetch_base("org/bloom", revision=None, output=tmp_path / "base")


def test_a_cache_emptied_after_the_fetch_is_an_error_with_the_fix(hub_cache, tmp_path):
    fetch_base("org/gptj", revision=None, output=tmp_path / "base")
    shutil.rmtree(hub_cache / "models--org--gptj")
    with pytest.raises(UserError, match=rf"org/gptj: .*{COMMIT}.*hf download org/gptj --revision {COMMIT}"):
        load_base(tmp_path / "base")


def test_a_name_that_cannot_be_a_repository_is_refused(hub_cache, tmp_path):
    with pytest.raises(UserError, match="repo_id: 'a/b/c'"):
        fetch_base("a/b/c", revision=None, output=tmp_path / "base")


def test_a_pretrained_directory_is_loaded_in_the_requested_dtype(tmp_path):
    save_base("llama", tmp_path / "base", dtype="float16")
    (tmp_path / "base/manifest.json").write_text("{}")
    assert next(load_base(tmp_path / "base")[0].parameters()).dtype == torch.float32
    assert next(load_base(tmp_path / "base", dtype="bfloat16")[0].parameters()).dtype == torch.bfloat16


def test_a_tokenizer_without_a_pad_token_gets_its_unknown_token(tmp_path):
    save_base("llama", tmp_path / "base", pad_token=None)
    model, tokenizer = load_base(tmp_path / "base")
    assert tokenizer.pad_token_id == 0
    assert model.generation_config.pad_token_id == 0
    assert tokenizer.padding_side == "right"


RULES = [
    ({}, ("<s>", "</s>", "<unk>"), ["<s>", "w1"]),
    ({"bos": "none"}, ("<s>", "</s>", "<unk>"), ["w1"]),
    ({"bos": "w7", "eos": "w8"}, ("w7", "w8", "<unk>"), ["w7", "w1"]),
    ({"pad": "eos"}, ("<s>", "</s>", "</s>"), ["<s>", "w1"]),
    ({"eos": "w8", "pad": "eos"}, ("<s>", "w8", "w8"), ["<s>", "w1"]),
    ({"pad": "<pad>"}, ("<s>", "</s>", "<pad>"), ["<s>", "w1"]),
]


@pytest.mark.parametrize(("rules", "special", "prompt_tokens"), RULES)
def test_the_special_tokens_of_a_card_apply_to_a_loaded_and_to_a_saved_tokenizer(
    rules, special, prompt_tokens, tmp_path
):
    save_base("llama", tmp_path / "base", pad_token=None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    set_special_tokens(tokenizer, rules)
    # as full fine-tuning does
    tokenizer.save_pretrained(tmp_path / "again")
    for tokenizer_copy in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "again")):
        assert (tokenizer_copy.bos_token, tokenizer_copy.eos_token, tokenizer_copy.pad_token) == special
        assert tokenizer_copy.convert_ids_to_tokens(encode(tokenizer_copy, "w1")[0]) == prompt_tokens
        ids, _ = encode(tokenizer_copy, "w1", " w2")
        assert tokenizer_copy.convert_ids_to_tokens(ids) == [*prompt_tokens, "w2", special[1]]


def test_the_special_tokens_of_a_card_apply_to_a_hub_model(hub_cache, tmp_path):
    fetch_base("org/llama", revision=None, output=tmp_path / "base", tokens={"eos": "w8", "pad": "unk"})
    model, tokenizer = load_base(tmp_path / "base")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("w8", "<unk>")
    config = model.generation_config
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"pad": "<|pad|>"}, r"tokens\.pad: the tokenizer of .*base has no '<\|pad\|>'"),
        ({"bos": "w99"}, r"tokens\.bos: .* has no 'w99'"),
        ({"pad": "unk"}, r"tokens\.pad: .* has no 'unk'"),
        ({}, r"tokens\.eos: the tokenizer of .*base has no end token"),
    ],
)
def test_a_special_token_that_the_tokenizer_lacks_is_an_error_in_one_line(rules, message, tmp_path):
    save_base("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.unk_token = None
    if not rules:
        tokenizer.eos_token = None
    with pytest.raises(UserError, match=message):
        set_special_tokens(tokenizer, rules)


@pytest.mark.parametrize(("field", "attribute"), [("pad", "pad_token"), ("eos", "eos_token")])
def test_a_special_token_beyond_the_embeddings_is_an_error_when_the_model_is_loaded(
    field, attribute, tmp_path
):
    save_base("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.add_special_tokens({attribute: "[NEW]"})
    tokenizer.save_pretrained(tmp_path / "base")
    message = (
        rf"tokens\.{field}: '\[NEW\]' .* has the id 64, but the model has 64 embeddings; set tokens\.{field}"
    )
    with pytest.raises(UserError, match=message) as caught:
        load_base(tmp_path / "base")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_token_is_an_error_when_the_model_is_loaded(tmp_path):
    save_base("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"tokens\.eos: .* has no end token"):
        load_base(tmp_path / "base")


def test_special_tokens_are_checked_with_the_card_and_are_params_of_the_base_only_if_set():
    plain, with_rules = (find_base_artifact(read_card("models", name)) for name in ("gpt-j-6b", "llama-7b"))
    assert "tokens" not in plain.params
    assert with_rules.params["tokens"] == {"pad": "unk"}
    card = {
        "name": "x",
        "repo_id": "a/b",
        "revision": None,
        "architecture": "llama",
        "licence": "mit",
        "source": "s",
    }
    for tokens, message in [
        ({"pad": "none"}, "pad: must not be 'none'"),
        ({"start": "<s>"}, "tokens.start: unknown key"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_card(Model, {**card, "tokens": tokens}, where="params/models/x.yaml")


def find_base_artifact(card):
    study = load_study("paper-math")
    return next(run.base for run in study.runs if read_card("models", run.model) is card)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{}", "neither config.json nor a manifest of a hub model"),
        ("{", "not valid JSON"),
    ],
)
def test_a_directory_without_a_base_model_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_base(tmp_path)


def test_damaged_weights_are_an_error_in_one_line(tmp_path):
    save_base("llama", tmp_path / "base")
    (tmp_path / "base/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_base(tmp_path / "base")
    assert "\n" not in str(error.value)


def test_unknown_dtypes_and_architectures_are_refused_with_the_choices(tmp_path):
    with pytest.raises(UserError, match=r"dtype: unknown 'int3' .*float32"):
        load_base(tmp_path, dtype="int3")
    with pytest.raises(UserError, match=r"architecture: unknown 'bert' .*llama"):
        architecture_of(AutoConfig.for_model("bert"))


def test_importing_the_module_imports_no_torch():
    code = (
        "import sys, pipeline.models.base; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
