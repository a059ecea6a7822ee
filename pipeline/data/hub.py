"""Rows from dataset repositories of the Hugging Face hub, by its own client with its cache and offline mode."""

import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.core.first_download import record_download, recorded_download
from pipeline.core.io import sha256_file
from pipeline.data.http import RETRIES, TRANSIENT_STATUSES, is_offline
from pipeline.data.originals import to_instruction_rows
from pipeline.data.parsing import parse_rows
from pipeline.data.sources import HubSource, SourceUnavailable

# seconds before the first retry; doubled for every further one
PAUSE = 0.5
# characters of a library's message that an error quotes
LONGEST_MESSAGE = 200


class _TransientHubError(Exception):
    """A transient hub error; retrying may help."""


def read_hub_rows(
    source: HubSource, *, name: str, known_malformed: Collection[int] = (), lock: Path | None = None
) -> list[Any]:
    """Return the rows of all files of a source, in order.

    Args:
        source: repository and files. Without a revision it is the commit in ``lock``, else the newest of the main branch.
        name: of the dataset, for the messages.
        known_malformed: numbers of rows, counted from 0 over all files, that are returned unchanged.
        lock: file that records the commit of a first download without revision; None: no record.

    Raises:
        SourceUnavailable: the hub has no such repository, commit or file, or cannot be reached and the file is not cached.
        UserError: a damaged file, or malformed rows.
    """
    entry = f"dataset files {source['repo_id']}@main"
    commit = source["revision"] or (recorded_download(lock, entry) or {}).get("revision")
    rows: list[Any] = []
    for file in source["files"]:
        path = _local_path(source["repo_id"], file, commit)
        # the first file resolves "main"; the others must come from the same commit
        commit = commit or path.parts[path.parts.index("snapshots") + 1]
        malformed_in_file = [row - len(rows) for row in known_malformed]
        rows += _read_rows(path, f"{name}, {source['repo_id']}: {file}", malformed_in_file)
    if source["revision"] is None and commit is not None:
        record_download(lock, entry, {"revision": commit})
    if not source["convert"]:
        return rows
    return to_instruction_rows(rows, name=name, known_malformed=known_malformed)


def _local_path(repo_id: str, file: str, revision: str | None) -> Path:
    """Return the path of a file in the hub cache; download it if it is missing, and check it.

    Raises:
        SourceUnavailable: the file cannot be downloaded.
        UserError: the file differs from the checksum that the hub states.
    """
    location = f"{repo_id}@{revision or 'main'}: {file}"
    for attempt in range(RETRIES + 1):
        try:
            path = _try_download(repo_id, file, revision, location)
            break
        except _TransientHubError as failure:
            if attempt == RETRIES:
                raise SourceUnavailable(str(failure)) from None
            time.sleep(PAUSE * 2**attempt)
    # The cache stores a large file under its sha256.
    stated = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and (actual := sha256_file(path)) != stated:
        raise UserError(
            f"{location}: sha256 is {actual}, but the hub states {stated}; delete {path.resolve()} and start again"
        )
    return path


def _try_download(repo_id: str, file: str, revision: str | None, location: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(
            repo_id, file, repo_type="dataset", revision=revision, local_files_only=is_offline()
        )
    except HFValidationError as error:
        raise UserError(
            f"repo_id: '{repo_id}' is not the name of a hub repository ({one_line(error, LONGEST_MESSAGE)})"
        ) from None
    except LocalEntryNotFoundError:
        cause = "HF_HUB_OFFLINE is set" if is_offline() else "the hub cannot be reached"
        raise SourceUnavailable(f"{location}: {cause} and the hub cache does not contain the file") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        message = f"{location}: the hub responds with status {status}"
        raise (_TransientHubError if status in TRANSIENT_STATUSES else SourceUnavailable)(message) from None
    # the classes of network errors differ between versions of the hub's client
    except Exception as error:
        cause = f"{type(error).__name__}: {one_line(error, LONGEST_MESSAGE)}"
        raise SourceUnavailable(f"{location}: download failed ({cause})") from None
    return Path(path)


def _read_rows(path: Path, name: str, known_malformed: Collection[int]) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        format = path.suffix.removeprefix(".")
        return parse_rows(path.read_bytes(), format=format, name=name, known_malformed=known_malformed)
    try:
        rows: list[Any] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise UserError(
            f"{name}: not a complete Parquet file ({one_line(error, LONGEST_MESSAGE)}); delete {path} and start again"
        ) from None
    return rows
