"""Base models in folders of the machine, below models_root. The weights stay where they are."""

import os
import time
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline.core.environment import run_info
from pipeline.core.errors import UserError
from pipeline.core.first_download import LOCK, record_download, recorded_download
from pipeline.core.io import atomic_directory, read_json, sha256_file, write_json
from pipeline.models.bases.folder import (
    check_config,
    check_files,
    compare_names,
    compare_sums,
    file_stamp,
    list_model_files,
    verify_files,
)
from pipeline.params.models import LocalModel

MODELS_ROOT = "PIPELINE_MODELS_ROOT"


class LocalManifest(TypedDict):
    """The manifest.json of a model in a local folder."""

    # below models_root
    path: str
    # name -> sha256
    files: dict[str, str]
    # the card's rules for special tokens, if it has any
    tokens: NotRequired[dict[str, str]]


def set_models_root(folder: str | None) -> None:
    """Let this process and its children look for local models in a folder; None: where the environment says."""
    if folder is not None:
        os.environ[MODELS_ROOT] = str(Path(folder).resolve())


def locate_model(path: str) -> Path:
    """Return the folder of a local model.

    Raises:
        UserError: models_root is not set, or has no such folder.
    """
    root = os.environ.get(MODELS_ROOT)
    if not root:
        raise UserError(
            f"{path}: models_root is not set; use snakemake --config models_root=DIR, --models-root DIR of other commands, or set {MODELS_ROOT}"
        )
    if not Path(root, path).is_dir():
        raise UserError(
            f"{Path(root, path)}: no such folder; correct models_root or the path in the model's card"
        )
    return Path(root, path)


def check_local_model(card: LocalModel, *, label: str) -> None:
    """Refuse a folder that cannot be loaded, without reading its weights.

    Raises:
        UserError: missing files, other files than the card lists, code of the hub, or another architecture.
    """
    folder = locate_model(card.path)
    check_files(folder)
    if card.files is not None:
        compare_names({path.name: "" for path in list_model_files(folder)}, card.files, folder=folder)
    check_config(folder, label=label, architecture=card.architecture)


def fetch_local(card: LocalModel, *, label: str, output: Path, lock: Path | None = LOCK) -> None:
    """Check the files of a local model against their sums, and write its manifest.json into ``output``.

    Args:
        card: with the folder below models_root, and the sums of its files or none.
        label: of the model, for messages.
        output: directory to write.
        lock: file that records the sums at the first use, where the card has none; None: no record.

    Raises:
        UserError: the folder cannot be loaded, or its files differ from the card or the record.
    """
    started = time.time()
    check_local_model(card, label=label)
    folder = locate_model(card.path)
    check_config(folder, label=label, architecture=card.architecture, modules=card.modules)
    paths = list_model_files(folder)
    # before the sums: a file that changes meanwhile then counts as changed
    stamps = {path.name: file_stamp(path) for path in paths}
    files = {path.name: sha256_file(path) for path in paths}
    entry = f"model folder {card.path}"
    recorded = (recorded_download(lock, entry) or {}).get("files")
    if (expected := card.files or recorded) is not None:
        where = "its card" if card.files else str(lock)
        compare_sums(files, expected, folder=folder, where=where)
    if card.files is None:
        record_download(lock, entry, {"files": files})
    manifest: LocalManifest = {"path": card.path, "files": files}
    if tokens := card.tokens.model_dump(exclude_unset=True):
        manifest["tokens"] = tokens
    with atomic_directory(output) as temporary:
        write_json(temporary / "manifest.json", manifest)
        write_json(temporary / "run.json", run_info(started=started, device="cpu", stamps=stamps))


def find_local(directory: Path) -> Path:
    """Return the folder that the manifest of a directory refers to, with unchanged files.

    A file with the size and time of change that it had when its sum was computed is not read again.

    Raises:
        UserError: the folder or a file is missing, or a file has changed.
    """
    folder = locate_model(read_json(directory / "manifest.json")["path"])
    verify_files(directory, folder)
    return folder
