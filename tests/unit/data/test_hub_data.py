"""Datasets of the hub: from its cache as its client lays it out, put into the published format, held to commit and sum."""

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
from pipeline.core.io import read_jsonl
from pipeline.data.fetch import fetch
from pipeline.data.originals import instruction_row, published_bytes
from pipeline.params.datasets import Dataset
from pipeline.params.reading import PARAMS, check, read_card

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
REPOSITORY = "datasets--org--sums"
ROWS = [{"goal": f"g{n}", "sol1": "é", "sol2": "b", "label": n % 2} for n in range(5)]
PUBLISHED = [instruction_row(row) for row in ROWS]
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


def card(**changed: Any) -> dict[str, Any]:
    source = {
        "kind": "hub",
        "repo_id": "org/sums",
        "revision": COMMIT,
        "files": ["data/one.parquet", "data/two.parquet"],
        "convert": True,
        "git_blob": BLOB,
    }
    splits = {
        "test": {"rows": 5, "sources": [source | {key: changed.pop(key) for key in source.keys() & changed}]}
    }
    splits["test"] |= changed
    told = check(Dataset, {"name": "x", "title": "x", "answer_form": "solution", "splits": splits}, where="x")
    return {"dataset": "sums", **told.model_dump()}


def get(given: dict[str, Any], tmp_path: Path, lock: Path | None = None) -> list[dict[str, Any]]:
    fetch(given, "test", output=tmp_path / "out.jsonl", data_root=None, lock=lock)
    return read_jsonl(tmp_path / "out.jsonl")


def test_files_of_the_cache_become_the_published_rows(hub, tmp_path):
    assert get(card(), tmp_path) == PUBLISHED


def test_rows_stay_as_they_are_unless_the_card_converts_them(hub, tmp_path):
    assert get(card(convert=False, git_blob=None), tmp_path) == ROWS


def test_json_lines_are_read_too(hub, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (hub / "snapshots" / COMMIT / "data/all.jsonl").write_text(lines)
    assert get(card(files=["data/all.jsonl"]), tmp_path) == PUBLISHED


def test_other_data_is_refused_naming_both_sums(hub, tmp_path):
    with pytest.raises(UserError) as caught:
        get(card(git_blob="1" * 40), tmp_path)
    assert BLOB in str(caught.value)
    assert "1" * 40 in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_without_a_revision_the_first_commit_is_recorded_and_kept(hub, tmp_path):
    lock = tmp_path / "lock.yaml"
    get(card(revision=None), tmp_path, lock)
    assert yaml.safe_load(lock.read_text())["dataset files org/sums@main"] == {"revision": COMMIT}
    (hub / "refs/main").write_text(OTHER)  # the branch moves on; the record does not
    assert get(card(revision=None), tmp_path, lock) == PUBLISHED
    with pytest.raises(UserError, match="the hub's cache does not hold it"):
        get(card(revision=None), tmp_path)


def test_offline_without_the_file_the_next_source_is_tried_and_each_is_named(hub, tmp_path):
    given = card(files=["data/three.parquet"])
    with pytest.raises(UserError) as caught:
        get(given, tmp_path)
    assert f"org/sums@{COMMIT}: data/three.parquet: HF_HUB_OFFLINE is set" in str(caught.value)
    assert "HF_HOME" in str(caught.value)
    assert "data_root" not in str(caught.value)  # no source is a local file
    given["splits"]["test"]["sources"] += card()["splits"]["test"]["sources"]
    assert get(given, tmp_path) == PUBLISHED


def test_a_damaged_file_of_the_cache_is_named(hub, tmp_path):
    (hub / "snapshots" / COMMIT / "data/two.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"two\.parquet: not a whole Parquet file"):
        get(card(), tmp_path)


def test_rows_that_cannot_be_converted_are_reported_by_number_over_all_files(hub, tmp_path, capsys):
    bad = {**ROWS[4], "label": 7}
    pq.write_table(pa.Table.from_pylist([ROWS[3], bad]), hub / "snapshots" / COMMIT / "data/two.parquet")
    with pytest.raises(UserError, match="1 malformed rows: row 4: the answer is 7"):
        get(card(git_blob=None), tmp_path)
    assert get(card(git_blob=None, known_malformed=[4]), tmp_path) == [*PUBLISHED[:4], bad]


def test_malformed_lines_are_counted_over_all_files(hub, tmp_path):
    for name, rows in (("one", ROWS[:3]), ("two", [ROWS[3], 17])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (hub / "snapshots" / COMMIT / f"data/{name}.jsonl").write_text(lines)
    files = ["data/one.jsonl", "data/two.jsonl"]
    known = card(files=files, git_blob=None, known_malformed=[4])
    fetch(known, "test", output=tmp_path / "out.jsonl", data_root=None)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*PUBLISHED[:4], 17]
    with pytest.raises(UserError, match=r"two\.jsonl: 1 malformed rows: row 1"):
        get(card(files=files, git_blob=None, known_malformed=[1]), tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers of one file, at one commit."""

    body = b""
    failing = 0  # downloads that are answered with 503 before one is not

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
        if Hub.failing:
            Hub.failing -= 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.do_HEAD()
        if "one.parquet" in self.path:
            self.wfile.write(self.sent or self.body)

    sent = b""  # instead of the body, where it is another

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


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


def test_a_file_is_downloaded_once_and_then_had_offline(server, tmp_path, monkeypatch):
    given = card(files=["data/one.parquet"], rows=3, git_blob=None)
    assert get(given, tmp_path) == PUBLISHED[:3]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(given, tmp_path) == PUBLISHED[:3]


def test_a_passing_failure_of_the_hub_is_retried(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "failing", 3)
    assert get(card(files=["data/one.parquet"], rows=3, git_blob=None), tmp_path) == PUBLISHED[:3]


def test_a_lasting_failure_of_the_hub_names_the_answer(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "failing", 99)
    with pytest.raises(UserError, match=r"data/one\.parquet: the hub answers 503"):
        get(card(), tmp_path)


def test_a_file_that_is_not_the_one_the_hub_names_is_refused_naming_both_sums(server, tmp_path, monkeypatch):
    other = Hub.body[::-1]
    monkeypatch.setattr(Hub, "sent", other)
    with pytest.raises(UserError, match="delete") as caught:
        get(card(), tmp_path)
    assert hashlib.sha256(other).hexdigest() in str(caught.value)
    assert hashlib.sha256(Hub.body).hexdigest() in str(caught.value)


def test_what_the_hub_does_not_have_is_one_line(server, tmp_path):
    with pytest.raises(UserError, match=r"data/two\.parquet: the hub answers 404") as caught:
        get(card(), tmp_path)
    assert "\n" not in str(caught.value)


def test_cards_of_the_hub_name_commits():
    sources = [
        one
        for path in (PARAMS / "datasets").glob("*.yaml")
        for split in read_card("datasets", path.stem).splits.values()
        for one in split.sources
        if one.kind == "hub"
    ]
    assert len(sources) >= 20
    assert all(one.revision is None or len(one.revision) == 40 for one in sources)
