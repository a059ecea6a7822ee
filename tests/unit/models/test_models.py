"""Base models: our own directories, the hub's cache, and what is refused."""

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
from pipeline.models.hub import fetch_base
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


def test_the_first_fetch_is_recorded_and_later_ones_are_held_to_it(hub_cache, tmp_path):
    lock = tmp_path / "lock.yaml"
    fetch_base("org/llama", revision=None, output=tmp_path / "one", lock=lock)
    other = "f" * 40
    root = hub_cache / "models--org--llama"
    shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / other, symlinks=True)
    (root / "refs/main").write_text(other)  # the branch moves on; the record does not
    fetch_base("org/llama", revision=None, output=tmp_path / "two", lock=lock)
    assert json.loads((tmp_path / "two/manifest.json").read_text())["revision"] == COMMIT
    fetch_base("org/llama", revision=None, output=tmp_path / "three")
    assert json.loads((tmp_path / "three/manifest.json").read_text())["revision"] == other
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
    assert ids["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]  # a start token ahead
    expected = model_of(architecture)
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.copy_(parameter.half())
        assert torch.equal(model(**ids).logits, expected(**ids).logits)


def test_a_commit_is_found_without_a_network(hub_cache, tmp_path):
    fetch_base("org/llama", revision=COMMIT, output=tmp_path / "base")
    assert json.loads((tmp_path / "base/manifest.json").read_text())["revision"] == COMMIT


def test_a_model_that_is_nowhere_is_one_line_and_leaves_nothing(hub_cache, tmp_path):
    with pytest.raises(UserError) as refused:
        fetch_base("org/absent", revision=None, output=tmp_path / "base")
    message = str(refused.value)
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


def test_a_cache_emptied_after_the_fetch_is_said_with_what_to_do(hub_cache, tmp_path):
    fetch_base("org/gptj", revision=None, output=tmp_path / "base")
    shutil.rmtree(hub_cache / "models--org--gptj")
    with pytest.raises(UserError, match=rf"org/gptj: .*{COMMIT}.*hf download org/gptj --revision {COMMIT}"):
        load_base(tmp_path / "base")


def test_a_name_that_cannot_be_a_repository_is_refused(hub_cache, tmp_path):
    with pytest.raises(UserError, match="repo_id: 'a/b/c'"):
        fetch_base("a/b/c", revision=None, output=tmp_path / "base")


def test_our_own_directory_is_loaded_in_the_type_asked_for(tmp_path):
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


@pytest.mark.parametrize(("rules", "special", "asked"), RULES)
def test_the_cards_rules_for_special_tokens_hold_when_it_is_loaded_and_saved(rules, special, asked, tmp_path):
    save_base("llama", tmp_path / "base", pad_token=None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    set_special_tokens(tokenizer, rules)
    tokenizer.save_pretrained(tmp_path / "again")  # as full fine-tuning does
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "again")):
        assert (one.bos_token, one.eos_token, one.pad_token) == special
        assert one.convert_ids_to_tokens(encode(one, "w1")[0]) == asked
        ids, _ = encode(one, "w1", " w2")
        assert one.convert_ids_to_tokens(ids) == [*asked, "w2", special[1]]


def test_the_cards_rules_reach_a_model_of_the_hub(hub_cache, tmp_path):
    fetch_base("org/llama", revision=None, output=tmp_path / "base", tokens={"eos": "w8", "pad": "unk"})
    model, tokenizer = load_base(tmp_path / "base")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("w8", "<unk>")
    made = model.generation_config
    assert (made.eos_token_id, made.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"pad": "<|pad|>"}, r"tokens\.pad: the tokenizer of .*base has no '<\|pad\|>'"),
        ({"bos": "w99"}, r"tokens\.bos: .* has no 'w99'"),
        ({"pad": "unk"}, r"tokens\.pad: .* has no 'unk'"),
    ],
)
def test_a_rule_for_a_token_that_is_not_there_is_one_line(rules, told, tmp_path):
    save_base("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.unk_token = None
    with pytest.raises(UserError, match=told):
        set_special_tokens(tokenizer, rules)


def test_rules_are_checked_with_the_card_and_enter_its_base_alone():
    plain, ruled = (study_on(read_card("models", name)) for name in ("gpt-j-6b", "llama-7b"))
    assert "tokens" not in plain.params
    assert ruled.params["tokens"] == {"pad": "unk"}
    card = {
        "name": "x",
        "repo_id": "a/b",
        "revision": None,
        "architecture": "llama",
        "licence": "mit",
        "source": "s",
    }
    for tokens, told in [
        ({"pad": "none"}, "pad: must not be 'none'"),
        ({"start": "<s>"}, "tokens.start: unknown key"),
    ]:
        with pytest.raises(UserError, match=told):
            parse_card(Model, {**card, "tokens": tokens}, where="params/models/x.yaml")


def study_on(card):
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
def test_a_directory_that_is_no_base_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_base(tmp_path)


def test_damaged_weights_are_one_line(tmp_path):
    save_base("llama", tmp_path / "base")
    (tmp_path / "base/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be loaded") as refused:
        load_base(tmp_path / "base")
    assert "\n" not in str(refused.value)


def test_unknown_types_and_architectures_are_refused_with_the_choices(tmp_path):
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
