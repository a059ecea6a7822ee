"""Models of the hub in folders below models_root: used where the folder proves which commit it holds, refused elsewhere."""

import hashlib
import json
import shutil

import pytest
import torch
from huggingface_hub import constants

from pipeline.core.errors import UserError
from pipeline.core.io import sha256_file
from pipeline.models.base import load_base
from pipeline.models.bases.folder import list_model_files
from pipeline.models.bases.hub import check_hub_model, fetch_base
from pipeline.models.bases.local import MODELS_ROOT
from pipeline.params.models import Model
from pipeline.params.reading import parse_card
from tests.tiny import COMMIT, put_in_hub_cache

CARD = parse_card(
    Model,
    {
        "name": "T",
        "repo_id": "org/tiny",
        "revision": COMMIT,
        "architecture": "llama",
        "licence": "mit",
        "source": "x",
    },
    where="params/models/tiny.yaml",
)
OTHER = "f" * 40


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty models_root beside an empty hub cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv(MODELS_ROOT, str(tmp_path / "models"))
    return tmp_path / "models"


def write_metadata(folder, commit=COMMIT):
    """Write what ``hf download --local-dir`` writes beside the files."""
    target = folder / ".cache/huggingface/download"
    target.mkdir(parents=True, exist_ok=True)
    for path in list_model_files(folder):
        content = path.read_bytes()
        # the hub stores large files by sha256, small files by git's sha1
        small = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        checksum = sha256_file(path) if path.suffix == ".safetensors" else small
        (target / f"{path.name}.metadata").write_text(f"{commit}\n{checksum}\n1.5\n")


def sums(folder):
    return {path.name: sha256_file(path) for path in list_model_files(folder)}


def fetch(tmp_path, revision=COMMIT, lock=None):
    output = tmp_path / "base"
    shutil.rmtree(output, ignore_errors=True)
    fetch_base("org/tiny", revision=revision, output=output, lock=lock, architecture="llama")
    return output


@pytest.mark.parametrize("name", ["org/tiny", "org--tiny", "tiny"])
@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_downloaded_folder_is_used_as_the_commit_that_it_proves(name, revision, saved, root, tmp_path):
    folder = shutil.copytree(saved, root / name)
    write_metadata(folder)
    assert check_hub_model(CARD) == folder
    output = fetch(tmp_path, revision)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest == {"repo_id": "org/tiny", "revision": COMMIT, "files": sums(folder)}
    model, _ = load_base(output)
    # its name on the hub, whatever the folder is called
    assert (model.name_or_path, model.config._commit_hash) == ("org/tiny", COMMIT)


def test_a_cache_of_the_hub_may_be_the_models_root(saved, root, tmp_path):
    put_in_hub_cache(root, "org/tiny", saved)
    assert check_hub_model(CARD) == root / f"models--org--tiny/snapshots/{COMMIT}"
    output = fetch(tmp_path)
    assert json.loads((output / "manifest.json").read_text())["revision"] == COMMIT
    assert load_base(output)[0].config.model_type == "llama"
    with pytest.raises(UserError, match="org/tiny: not in the hub cache"):
        fetch(tmp_path, OTHER)


def test_the_recorded_sums_of_a_first_download_prove_a_folder(saved, root, tmp_path):
    lock = tmp_path / "lock.yaml"
    put_in_hub_cache(tmp_path / "hub", "org/tiny", saved)
    manifest = (fetch(tmp_path, None, lock) / "manifest.json").read_bytes()
    shutil.rmtree(tmp_path / "hub")
    folder = shutil.copytree(saved, root / "org/tiny")
    assert (fetch(tmp_path, None, lock) / "manifest.json").read_bytes() == manifest
    # a manifest from another machine proves it, too
    (tmp_path / "base/run.json").unlink()
    load_base(tmp_path / "base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"model.safetensors: changed, .* params/lock.yaml has"):
        fetch(tmp_path, None, lock)
    (folder / "generation_config.json").unlink()
    with pytest.raises(UserError, match=r"generation_config.json: missing"):
        fetch(tmp_path, None, lock)


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_folder_that_proves_nothing_is_refused(revision, saved, root, tmp_path):
    shutil.copytree(saved, root / "tiny")
    with pytest.raises(
        UserError, match=r"nothing proves that config.json is from .*hf download org/tiny"
    ) as caught:
        fetch(tmp_path, revision)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        UserError, match=f"nothing proves that config.json is from commit {COMMIT} of org/tiny"
    ):
        check_hub_model(CARD)
    assert not (tmp_path / "base").exists()


def test_a_folder_of_another_commit_is_refused(saved, root):
    folder = shutil.copytree(saved, root / "org/tiny")
    write_metadata(folder, OTHER)
    with pytest.raises(UserError, match=f"is from commit {OTHER} of org/tiny, not {COMMIT}"):
        check_hub_model(CARD)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_file_that_differs_from_the_hub_is_refused(name, saved, root, tmp_path):
    folder = shutil.copytree(saved, root / "org/tiny")
    write_metadata(folder)
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=rf"{name}: changed, its checksum is .* but org/tiny has"):
        fetch(tmp_path)


def test_weights_that_change_after_the_base_stage_are_refused(saved, root, tmp_path):
    folder = shutil.copytree(saved, root / "org/tiny")
    write_metadata(folder)
    output = fetch(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"model.safetensors: changed, .*manifest.json has"):
        load_base(output)


def test_the_cache_of_the_hub_is_preferred(saved, root, tmp_path):
    put_in_hub_cache(tmp_path / "hub", "org/tiny", saved)
    # an unproven folder of that name does no harm
    shutil.copytree(saved, root / "tiny")
    model, _ = load_base(fetch(tmp_path))
    assert torch.isfinite(model.model.norm.weight).all()
