"""Whole files by HTTP: retried, resumed, checked, and kept in the user's cache."""

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline.core.errors import UserError

TIMEOUT = 60  # seconds without a byte
CHUNK = 8192  # bytes; at most so many are lost where a connection breaks
BREAKS = 5  # broken connections in a row that bring no byte, then the source is given up
RETRIES = 3  # of a request that fails, or is answered with one of:
RETRIED = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 120  # seconds, whatever Retry-After says
PAUSE = 0.5  # seconds before a second retry; doubled for each further one


class Missing(Exception):
    """This source does not have it; the next may."""


class _Broken(Exception):
    """The connection ended before the file did."""


def cache_folder() -> Path:
    """Return where whole downloads are kept: ADAPTER_STUDIES_CACHE, else the system's place for caches."""
    import pooch

    return Path(os.environ.get("ADAPTER_STUDIES_CACHE") or pooch.os_cache("adapter-studies"))


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask a server."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def download(url: str, *, sums: Mapping[str, str], cache: Path) -> Path:
    """Return the path of a URL's whole and checked file in ``cache``; what is there already is not fetched again.

    A broken connection is taken up where it broke, in this process or a later one, if the server can and its file is
    still the same. A file with a wrong sum is fetched once more from its beginning.

    Args:
        url: http(s); proxies are those of the environment.
        sums: "sha256" and "git_blob", as far as known.
        cache: folder; made if need be.

    Raises:
        Missing: HF_HUB_OFFLINE is set, the server does not have it, or it cannot be reached.
        UserError: the server has another file.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{urlsplit(url).path.rpartition('/')[2]}"
    target, partial = cache / name, cache / f"{name}.partial"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if target.exists() and mismatch(target.read_bytes(), sums) is None:
            return target
        if offline():
            raise Missing(f"{url}: HF_HUB_OFFLINE is set and {cache} does not hold it")
        for _ in range(2):
            _complete(url, partial, checked=bool(sums))
            wrong = mismatch(partial.read_bytes(), sums)
            if wrong is None:
                os.replace(partial, target)
                _known(partial).unlink(missing_ok=True)
                return target
            partial.unlink()
    raise UserError(f"{url}: {wrong}; the source holds other data")


def mismatch(body: bytes, sums: Mapping[str, str]) -> str | None:
    """Return which sum of ``body`` is not as stated, naming both; None: all are, or none is known."""
    found = {
        "sha256": ("sha256", hashlib.sha256(body).hexdigest()),
        "git_blob": ("git blob id", hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()),
    }
    for key, stated in sums.items():
        name, value = found[key]
        if value != stated:
            return f"{name} is {value}, the card says {stated}"
    return None


def _complete(url: str, partial: Path, *, checked: bool) -> None:
    """Make ``partial`` the whole of what the server sends; ``checked``: its sum will be compared."""
    import requests

    breaks = 0
    with _session() as session:
        while True:
            before = _size(partial)
            try:
                _receive(session, url, partial, checked=checked)
                return
            except _Broken as broken:
                breaks = 1 if _size(partial) > before else breaks + 1
                if breaks == BREAKS:
                    raise Missing(f"{url}: {broken}, {breaks} times in a row") from None
                time.sleep(PAUSE * 2**breaks)
            except requests.HTTPError as error:
                raise Missing(f"{url}: the server answers {str(error).partition(' for url')[0]}") from None
            except requests.RequestException as error:
                raise Missing(f"{url}: cannot be reached ({_cause(error)})") from None


def _session() -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    rules = Retry(
        total=RETRIES,
        status_forcelist=RETRIED,
        backoff_factor=PAUSE,
        retry_after_max=LONGEST_WAIT,
        raise_on_status=False,
    )
    session = requests.Session()
    session.max_redirects = 5
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=rules))
    return session


def _receive(session: Any, url: str, partial: Path, *, checked: bool) -> None:
    """Add to ``partial`` what it lacks; begin anew where the rest might be another file's."""
    import requests

    known = _known(partial)
    validator = known.read_text(encoding="utf-8") if known.exists() else ""
    have = _size(partial) if validator or checked else 0
    headers = {"Accept-Encoding": "identity"}  # a range of a compressed answer would be of no use
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        whole = response.status_code == requests.codes.ok
        if have and not whole and not _continues(response, have):
            partial.unlink()
            raise _Broken("the server cannot go on where the connection broke")
        response.raise_for_status()
        if not whole and not (have and response.status_code == 206):
            raise Missing(f"{url}: the server answers {response.status_code}, without the file")
        if not checked and not _told(response):
            raise Missing(f"{url}: neither the server nor the card says how long it is or what its sum is")
        with partial.open("wb" if whole else "ab") as file:
            known.write_text(_validator(response), encoding="utf-8")
            try:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
            except requests.RequestException as error:
                raise _Broken(f"the connection broke ({_cause(error)})") from None
    total = str(response.headers.get("Content-Range", "")).rpartition("/")[2]
    if not whole and total.isdecimal() and _size(partial) < int(total):
        raise _Broken("the server sent a part of the rest only")


def _continues(response: Any, have: int) -> bool:
    """Whether an answer is the rest of a file, or an error that has nothing to do with the range."""
    if response.status_code == 206:
        return str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
    return bool(response.status_code != 416)


def _told(response: Any) -> bool:
    """Whether the answer itself shows when it is whole."""
    headers = response.headers
    return "Content-Length" in headers or headers.get("Transfer-Encoding") == "chunked"


def _validator(response: Any) -> str:
    etag = str(response.headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _known(partial: Path) -> Path:
    """Beside a partial file: what tells whether the server's is still the same."""
    return partial.with_name(f"{partial.name}.validator")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an error of requests, in one line without addresses of objects."""
    inner: Any = error
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    inner = getattr(inner, "reason", None) or inner
    return " ".join(str(inner).rpartition(">: ")[2].split())[:200] or type(error).__name__
