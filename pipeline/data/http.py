"""Whole files by HTTP, downloaded by pooch: retried, checked, and kept in the user's cache."""

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.errors import UserError
from pipeline.data.sources import Checksums, SourceUnavailable, checksum_mismatch

# seconds without a byte
TIMEOUT = 60
# of a download that fails; pooch waits 1, 2, ... seconds before them
RETRIES = 3
# HTTP statuses that may be different a moment later
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
# characters of a network error that a message quotes
LONGEST_CAUSE = 200


def cache_folder() -> Path:
    """Return the folder of downloaded files: ADAPTER_STUDIES_CACHE, or a folder in the system's cache."""
    import pooch

    return Path(os.environ.get("ADAPTER_STUDIES_CACHE") or pooch.os_cache("adapter-studies"))


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids network access."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def download_file(url: str, *, stated: Checksums, cache: Path) -> Path:
    """Return the path of a downloaded and checked file; a file that is already in the cache is not downloaded again.

    Args:
        url: http or https; proxies are those of the environment.
        stated: checksums of the file, as far as the card states them.
        cache: folder of the downloaded files; created if it is missing.

    Raises:
        SourceUnavailable: the server does not have the file or cannot be reached, or HF_HUB_OFFLINE is set.
        UserError: the server has a different file.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{urlsplit(url).path.rpartition('/')[2]}"
    target = cache / name
    if target.exists() and checksum_mismatch(target.read_bytes(), stated) is None:
        return target
    if is_offline():
        raise SourceUnavailable(f"{url}: HF_HUB_OFFLINE is set and {cache} does not contain the file")
    # damaged; pooch itself checks no git blob ids
    target.unlink(missing_ok=True)
    import pooch

    downloads = pooch.create(
        cache, base_url="", registry={name: None}, urls={name: url}, retry_if_failed=RETRIES
    )

    def download(url: str, path: str, pooch_object: Any) -> None:
        _download_checked(url, path, pooch_object, stated=stated)

    try:
        downloads.fetch(name, downloader=download)
    except ValueError as error:
        raise UserError(f"{url}: {error}; the source contains different data") from None
    except OSError as error:
        # an error of the file system; those of requests, the library under pooch, have no number
        if error.errno is not None:
            raise
        raise SourceUnavailable(f"{url}: {_network_error(error)}") from None
    return target


def _download_checked(url: str, path: str, pooch_object: Any, *, stated: Checksums) -> None:
    """Download to ``path``, a temporary file that pooch renames when this succeeds.

    Raises:
        SourceUnavailable: a status that a retry would not change.
        OSError: a transient error, which pooch retries.
        ValueError: a checksum differs; pooch retries this too, since the file may be truncated.
    """
    import pooch

    try:
        pooch.HTTPDownloader(timeout=TIMEOUT)(url, path, pooch_object)
    except OSError as error:
        status = _http_status(error)
        if status is None or status in TRANSIENT_STATUSES:
            raise
        raise SourceUnavailable(f"{url}: {_network_error(error)}") from None
    if mismatch := checksum_mismatch(Path(path).read_bytes(), stated):
        raise ValueError(mismatch)


def _http_status(error: OSError) -> int | None:
    """Return the status of an error response; None: the error is another one, such as a broken connection."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status if status and status >= 400 else None


def _network_error(error: OSError) -> str:
    """Return a network error in one line, without addresses of Python objects."""
    status = _http_status(error)
    if status is not None:
        return f"the server responds with status {status}"
    cause: Any = error
    while cause.args and isinstance(cause.args[0], BaseException):
        cause = cause.args[0]
    cause = getattr(cause, "reason", None) or cause
    # urllib3 puts "<connection object at 0x...>: " before its messages
    text = " ".join(str(cause).rpartition(">: ")[2].split())
    return f"cannot be reached ({text[:LONGEST_CAUSE] or type(error).__name__})"
