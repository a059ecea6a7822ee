"""Bases in folders of the machine: found below models_root, identified by the sums of their files, refused in one line."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.core.io import sha256_file
from pipeline.models.base import load_base
from pipeline.models.bases.folder import check_config, list_model_files
from pipeline.models.bases.local import MODELS_ROOT, check_local_model, fetch_local
from pipeline.params.models import Model, identity_keys
from pipeline.params.reading import parse_card
from tests.tiny import save_base

CARD = {
    "name": "Tiny",
    "kind": "local",
    "path": "org/tiny",
    "architecture": "llama",
    "licence": "mit",
    "source": "test",
}


def parse(**changes):
    return parse_card(Model, CARD | changes, where="params/models/tiny.yaml")


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    """A model's folder below models_root."""
    monkeypatch.setenv(MODELS_ROOT, str(tmp_path / "models"))
    return shutil.copytree(saved, tmp_path / "models/org/tiny")


def fetch(tmp_path, **changes):
    output = tmp_path / "base"
    shutil.rmtree(output, ignore_errors=True)
    fetch_local(parse(**changes), label="tiny", output=output, lock=tmp_path / "lock.yaml")
    return output


def sums(folder):
    return {path.name: sha256_file(path) for path in list_model_files(folder)}


def test_a_local_model_is_loaded_from_its_folder(folder, tmp_path):
    output = fetch(tmp_path, tokens={"pad": "unk"})
    assert {path.name for path in output.iterdir()} == {"manifest.json", "run.json"}
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest == {"path": "org/tiny", "files": sums(folder), "tokens": {"pad": "unk"}}
    model, tokenizer = load_base(output)
    # an adapter records the name of its base, not a folder of this machine
    assert (model.name_or_path, tokenizer.pad_token) == ("org/tiny", "<unk>")
    assert torch.equal(model.model.norm.weight, load_file(folder / "model.safetensors")["model.norm.weight"])


def test_the_first_use_records_the_sums_and_later_ones_must_match(folder, tmp_path):
    fetch(tmp_path)
    fetch(tmp_path)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_config.json: changed, its sha256 is .*lock.yaml has"):
        fetch(tmp_path)


def test_declared_sums_identify_the_model_wherever_it_lies(folder, tmp_path):
    files = sums(folder)
    assert identity_keys(parse(files=files)) == {"files"}
    assert identity_keys(parse()) == {"path"}
    fetch(tmp_path, files=files)
    assert not (tmp_path / "lock.yaml").exists()
    with pytest.raises(UserError, match=r"model.safetensors: changed, .* its card has 000"):
        fetch(tmp_path, files=files | {"model.safetensors": "0" * 64})
    with pytest.raises(UserError, match=r"config.json: not in the list of expected files"):
        fetch(tmp_path, files={"model.safetensors": "0" * 64})


@pytest.mark.parametrize("change", ["bytes", "missing", "moved in time only"])
def test_weights_that_change_after_the_base_stage_are_refused_when_they_are_loaded(change, folder, tmp_path):
    output, weights = fetch(tmp_path), folder / "model.safetensors"
    if change == "missing":
        (folder / "generation_config.json").unlink()
        message = "generation_config.json: missing"
    else:
        content = bytearray(weights.read_bytes())
        content[-1] ^= change == "bytes"
        weights.write_bytes(bytes(content))
        os.utime(weights, ns=(1, 1))
        message = r"model.safetensors: changed, .*manifest.json has"
    if change == "moved in time only":
        load_base(output)
        return
    with pytest.raises(UserError, match=message) as caught:
        load_base(output)
    assert "\n" not in str(caught.value)


def test_a_missing_root_and_a_missing_folder_are_named(folder, monkeypatch):
    with pytest.raises(UserError, match=r"org/other: no such folder; correct models_root or the path"):
        check_local_model(parse(path="org/other"), label="tiny")
    monkeypatch.delenv(MODELS_ROOT)
    with pytest.raises(
        UserError, match=r"org/tiny: models_root is not set; use snakemake --config models_root=DIR"
    ):
        check_local_model(parse(), label="tiny")


@pytest.mark.parametrize("path", ["/data/llama", "../llama", ""])
def test_a_card_names_a_folder_below_the_root(path):
    with pytest.raises(UserError, match="path: must be a folder below models_root"):
        parse(path=path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_without_a_needed_file_is_refused(name, folder):
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"org/tiny: no {name}; a model's folder needs"):
        check_local_model(parse(), label="tiny")


def test_a_folder_that_lacks_a_shard_is_refused(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"no model-00001-of-00002.safetensors"):
        check_local_model(parse(), label="tiny")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "bloom"},
            "tiny: its model_type is 'bloom', but its card has the architecture 'llama'",
        ),
        (
            {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.py--Mine"}},
            r"tiny: its config.json refers to code of the hub \(auto_map\), which is never run",
        ),
    ],
)
def test_another_model_than_the_card_says_is_refused(config, message, folder):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        check_local_model(parse(), label="tiny")


def test_code_of_the_hub_beside_an_architecture_of_transformers_is_ignored(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("raise SystemExit('code of the hub was run')")
    assert load_base(fetch(tmp_path))[0].config.model_type == "llama"


def test_modules_that_the_model_lacks_are_refused(tmp_path):
    save_base("phi3", tmp_path / "phi3")
    with pytest.raises(UserError, match="x: modules: llama has 'q_proj', but this model has no such module"):
        check_config(tmp_path / "phi3", label="x", architecture="phi3", modules="llama")


def test_pickled_weights_are_loaded_as_data_only(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    model, _ = load_base(fetch(tmp_path))
    assert torch.equal(model.model.norm.weight, weights["model.norm.weight"])

    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    (tmp_path / "lock.yaml").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    output = fetch(tmp_path)
    with pytest.raises(UserError, match=r"hold more than tensors.*safetensors") as caught:
        load_base(output)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_a_prompt_that_starts_from_a_text_is_read_by_the_tokenizer_of_the_local_base(folder, tmp_path):
    method = {"kind": "peft", "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}
    method |= {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "w1 w2"}
    model, tokenizer = load_base(fetch(tmp_path))
    adapted = add_adapter(model, method, architecture="llama", seed=0)
    ids = torch.tensor(tokenizer("w1 w2")["input_ids"] * 2)[:4]
    prompt = adapted.prompt_encoder["default"].embedding.weight
    assert torch.equal(prompt, model.get_input_embeddings()(ids))
    # an adapter names its base, not a folder of this machine
    assert adapted.peft_config["default"].tokenizer_name_or_path == "org/tiny"
