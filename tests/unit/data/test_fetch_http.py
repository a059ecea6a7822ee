"""Downloads from a server on loopback that does what servers do: what is retried, resumed, refused or left to the next source."""

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
from pipeline.data import http as downloads
from pipeline.data.fetch import fetch
from pipeline.data.http import Missing, download

ROWS = [
    {"instruction": f"What is {n} + 1?", "input": "", "output": "", "answer": str(n + 1)} for n in range(4000)
]
BODY = json.dumps(ROWS, indent=4).encode()
SHA256 = hashlib.sha256(BODY).hexdigest()
GIT_BLOB = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()
ETAG = '"one"'


class Server(http.server.ThreadingHTTPServer):
    """Answers each request as the next step of its script says; behind its end, as the last one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[dict] = [{}]
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.json"


class Handler(http.server.BaseHTTPRequestHandler):
    """A step: status, headers, body, etag, cut (bytes sent before the connection drops), ranges, most (of a range), length."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        step = self.server.script[min(len(self.server.asked), len(self.server.script) - 1)]
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        body, etag, start = step.get("body", BODY), step.get("etag", ETAG), 0
        status = step.get("status", 200)
        if wanted and step.get("ranges", True) and status == 200 and self._same(etag):
            status, start = 206, int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                status, body = 416, b""
        end = min(start + step.get("most", len(body)), len(body)) if status == 206 else len(body)
        self.send_response(status)
        for name, value in step.get("headers", {}).items():
            self.send_header(name, value)
        if etag and status in (200, 206):
            self.send_header("ETag", etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        if step.get("length", True):
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(body[start:end][: step.get("cut")])
        self.close_connection = "cut" in step or not step.get("length", True)

    def _same(self, etag: str) -> bool:
        return self.headers.get("If-Range") in (None, etag)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE", 0)
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


def whole(server: Server, cache: Path, **sums: str) -> bytes:
    return download(server.url, sums=sums or {"sha256": SHA256}, cache=cache).read_bytes()


def kept(cache: Path) -> list[str]:
    """What a later call would take for a whole file."""
    return [path.name for path in cache.iterdir() if path.suffix == ".json"]


@pytest.mark.parametrize("sums", [{"sha256": SHA256}, {"git_blob": GIT_BLOB}])
def test_a_whole_file_is_fetched_once_for_all_who_ask(server, cache, sums):
    assert whole(server, cache, **sums) == BODY
    assert whole(server, cache, **sums) == BODY
    assert [path for path in cache.iterdir() if ".partial" in path.name] == []
    assert server.asked == [None]


@pytest.mark.parametrize("checked", [True, False])
def test_a_dropped_connection_is_taken_up_where_it_broke(server, cache, checked):
    server.script = [{"cut": 98_304}, {"cut": 49_152}, {}]
    sums = {"sha256": SHA256} if checked else {}
    assert download(server.url, sums=sums, cache=cache).read_bytes() == BODY
    assert server.asked == [None, "bytes=98304-", "bytes=147456-"]


def test_a_server_without_ranges_sends_it_anew(server, cache):
    server.script = [{"cut": 98_304}, {"ranges": False}]
    assert whole(server, cache) == BODY
    assert len(server.asked) == 2


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, cache):
    server.script = [{"body": b"x" * 9000, "etag": '"old"', "cut": 8192}, {}]
    assert download(server.url, sums={}, cache=cache).read_bytes() == BODY
    assert server.asked == [None, "bytes=8192-"]


def test_without_etag_and_sum_nothing_is_resumed(server, cache):
    server.script = [{"body": b"x" * 9000, "etag": "", "cut": 8192}, {"etag": ""}]
    assert download(server.url, sums={}, cache=cache).read_bytes() == BODY
    assert server.asked == [None, None]


def test_a_range_that_is_not_the_asked_one_is_not_appended(server, cache):
    server.script = [{"cut": 98_304}, {"status": 206, "headers": {"Content-Range": "bytes 0-9/10"}}, {}]
    assert whole(server, cache) == BODY


def test_a_range_that_is_sent_in_parts_is_asked_to_its_end(server, cache):
    server.script = [{"cut": 98_304}, {"most": 50_000}, {}]
    assert download(server.url, sums={}, cache=cache).read_bytes() == BODY
    assert server.asked == [None, "bytes=98304-", "bytes=148304-"]


@pytest.mark.parametrize("begun", [True, False])
def test_an_answer_without_the_file_is_not_taken_for_it(server, cache, begun):
    server.script = [{"cut": 98_304}] * begun + [{"status": 204, "body": b""}]
    with pytest.raises(Missing, match="204"):
        download(server.url, sums={}, cache=cache)
    assert kept(cache) == []


def test_a_later_process_goes_on_with_what_is_there(server, cache):
    server.script = [{"cut": 98_304}, {"cut": 0}]
    with pytest.raises(Missing, match="broke"):
        whole(server, cache)
    assert kept(cache) == []
    server.script, server.asked = [{}], []
    assert whole(server, cache) == BODY
    assert server.asked == ["bytes=98304-"]


def test_a_partial_file_that_is_whole_already_is_not_lost(server, cache):
    server.script = [{"cut": 98_304}, {"cut": 0}]
    with pytest.raises(Missing):
        whole(server, cache)
    (partial,) = cache.glob("*.partial")
    partial.write_bytes(BODY)
    server.script = [{}]
    assert whole(server, cache) == BODY


def test_a_server_that_always_drops_is_given_up(server, cache):
    server.script = [{"cut": 0}]
    with pytest.raises(Missing, match=r"127\.0\.0\.1.*broke.*in a row"):
        whole(server, cache)
    assert kept(cache) == []


def test_a_truncated_file_with_a_lying_length_is_fetched_once_more_then_refused(server, cache):
    server.script = [{"body": BODY[:-10]}, {}]
    assert whole(server, cache) == BODY
    other = cache / "other"
    server.script, server.asked = [{"body": BODY[:-10]}], []
    with pytest.raises(UserError, match=SHA256):
        whole(server, other)
    assert len(server.asked) == 2
    assert kept(other) == []


def test_a_file_of_unknown_length_and_sum_is_not_trusted(server, cache):
    server.script = [{"length": False, "cut": 5000}]
    with pytest.raises(Missing, match="how long"):
        download(server.url, sums={}, cache=cache)
    assert kept(cache) == []


def test_a_file_of_unknown_length_is_judged_by_its_sum(server, cache):
    server.script = [{"length": False, "cut": 5000}, {"length": False}]
    assert whole(server, cache) == BODY


def test_a_redirect_is_followed(server, cache):
    server.script = [{"status": 302, "body": b"", "headers": {"Location": "/elsewhere.json"}}, {}]
    assert whole(server, cache) == BODY


def test_a_redirect_in_a_circle_is_one_line(server, cache):
    server.script = [{"status": 302, "body": b"", "headers": {"Location": "/a.json"}}]
    with pytest.raises(Missing, match="redirects"):
        whole(server, cache)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_retried(server, cache, status):
    headers = {"Retry-After": "0"} if status == 429 else {}
    server.script = [{"status": status, "headers": headers, "body": b"sorry"}] * 2 + [{}]
    assert whole(server, cache) == BODY


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (429, 4), (500, 4)])
def test_a_lasting_failure_names_the_address_and_the_answer(server, cache, status, asked):
    server.script = [{"status": status, "body": b"sorry"}]
    with pytest.raises(Missing, match=rf"{re.escape(server.url)}: .*{status}"):
        whole(server, cache)
    assert len(server.asked) == asked
    assert kept(cache) == []


def test_retry_after_is_heeded_but_not_for_hours(server, cache, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    server.script = [
        {"status": 429, "headers": {"Retry-After": "7"}, "body": b""},
        {"status": 503, "headers": {"Retry-After": "86400"}, "body": b""},
        {},
    ]
    assert whole(server, cache) == BODY
    assert [seconds for seconds in waited if seconds >= 1] == [7, 120]


@pytest.mark.parametrize(
    ("sums", "stated"), [({"sha256": "0" * 64}, "0" * 64), ({"git_blob": "1" * 40}, "1" * 40)]
)
def test_a_wrong_file_is_refused_naming_both_sums(server, cache, sums, stated):
    with pytest.raises(UserError) as caught:
        whole(server, cache, **sums)
    assert stated in str(caught.value)
    assert {"sha256": SHA256, "git_blob": GIT_BLOB}[next(iter(sums))] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(cache) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server, cache):
    path = download(server.url, sums={"sha256": SHA256}, cache=cache)
    path.write_bytes(BODY[:-1])
    assert whole(server, cache) == BODY
    assert len(server.asked) == 2


def test_offline_takes_the_cache_and_asks_nobody(server, cache, monkeypatch):
    whole(server, cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert whole(server, cache) == BODY
    with pytest.raises(Missing, match="HF_HUB_OFFLINE"):
        whole(server, cache / "empty")
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_one_line(cache, server):
    port = server.server_port
    server.server_close()
    with pytest.raises(
        Missing, match=rf"127\.0\.0\.1:{port}/a\.json: cannot be reached \(.*refused"
    ) as caught:
        download(f"http://127.0.0.1:{port}/a.json", sums={}, cache=cache)
    assert "object at" not in str(caught.value)


def test_the_proxy_of_the_environment_is_used(server, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/a.json"))
    monkeypatch.setenv("no_proxy", "")
    path = download("http://data.invalid/a.json", sums={"sha256": SHA256}, cache=cache)
    assert path.read_bytes() == BODY


def source(url: str = "", *, path: str = "", **more) -> dict:
    kind = "url" if url else "local"
    return {
        "kind": kind,
        "url": url,
        "path": path,
        "format": "json",
        "sha256": None,
        "git_blob": None,
        **more,
    }


def card(*sources: dict) -> dict:
    return {
        "dataset": "sums",
        "splits": {"test": {"rows": len(ROWS), "sha256": None, "sources": list(sources)}},
    }


def test_the_next_source_is_tried_where_one_does_not_have_it(server, cache, tmp_path):
    absent = urllib.parse.urljoin(server.url, "/absent.json")
    server.script = [{"status": 404, "body": b""}, {}]
    given = card(source(path="nowhere.json"), source(absent), source(server.url))
    fetch(given, "test", output=tmp_path / "out.jsonl", data_root=tmp_path)
    assert read_jsonl(tmp_path / "out.jsonl") == ROWS


def test_every_source_is_named_where_none_has_it(server, cache, tmp_path):
    server.script = [{"status": 404, "body": b""}]
    given = card(source(path="nowhere.json"), source(server.url))
    with pytest.raises(UserError) as caught:
        fetch(given, "test", output=tmp_path / "out.jsonl", data_root=tmp_path)
    assert "nowhere.json" in str(caught.value)
    assert f"{server.url}: the server answers 404" in str(caught.value)
    assert "data_root" in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_wrong_file_ends_the_search(server, cache, tmp_path):
    given = card(source(server.url, git_blob="1" * 40), source(server.url))
    with pytest.raises(UserError, match=GIT_BLOB):
        fetch(given, "test", output=tmp_path / "out.jsonl", data_root=None)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_wrong_local_file_is_refused_naming_both_sums(cache, tmp_path):
    (tmp_path / "a.json").write_bytes(BODY)
    given = card(source(path="a.json", git_blob="1" * 40))
    with pytest.raises(UserError, match=f"{GIT_BLOB}.*{'1' * 40}"):
        fetch(given, "test", output=tmp_path / "out.jsonl", data_root=tmp_path)
