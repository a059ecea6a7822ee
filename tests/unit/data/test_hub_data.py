"""Datasets of the hub: read from its cache, converted to the published format, compared with commit and checksum."""

import hashlib
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants

from pipeline.core.errors import UserError
from pipeline.data.fetch import fetch_split
from pipeline.data.originals import published_bytes, to_instruction_row
from pipeline.params.datasets import Dataset
from pipeline.params.reading import PARAMS, parse_card, read_card

COMMIT, NEW_COMMIT = "0123456789abcdef0123456789abcdef01234567", "f" * 40
REPOSITORY = "datasets--org--sums"
ROWS = [{"goal": f"g{n}", "sol1": "é", "sol2": "b", "label": n % 2} for n in range(5)]
PUBLISHED = [to_instruction_row(row) for row in ROWS]
BLOB = hashlib.sha1(b"blob %d\0" % len(published_bytes(PUBLISHED)) + published_bytes(PUBLISHED)).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An offline hub cache with one dataset repository, laid out as the hub's client does."""
    root = tmp_path / "hub" / REPOSITORY
    snapshot = root / "snapshots" / COMMIT / "data"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(COMMIT)
    pq.write_table(pa.Table.from_pylist(ROWS[:3]), snapshot / "one.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[3:]), snapshot / "two.parquet")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ADAPTER_STUDIES_CACHE", str(tmp_path / "cache"))
    return root


def card(*, rows: int = 5, known_malformed: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    """The card of a split with one source on the hub; ``changes`` are of the source."""
    source = {
        "kind": "hub",
        "repo_id": "org/sums",
        "revision": COMMIT,
        "files": ["data/one.parquet", "data/two.parquet"],
        "convert": True,
        "git_blob": BLOB,
        **changes,
    }
    split = {"rows": rows, "sources": [source], "known_malformed": known_malformed or []}
    values = {"name": "x", "title": "x", "answer_form": "solution", "splits": {"test": split}}
    return parse_card(Dataset, values, where="x").splits["test"].model_dump()


def fetch(split_card: dict[str, Any], tmp_path: Path, lock: Path | None = None) -> list[dict[str, Any]]:
    output = tmp_path / "out.jsonl"
    fetch_split("sums", "test", split_card, output=output, data_root=None, lock=lock)
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_cached_files_become_the_published_rows(hub, tmp_path):
    assert fetch(card(), tmp_path) == PUBLISHED


def test_rows_are_not_converted_unless_the_card_says_so(hub, tmp_path):
    assert fetch(card(convert=False, git_blob=None), tmp_path) == ROWS


def test_json_lines_are_accepted(hub, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (hub / "snapshots" / COMMIT / "data/all.jsonl").write_text(lines)
    assert fetch(card(files=["data/all.jsonl"]), tmp_path) == PUBLISHED


def test_different_data_is_an_error_with_both_checksums(hub, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch(card(git_blob="1" * 40), tmp_path)
    assert BLOB in str(caught.value)
    assert "1" * 40 in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_without_a_revision_the_first_commit_is_recorded_and_used_later(hub, tmp_path):
    lock = tmp_path / "lock.yaml"
    fetch(card(revision=None), tmp_path, lock)
    assert yaml.safe_load(lock.read_text())["dataset files org/sums@main"] == {"revision": COMMIT}
    # the branch moves on; the record does not
    (hub / "refs/main").write_text(NEW_COMMIT)
    assert fetch(card(revision=None), tmp_path, lock) == PUBLISHED
    with pytest.raises(UserError, match="the hub cache does not contain the file"):
        fetch(card(revision=None), tmp_path)


def test_offline_without_the_file_the_next_source_is_tried(hub, tmp_path):
    split_card = card(files=["data/three.parquet"])
    with pytest.raises(UserError) as caught:
        fetch(split_card, tmp_path)
    assert f"org/sums@{COMMIT}: data/three.parquet: HF_HUB_OFFLINE is set" in str(caught.value)
    assert "HF_HOME" in str(caught.value)
    # no source is a local file
    assert "data_root" not in str(caught.value)
    split_card["sources"] += card()["sources"]
    assert fetch(split_card, tmp_path) == PUBLISHED


def test_a_damaged_cached_file_is_an_error(hub, tmp_path):
    (hub / "snapshots" / COMMIT / "data/two.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"two\.parquet: not a complete Parquet file"):
        fetch(card(), tmp_path)


def test_rows_that_cannot_be_converted_are_reported_by_number_over_all_files(hub, tmp_path, capsys):
    bad = {**ROWS[4], "label": 7}
    pq.write_table(pa.Table.from_pylist([ROWS[3], bad]), hub / "snapshots" / COMMIT / "data/two.parquet")
    with pytest.raises(UserError, match="1 malformed rows: row 4: the answer is 7"):
        fetch(card(git_blob=None), tmp_path)
    assert fetch(card(git_blob=None, known_malformed=[4]), tmp_path) == [*PUBLISHED[:4], bad]


def test_malformed_lines_are_counted_over_all_files(hub, tmp_path):
    for name, rows in (("one", ROWS[:3]), ("two", [ROWS[3], 17])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (hub / "snapshots" / COMMIT / f"data/{name}.jsonl").write_text(lines)
    files = ["data/one.jsonl", "data/two.jsonl"]
    split_card = card(files=files, git_blob=None, known_malformed=[4])
    assert fetch(split_card, tmp_path) == [*PUBLISHED[:4], 17]
    with pytest.raises(UserError, match=r"two\.jsonl: 1 malformed rows: row 1"):
        fetch(card(files=files, git_blob=None, known_malformed=[1]), tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one file, at one commit."""

    body = b""
    # number of downloads that fail with status 503 before one succeeds
    failures = 0

    def do_HEAD(self) -> None:
        if not self.path.startswith(f"/datasets/org/sums/resolve/{COMMIT}/data/one.parquet"):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(self.body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()

    def do_GET(self) -> None:
        if Hub.failures:
            Hub.failures -= 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.do_HEAD()
        if "one.parquet" in self.path:
            self.wfile.write(self.wrong_body or self.body)

    # sent instead of the body, if not empty
    wrong_body = b""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(hub, tmp_path, monkeypatch):
    """A hub on loopback that has the first file, and an empty cache."""
    monkeypatch.setattr(Hub, "body", (hub / "snapshots" / COMMIT / "data/one.parquet").read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("pipeline.data.hub.PAUSE", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{running.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        yield running
        running.shutdown()


def test_a_downloaded_file_is_available_offline(server, tmp_path, monkeypatch):
    split_card = card(files=["data/one.parquet"], rows=3, git_blob=None)
    assert fetch(split_card, tmp_path) == PUBLISHED[:3]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(split_card, tmp_path) == PUBLISHED[:3]


def test_a_transient_hub_error_is_retried(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "failures", 3)
    assert fetch(card(files=["data/one.parquet"], rows=3, git_blob=None), tmp_path) == PUBLISHED[:3]


def test_a_lasting_hub_error_gives_the_status(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "failures", 99)
    with pytest.raises(UserError, match=r"data/one\.parquet: the hub responds with status 503"):
        fetch(card(), tmp_path)


def test_a_file_that_differs_from_the_hub_checksum_is_an_error_with_both_checksums(
    server, tmp_path, monkeypatch
):
    wrong = Hub.body[::-1]
    monkeypatch.setattr(Hub, "wrong_body", wrong)
    with pytest.raises(UserError, match="delete") as caught:
        fetch(card(), tmp_path)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert hashlib.sha256(Hub.body).hexdigest() in str(caught.value)


def test_a_missing_file_on_the_hub_is_an_error_in_one_line(server, tmp_path):
    with pytest.raises(UserError, match=r"data/two\.parquet: the hub responds with status 404") as caught:
        fetch(card(), tmp_path)
    assert "\n" not in str(caught.value)


def test_hub_sources_in_the_cards_have_full_commits():
    sources = [
        source
        for path in (PARAMS / "datasets").glob("*.yaml")
        for split in read_card("datasets", path.stem).splits.values()
        for source in split.sources
        if source.kind == "hub"
    ]
    assert len(sources) >= 20
    assert all(source.revision is None or len(source.revision) == 40 for source in sources)
