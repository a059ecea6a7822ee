"""Base models from the Hugging Face hub, at a pinned revision."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline.core.errors import UserError, one_line
from pipeline.core.first_download import LOCK, record_download, recorded_download
from pipeline.core.io import atomic_directory, read_json, write_json
from pipeline.models.bases.folder import (
    BIN_FILES,
    CONFIG_FILES,
    SAFETENSORS_FILES,
    TOKENIZER_FILES,
    check_config,
    hash_model_file,
    list_model_files,
    missing_model_files,
)
from pipeline.params.models import HubModel


class HubManifest(TypedDict):
    """The manifest.json of a hub model."""

    repo_id: str
    # the resolved commit
    revision: str
    # name -> sha256
    files: dict[str, str]
    # the card's rules for special tokens, if it has any
    tokens: NotRequired[dict[str, str]]


def pinned_revision(card: HubModel) -> str | None:
    """Return the commit of a hub model: that of its first download in the lock file, else the card's."""
    download = recorded_download(LOCK, f"model {card.repo_id}@{card.revision or 'main'}") or {}
    return download.get("revision", card.revision)


def fetch_base(
    repo_id: str,
    *,
    revision: str | None,
    output: Path,
    lock: Path | None = None,
    tokens: Mapping[str, str] | None = None,
    architecture: str | None = None,
    modules: str | None = None,
) -> None:
    """Download a hub model into the hub's cache, unless it is cached, and write its manifest.json into ``output``.

    The weights stay in the cache.

    Args:
        repo_id: "organisation/name".
        revision: commit, tag or branch; None: the commit in ``lock``, else the present head of the main branch.
        output: directory to write.
        lock: file that records the commit and checksums of the first download; later downloads must match. None: no
            record.
        tokens: the card's rules for special tokens; ``set_special_tokens`` applies them when the model is loaded.
        architecture: that of the card, which the model must have; None: not compared.
        modules: the key of the card, as for ``check_config``.

    Raises:
        UserError: the model is not cached and cannot be downloaded, needs code of the hub, or differs from the record in the
            lock file or from its card.
    """
    name = f"model {repo_id}@{revision or 'main'}"
    revision = (recorded_download(lock, name) or {}).get("revision", revision)
    snapshot = _cached_snapshot(repo_id, revision)
    if snapshot is None:
        snapshot = _download(repo_id, revision)
        missing = missing_model_files(snapshot)
        if missing:
            raise UserError(
                f"{repo_id}: the hub repository has no {missing[0]}; use the repository of a transformers model"
            )
    check_config(snapshot, label=repo_id, architecture=architecture, modules=modules)
    files = {
        path.relative_to(snapshot).as_posix(): hash_model_file(path) for path in list_model_files(snapshot)
    }
    record_download(lock, name, {"revision": snapshot.name, "files": files})
    manifest: HubManifest = {"repo_id": repo_id, "revision": snapshot.name, "files": files}
    if tokens:
        manifest["tokens"] = dict(tokens)
    with atomic_directory(output) as temporary:
        write_json(temporary / "manifest.json", manifest)


def find_snapshot(directory: Path) -> Path:
    """Return the cached snapshot that the manifest of a directory refers to.

    Raises:
        UserError: the directory has no manifest of a hub model, or the snapshot is missing or incomplete.
    """
    manifest = read_json(directory / "manifest.json")
    if not {"repo_id", "revision", "files"} <= set(manifest):
        raise UserError(
            f"{directory}: holds neither config.json nor a manifest of a hub model (repo_id, revision, files)"
        )
    repo_id, revision = manifest["repo_id"], manifest["revision"]
    snapshot = _cached_snapshot(repo_id, revision)
    if snapshot is None:
        raise UserError(
            f"{repo_id}: commit {revision} is missing or incomplete in the hub cache {_cache_folder()}; {_download_hint(repo_id, revision)}"
        )
    return snapshot


def _cached_snapshot(repo_id: str, revision: str | None) -> Path | None:
    """Return the snapshot in the hub's cache, or None if it is missing or incomplete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(
            f"repo_id: '{repo_id}' is not the name of a hub repository ({one_line(error)})"
        ) from error
    return None if missing_model_files(snapshot) else snapshot


def _download(repo_id: str, revision: str | None) -> Path:
    """Download config, tokenizer and one format of the weights: safetensors if the repository has it."""
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
        patterns = CONFIG_FILES + TOKENIZER_FILES + weights
        # by commit: a branch could move between the two requests
        return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=patterns))
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
            f"{repo_id}: no such model on the hub, or it is private; correct repo_id or set HF_TOKEN"
        ) from error
    except Exception as error:
        # the classes of network errors differ between versions of the hub's client
        reason = (
            f"not in the hub cache {_cache_folder()}, and the hub cannot be reached ({type(error).__name__})"
        )
        raise UserError(f"{repo_id}: {reason}; {_download_hint(repo_id, revision)}") from error


def _download_hint(repo_id: str, revision: str | None) -> str:
    option = f" --revision {revision}" if revision else ""
    return f"set HF_HOME to a cache that has it, or run `hf download {repo_id}{option}` with network access"


def _cache_folder() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)
