"""Base models from the Hugging Face hub, at a pinned revision."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pipeline.core.environment import run_info
from pipeline.core.errors import UserError, one_line
from pipeline.core.first_download import LOCK, record_download, recorded_download
from pipeline.core.io import atomic_directory, read_json, write_json
from pipeline.models.bases import hub_folder
from pipeline.models.bases.folder import (
    BIN_FILES,
    CONFIG_FILES,
    SAFETENSORS_FILES,
    TOKENIZER_FILES,
    check_config,
    file_stamp,
    hash_model_file,
    list_model_files,
    missing_model_files,
    verify_files,
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
    """Write the manifest.json of a hub model into ``output``; download the model unless it is cached or below models_root.

    The weights stay in the hub's cache, or where they lie below models_root.

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
        UserError: the model is not on this machine and cannot be downloaded, needs code of the hub, or differs from the
            record in the lock file or from its card; or a folder below models_root does not prove its commit.
    """
    started = time.time()
    name = f"model {repo_id}@{revision or 'main'}"
    record = recorded_download(lock, name) or {}
    revision = record.get("revision", revision)
    snapshot, stamps = _cached_snapshot(repo_id, revision), None
    folder = hub_folder.find_hub_folder(repo_id) if snapshot is None else None
    if folder is not None:
        commit = hub_folder.claimed_commit(folder, repo_id, revision, recorded=record.get("files"))
        check_config(folder, label=repo_id, architecture=architecture, modules=modules)
        # before the sums: a file that changes meanwhile then counts as changed
        stamps = {path.name: file_stamp(path) for path in list_model_files(folder)}
        files = hub_folder.prove_folder(folder, repo_id, recorded=record.get("files"))
    else:
        snapshot = snapshot or _download_snapshot(repo_id, revision)
        commit = snapshot.name
        check_config(snapshot, label=repo_id, architecture=architecture, modules=modules)
        files = {path.name: hash_model_file(path) for path in list_model_files(snapshot)}
    record_download(lock, name, {"revision": commit, "files": files})
    manifest: HubManifest = {"repo_id": repo_id, "revision": commit, "files": files}
    if tokens:
        manifest["tokens"] = dict(tokens)
    with atomic_directory(output) as temporary:
        write_json(temporary / "manifest.json", manifest)
        if stamps is not None:
            write_json(temporary / "run.json", run_info(started=started, device="cpu", stamps=stamps))


def _download_snapshot(repo_id: str, revision: str | None) -> Path:
    snapshot = _download(repo_id, revision)
    if missing := missing_model_files(snapshot):
        raise UserError(
            f"{repo_id}: the hub repository has no {missing[0]}; use the repository of a transformers model"
        )
    return snapshot


def check_hub_model(card: HubModel) -> Path | None:
    """Return the folder of a hub model on this machine, without reading its weights; None: it is to be downloaded.

    Raises:
        UserError: a folder below models_root is named as the model, but nothing proves its commit.
    """
    record = recorded_download(LOCK, f"model {card.repo_id}@{card.revision or 'main'}") or {}
    revision = record.get("revision", card.revision)
    snapshot = _cached_snapshot(card.repo_id, revision)
    folder = hub_folder.find_hub_folder(card.repo_id) if snapshot is None else None
    if folder is not None:
        hub_folder.claimed_commit(folder, card.repo_id, revision, recorded=record.get("files"))
    return snapshot or folder


def find_snapshot(directory: Path) -> Path:
    """Return the cached snapshot, or the folder below models_root, that the manifest of a directory refers to.

    Raises:
        UserError: the directory has no manifest of a hub model, the snapshot is missing or incomplete, or the folder has
            other files.
    """
    manifest = read_json(directory / "manifest.json")
    if not {"repo_id", "revision", "files"} <= set(manifest):
        raise UserError(
            f"{directory}: holds neither config.json nor a manifest of a hub model (repo_id, revision, files)"
        )
    folder = locate_snapshot(manifest)
    if folder == hub_folder.find_hub_folder(manifest["repo_id"]):
        verify_files(directory, folder)
    return folder


def locate_snapshot(manifest: Mapping[str, Any]) -> Path:
    """Return the cached snapshot, or the folder below models_root, of a hub model's manifest, whatever its files contain.

    Raises:
        UserError: neither is there, or the snapshot is incomplete.
    """
    repo_id, revision = manifest["repo_id"], manifest["revision"]
    folder = _cached_snapshot(repo_id, revision) or hub_folder.find_hub_folder(repo_id)
    if folder is None:
        raise UserError(
            f"{repo_id}: commit {revision} is missing or incomplete in the hub cache {_cache_folder()}; {_download_hint(repo_id, revision)}"
        )
    return folder


def _cached_snapshot(repo_id: str, revision: str | None) -> Path | None:
    """Return the snapshot in the hub's cache, or in one of its layout at models_root; None: it is missing or incomplete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for cache in dict.fromkeys((None, hub_folder.models_root())):
        try:
            snapshot = Path(
                snapshot_download(repo_id, revision=revision, cache_dir=cache, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            continue
        except HFValidationError as error:
            raise UserError(
                f"repo_id: '{repo_id}' is not the name of a hub repository ({one_line(error)})"
            ) from error
        if not missing_model_files(snapshot):
            return snapshot
    return None


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
