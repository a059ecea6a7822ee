"""Downloads from a local server: what is retried, refused, or left to the next source."""

import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.data.fetch import fetch_split
from pipeline.data.http import RETRIES, download_file
from pipeline.data.sources import Checksums, SourceUnavailable

ROWS = [
    {"instruction": f"What is {n} + 1?", "input": "", "output": "", "answer": str(n + 1)} for n in range(4000)
]
BODY = json.dumps(ROWS, indent=4).encode()
SHA256 = hashlib.sha256(BODY).hexdigest()
GIT_BLOB = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next step of its script, and repeats the last step."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[dict] = [{}]
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.json"


class Handler(http.server.BaseHTTPRequestHandler):
    """A step has a status, headers, a body, and ``cut``: the number of bytes after which the connection drops."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        step = self.server.script[min(self.server.requests, len(self.server.script) - 1)]
        self.server.requests += 1
        body = step.get("body", BODY)
        self.send_response(step.get("status", 200))
        for name, value in step.get("headers", {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: step.get("cut")])
        self.close_connection = "cut" in step

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The seconds that the code under test would have slept."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.fixture
def server(monkeypatch, pauses) -> Iterator[Server]:
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ADAPTER_STUDIES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def download(server: Server, cache: Path, **stated: str) -> bytes:
    checksums = Checksums(**(stated or {"sha256": SHA256}))
    return download_file(server.url, stated=checksums, cache=cache).read_bytes()


def cached_files(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir()]


@pytest.mark.parametrize("stated", [{"sha256": SHA256}, {"git_blob": GIT_BLOB}])
def test_a_file_is_downloaded_once(server, cache, stated):
    assert download(server, cache, **stated) == BODY
    assert download(server, cache, **stated) == BODY
    assert len(cached_files(cache)) == 1
    assert server.requests == 1


def test_a_broken_download_is_retried_and_leaves_nothing_half_written(server, cache, pauses):
    server.script = [{"cut": 98_304}, {"cut": 0}, {}]
    assert download_file(server.url, stated=Checksums(), cache=cache).read_bytes() == BODY
    assert len(cached_files(cache)) == 1
    assert pauses == [1, 2]


def test_a_server_that_always_drops_the_connection_is_unavailable(server, cache):
    server.script = [{"cut": 5000}]
    with pytest.raises(SourceUnavailable, match=rf"{re.escape(server.url)}: cannot be reached \(") as caught:
        download(server, cache)
    assert "\n" not in str(caught.value)
    assert server.requests == 1 + RETRIES
    assert cached_files(cache) == []


def test_a_truncated_file_with_a_matching_length_is_downloaded_again(server, cache):
    server.script = [{"body": BODY[:-10]}, {}]
    assert download(server, cache) == BODY


@pytest.mark.parametrize(
    ("stated", "expected", "actual"),
    [({"sha256": "0" * 64}, "0" * 64, SHA256), ({"git_blob": "1" * 40}, "1" * 40, GIT_BLOB)],
)
def test_a_wrong_file_is_an_error_with_both_checksums(server, cache, stated, expected, actual):
    with pytest.raises(UserError, match=f"{actual}, but the card states {expected}") as caught:
        download(server, cache, **stated)
    assert str(caught.value).startswith(f"{server.url}: ")
    assert "\n" not in str(caught.value)
    assert cached_files(cache) == []


def test_a_redirect_is_followed(server, cache):
    server.script = [{"status": 302, "body": b"", "headers": {"Location": "/elsewhere.json"}}, {}]
    assert download(server, cache) == BODY


def test_an_endless_redirect_is_unavailable(server, cache):
    server.script = [{"status": 302, "body": b"", "headers": {"Location": "/a.json"}}]
    with pytest.raises(SourceUnavailable, match="redirects"):
        download(server, cache)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_transient_error_is_retried_with_pauses(server, cache, pauses, status):
    server.script = [{"status": status, "body": b"sorry"}] * 2 + [{}]
    assert download(server, cache) == BODY
    assert pauses == [1, 2]


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (429, 1 + RETRIES), (500, 1 + RETRIES)])
def test_a_lasting_error_gives_the_url_and_the_status(server, cache, status, requests):
    server.script = [{"status": status, "body": b"sorry"}]
    message = rf"{re.escape(server.url)}: the server responds with status {status}"
    with pytest.raises(SourceUnavailable, match=message):
        download(server, cache)
    assert server.requests == requests
    assert cached_files(cache) == []


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, cache):
    path = download_file(server.url, stated=Checksums(SHA256), cache=cache)
    path.write_bytes(BODY[:-1])
    assert download(server, cache) == BODY
    assert server.requests == 2


def test_offline_only_the_cache_is_used(server, cache, monkeypatch):
    download(server, cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(server, cache) == BODY
    with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE"):
        download(server, cache / "empty")
    assert server.requests == 1


def test_an_unreachable_host_is_an_error_in_one_line(cache, server):
    port = server.server_port
    server.server_close()
    message = rf"127\.0\.0\.1:{port}/a\.json: cannot be reached \(.*refused"
    with pytest.raises(SourceUnavailable, match=message) as caught:
        download_file(f"http://127.0.0.1:{port}/a.json", stated=Checksums(), cache=cache)
    assert "object at" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_not_a_network_error(server, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(OSError, match="cache"):
        download(server, tmp_path / "cache")


def test_the_proxy_of_the_environment_is_used(server, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/a.json"))
    monkeypatch.setenv("no_proxy", "")
    path = download_file("http://data.invalid/a.json", stated=Checksums(SHA256), cache=cache)
    assert path.read_bytes() == BODY


def source(url: str = "", *, path: str = "", **changes) -> dict:
    kind = "url" if url else "local"
    plain = {"kind": kind, "url": url, "path": path, "format": "json", "sha256": None, "git_blob": None}
    return plain | changes


def fetch(sources: list[dict], tmp_path: Path) -> list[dict]:
    card = {"rows": len(ROWS), "sha256": None, "sources": sources, "known_malformed": []}
    fetch_split("sums", "test", card, output=tmp_path / "out.jsonl", data_root=tmp_path)
    return read_jsonl(tmp_path / "out.jsonl")


def test_the_next_source_is_used_if_one_is_unavailable(server, cache, tmp_path):
    absent = urllib.parse.urljoin(server.url, "/absent.json")
    server.script = [{"status": 404, "body": b""}, {}]
    assert fetch([source(path="nowhere.json"), source(absent), source(server.url)], tmp_path) == ROWS


def test_an_error_lists_every_unavailable_source_and_the_fix(server, cache, tmp_path):
    server.script = [{"status": 404, "body": b""}]
    with pytest.raises(UserError) as caught:
        fetch([source(path="nowhere.json"), source(server.url)], tmp_path)
    message = str(caught.value)
    assert message.startswith("sums (test): not available (")
    assert "nowhere.json: no such file" in message
    assert f"{server.url}: the server responds with status 404" in message
    assert "data_root=DIR" in message
    assert not (tmp_path / "out.jsonl").exists()


def test_after_a_wrong_file_no_further_source_is_tried(server, cache, tmp_path):
    with pytest.raises(UserError, match=GIT_BLOB):
        fetch([source(server.url, git_blob="1" * 40), source(server.url)], tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_wrong_local_file_is_an_error_with_both_checksums(cache, tmp_path):
    (tmp_path / "a.json").write_bytes(BODY)
    with pytest.raises(UserError, match=f"{GIT_BLOB}.*{'1' * 40}"):
        fetch([source(path="a.json", git_blob="1" * 40)], tmp_path)
