"""Rows of dataset repositories of the Hugging Face hub, by its own client: its cache, its retries, its offline mode."""

import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.core.first_download import record_download, recorded_download
from pipeline.core.io import sha256_file
from pipeline.data.http import PAUSE, RETRIED, RETRIES, Missing, offline
from pipeline.data.rows import instruction_rows, parse

# characters of a library's message that an error quotes
LONGEST_MESSAGE = 200


class _Passing(Exception):
    """An answer of the hub that may be another the next time."""


def hub_rows(
    source: Mapping[str, Any], *, name: str, known_malformed: Collection[int] = (), lock: Path | None = None
) -> list[Any]:
    """Return the rows of a source's files, one file after the other.

    Args:
        source: repo_id, revision (None: the commit that ``lock`` has, else the main branch's of today), files, convert.
        name: of the set, for messages.
        known_malformed: rows, counted from 0 over all files, that stay as they are.
        lock: file that records the commit of a first download without revision; None: no record.

    Raises:
        Missing: the hub has no such repository, commit or file, or is not to be reached and its cache lacks it.
        UserError: a damaged file, or malformed rows.
    """
    repo_id, revision = source["repo_id"], source["revision"]
    entry = f"dataset files {repo_id}@main"
    commit = revision or (recorded_download(lock, entry) or {}).get("revision")
    rows: list[Any] = []
    for file in source["files"]:
        path = _path(repo_id, file, commit)
        commit = commit or path.parts[path.parts.index("snapshots") + 1]
        rows += _read(path, f"{name}, {repo_id}: {file}", [row - len(rows) for row in known_malformed])
    if revision is None:
        record_download(lock, entry, {"revision": str(commit)})
    if not source["convert"]:
        return rows
    return instruction_rows(rows, name=name, known_malformed=known_malformed)


def _path(repo_id: str, file: str, revision: str | None) -> Path:
    """Return where the hub's cache has a file; it is downloaded if need be, and is the one that the hub names."""
    at = f"{repo_id}@{revision or 'main'}: {file}"
    for attempt in range(RETRIES + 1):
        try:
            path = _download(repo_id, file, revision, at)
            break
        except _Passing as failure:
            if attempt == RETRIES:
                raise Missing(str(failure)) from None
            time.sleep(PAUSE * 2**attempt)
    stated = path.resolve().name  # a large file's place in the cache is its sha256
    if re.fullmatch("[0-9a-f]{64}", stated) and (found := sha256_file(path)) != stated:
        raise UserError(f"{at}: sha256 is {found}, the hub says {stated}; delete {path.resolve()}")
    return path


def _download(repo_id: str, file: str, revision: str | None, at: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = hf_hub_download(
            repo_id, file, repo_type="dataset", revision=revision, local_files_only=offline()
        )
    except HFValidationError as error:
        raise UserError(
            f"repo_id: '{repo_id}' is no name of a hub repository ({one_line(error, LONGEST_MESSAGE)})"
        ) from None
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if offline() else "the hub cannot be reached"
        raise Missing(f"{at}: {why} and the hub's cache does not hold it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise (_Passing if status in RETRIED else Missing)(f"{at}: the hub answers {status}") from None
    except Exception as error:  # the classes of network errors differ between versions of the hub's client
        raise Missing(
            f"{at}: not to be had ({type(error).__name__}: {one_line(error, LONGEST_MESSAGE)})"
        ) from None
    return Path(found)


def _read(path: Path, name: str, known_malformed: Collection[int]) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        kind = path.suffix.removeprefix(".")
        return parse(path.read_bytes(), kind=kind, name=name, known_malformed=known_malformed)
    try:
        rows: list[Any] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise UserError(
            f"{name}: not a whole Parquet file ({one_line(error, LONGEST_MESSAGE)}); delete {path} and fetch again"
        ) from None
    return rows
