"""Folders with a model in the format of transformers: their files, and what makes them unusable here."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, sha256_file
from pipeline.params.architectures import LINEAR_MODULES

CONFIG_FILES = ["config.json", "generation_config.json"]
TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
]
SAFETENSORS_FILES = ["model*.safetensors", "model.safetensors.index.json"]
BIN_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def missing_model_files(folder: Path) -> list[str]:
    """Return the files that loading needs and a folder lacks: config, weights (all shards of the index), tokenizer."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            break
        if (folder / index).is_file():
            shards = sorted(set(read_json(folder / index)["weight_map"].values()))
            missing += [shard for shard in shards if not (folder / shard).is_file()]
            break
    else:
        missing.append("model.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    return missing


def list_model_files(folder: Path) -> list[Path]:
    """Return the files that loading uses, sorted; of two formats of the weights only safetensors."""
    weights = SAFETENSORS_FILES if any(folder.glob("model*.safetensors")) else BIN_FILES
    return sorted(
        {path for pattern in CONFIG_FILES + TOKENIZER_FILES + weights for path in folder.glob(pattern)}
    )


def hash_model_file(path: Path) -> str:
    """Return a file's sha256; large files in the hub's cache are links to blobs with that name."""
    blob = os.path.basename(os.path.realpath(path))
    return blob if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob) else sha256_file(path)


def check_files(folder: Path) -> None:
    """Refuse a folder that lacks files which loading needs.

    Raises:
        UserError: naming the first of them.
    """
    if missing := missing_model_files(folder):
        raise UserError(
            f"{folder}: no {missing[0]}; a model's folder needs config.json, the tokenizer and all weight files"
        )


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size and modification time of a file, from which a job decides whether to read it again."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def verify_files(directory: Path, folder: Path) -> None:
    """Refuse a folder if its files differ from the manifest of a base's directory.

    A file is read again only if its size or modification time has changed since its sum was computed.

    Args:
        directory: of the base: manifest.json has the sums, run.json may have the stamps.
        folder: with the files.

    Raises:
        UserError: a file is missing, or has changed.
    """
    sums: Mapping[str, str] = read_json(directory / "manifest.json")["files"]
    record = directory / "run.json"
    stamps: Mapping[str, list[int]] = read_json(record).get("stamps", {}) if record.is_file() else {}
    present = {
        path.name: sums.get(path.name, "")
        if list(file_stamp(path)) == stamps.get(path.name)
        else sha256_file(path)
        for path in list_model_files(folder)
    }
    compare_sums(present, sums, folder=folder, where=str(directory / "manifest.json"))


def compare_names(present: Mapping[str, str], expected: Mapping[str, str], *, folder: Path) -> None:
    """Refuse a folder with other files than expected.

    Raises:
        UserError: naming the first of them.
    """
    for name in sorted({*present, *expected}):
        if name not in present or name not in expected:
            state = "missing" if name not in present else "not in the list of expected files"
            raise UserError(f"{folder / name}: {state}; restore the folder or correct the model's card")


def compare_sums(
    present: Mapping[str, str], expected: Mapping[str, str], *, folder: Path, where: str
) -> None:
    """Refuse a folder if its files, or their sums, differ from the expected ones.

    Args:
        present: name -> sha256 of the folder's files.
        expected: name -> expected sha256.
        folder: for messages.
        where: what has the expected sums, for messages.

    Raises:
        UserError: naming the first difference.
    """
    compare_names(present, expected, folder=folder)
    for name, sha256 in expected.items():
        if present[name] != sha256:
            raise UserError(
                f"{folder / name}: changed, its sha256 is {present[name]}, but {where} has {sha256}; restore the file, "
                "or make a new card for the new weights"
            )


def check_config(folder: Path, *, label: str, architecture: str | None, modules: str | None = None) -> None:
    """Refuse a model that needs code of the hub, or differs from what its card says.

    Args:
        folder: with config.json.
        label: of the model, for messages.
        architecture: the ``model_type`` that its card has; None: not compared.
        modules: the listed architecture as which its card says that it names its modules; None: not compared. The
            comparison builds the model without weights.

    Raises:
        UserError: in one line.
    """
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if "auto_map" in config and model_type not in LINEAR_MODULES and not _is_known(model_type):
        raise UserError(
            f"{label}: its config.json refers to code of the hub (auto_map), which is never run; use a model whose "
            f"architecture transformers has (got '{model_type}')"
        )
    check_architecture(model_type, label=label, architecture=architecture)
    if modules is not None:
        _check_modules(folder, label=label, modules=modules)


def check_architecture(model_type: object, *, label: str, architecture: str | None) -> None:
    """Refuse a model whose architecture differs from its card's; None: not compared.

    Raises:
        UserError: naming both.
    """
    if architecture is not None and model_type != architecture:
        raise UserError(
            f"{label}: its model_type is '{model_type}', but its card has the architecture '{architecture}'; correct the card"
        )


def _is_known(model_type: object) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _check_modules(folder: Path, *, label: str, modules: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for name in LINEAR_MODULES[modules]:
        if name not in names:
            raise UserError(
                f"{label}: modules: {modules} has '{name}', but this model has no such module; correct its card"
            )
