"""Base models from the Hugging Face hub, at a pinned revision."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.core.first_download import LOCK, record_download, recorded_download
from pipeline.core.io import atomic_directory, read_json, sha256_file, write_json
from pipeline.params.models import HubModel


def revision(card: HubModel) -> str | None:
    """Return the commit of a hub model: the lock file's of its first download, else the card's."""
    found = recorded_download(LOCK, f"model {card.repo_id}@{card.revision or 'main'}") or {}
    known: str | None = found.get("revision", card.revision)
    return known


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


def fetch_base(
    repo_id: str,
    *,
    revision: str | None,
    output: Path,
    lock: Path | None = None,
    tokens: Mapping[str, str] | None = None,
) -> None:
    """Bring a hub model into the hub's cache, if it is not there, and write its manifest.json into ``output``.

    The manifest is {"repo_id", "revision": the resolved commit, "files": {name: sha256}} and, if there are any, "tokens";
    the weights stay in the cache.

    Args:
        repo_id: "organisation/name".
        revision: commit, tag or branch; None is the commit that ``lock`` has, else the main branch's of today.
        output: directory to write.
        lock: file that records commit and sums at the first download and holds later ones to them; None: no record.
        tokens: what the model's card sets for special tokens, for ``set_special_tokens`` when it is loaded.

    Raises:
        UserError: if the model is neither in the cache nor to be had, or is not what the lock file recorded.
    """
    name = f"model {repo_id}@{revision or 'main'}"
    revision = (recorded_download(lock, name) or {}).get("revision", revision)
    snapshot = _cached_snapshot(repo_id, revision)
    if snapshot is None:
        snapshot = _download(repo_id, revision)
        missing = missing_files(snapshot)
        if missing:
            raise UserError(
                f"{repo_id}: the hub's repository has no {missing[0]}; name a repository of a transformers model"
            )
    files = {path.relative_to(snapshot).as_posix(): _sha256(path) for path in _model_files(snapshot)}
    record_download(lock, name, {"revision": snapshot.name, "files": files})
    manifest: dict[str, Any] = {"repo_id": repo_id, "revision": snapshot.name, "files": files}
    if tokens:
        manifest["tokens"] = dict(tokens)
    with atomic_directory(output) as temporary:
        write_json(temporary / "manifest.json", manifest)


def missing_files(snapshot: Path) -> list[str]:
    """Return what a snapshot lacks to be loaded: config, weights (every shard that its index names), tokenizer."""
    missing = [] if (snapshot / "config.json").is_file() else ["config.json"]
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (snapshot / single).is_file():
            break
        if (snapshot / index).is_file():
            shards = sorted(set(read_json(snapshot / index)["weight_map"].values()))
            missing += [shard for shard in shards if not (snapshot / shard).is_file()]
            break
    else:
        missing.append("model.safetensors")
    if not any((snapshot / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    return missing


def _snapshot_of(directory: Path) -> Path:
    """Return the cached snapshot that a manifest names."""
    manifest = read_json(directory / "manifest.json")
    if not {"repo_id", "revision", "files"} <= set(manifest):
        raise UserError(
            f"{directory}: holds neither config.json nor a manifest of a hub model (repo_id, revision, files)"
        )
    repo_id, revision = manifest["repo_id"], manifest["revision"]
    snapshot = _cached_snapshot(repo_id, revision)
    if snapshot is None:
        raise UserError(
            f"{repo_id}: commit {revision} is not whole in the hub's cache {_cache()}; {_what_to_do(repo_id, revision)}"
        )
    return snapshot


def _cached_snapshot(repo_id: str, revision: str | None) -> Path | None:
    """Return the snapshot in the hub's cache, or None if it is not there or not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(f"repo_id: '{repo_id}' is no name of a hub repository ({one_line(error)})") from error
    return None if missing_files(snapshot) else snapshot


def _download(repo_id: str, revision: str | None) -> Path:
    """Download config, tokenizer and one form of the weights; safetensors if the repository has them."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(repo_id, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        weights = (
            SAFETENSORS_FILES
            if any(re.fullmatch(r"model.*\.safetensors", name) for name in names)
            else BIN_FILES
        )
        wanted = CONFIG_FILES + TOKENIZER_FILES + weights
        return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=wanted))
    except GatedRepoError as error:
        raise UserError(
            f"{repo_id}: gated; accept its licence at https://huggingface.co/{repo_id} and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{repo_id}: no revision '{revision}' on the hub; correct the model's card"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{repo_id}: no such model on the hub, or a private one; correct repo_id or set HF_TOKEN"
        ) from error
    except Exception as error:  # the classes of network errors differ between versions of the hub's client
        reason = f"not in the hub's cache {_cache()}, and the hub cannot be reached ({type(error).__name__})"
        raise UserError(f"{repo_id}: {reason}; {_what_to_do(repo_id, revision)}") from error


def _what_to_do(repo_id: str, revision: str | None) -> str:
    at = f" --revision {revision}" if revision else ""
    return f"set HF_HOME to a cache that has it, or run `hf download {repo_id}{at}` where there is network"


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _model_files(snapshot: Path) -> list[Path]:
    """Return the files that loading uses, sorted; of two forms of the weights only safetensors."""
    weights = SAFETENSORS_FILES if any(snapshot.glob("model*.safetensors")) else BIN_FILES
    return sorted(
        {path for pattern in CONFIG_FILES + TOKENIZER_FILES + weights for path in snapshot.glob(pattern)}
    )


def _sha256(path: Path) -> str:
    """Return a file's sha256; large files of the hub's cache are links to blobs of that name already."""
    blob = os.path.basename(os.path.realpath(path))
    return blob if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob) else sha256_file(path)
