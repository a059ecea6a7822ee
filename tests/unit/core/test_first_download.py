"""First downloads are recorded; a later download that differs is an error."""

import pytest
import yaml

from pipeline.core.errors import UserError
from pipeline.core.first_download import record_download, recorded_download
from pipeline.data.fetch import fetch_split


def test_a_first_download_is_recorded_and_an_equal_one_passes(tmp_path):
    lock = tmp_path / "params" / "lock.yaml"
    assert recorded_download(lock, "model a/b@main") is None
    record_download(lock, "model a/b@main", {"revision": "c0ffee", "files": {"x": "1"}})
    record_download(lock, "dataset d/train", {"rows": 2, "sha256": "ab"})
    text = lock.read_text()
    record_download(lock, "model a/b@main", {"revision": "c0ffee", "files": {"x": "1"}})
    assert lock.read_text() == text
    assert recorded_download(lock, "dataset d/train") == {"rows": 2, "sha256": "ab"}
    assert list(yaml.safe_load(text)) == ["dataset d/train", "model a/b@main"]


def test_a_changed_source_is_an_error_with_both_values(tmp_path):
    lock = tmp_path / "lock.yaml"
    record_download(lock, "dataset d/train", {"rows": 2, "sha256": "ab"})
    with pytest.raises(UserError, match=r"dataset d/train: sha256 is cd, but .*lock.yaml recorded ab"):
        record_download(lock, "dataset d/train", {"rows": 2, "sha256": "cd"})
    assert recorded_download(lock, "dataset d/train") == {"rows": 2, "sha256": "ab"}


def test_without_a_lock_file_nothing_is_recorded(tmp_path):
    record_download(None, "dataset d/train", {"rows": 2})
    assert recorded_download(None, "dataset d/train") is None
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_lock_file_is_an_error(tmp_path):
    lock = tmp_path / "lock.yaml"
    lock.write_text("- a list\n")
    with pytest.raises(UserError, match=r"lock\.yaml: must be a mapping"):
        recorded_download(lock, "x")


def test_a_dataset_without_a_checksum_is_compared_with_its_first_download(tmp_path):
    source = {"kind": "local", "path": "d.jsonl", "format": "jsonl", "sha256": None, "git_blob": None}
    card = {"rows": None, "sha256": None, "sources": [source], "known_malformed": []}
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n')
    folders = {"data_root": tmp_path, "lock": tmp_path / "lock.yaml"}
    fetch_split("d", "train", card, output=tmp_path / "first.jsonl", **folders)
    fetch_split("d", "train", card, output=tmp_path / "second.jsonl", **folders)
    (tmp_path / "d.jsonl").write_text('{"a": 2}\n')
    with pytest.raises(UserError, match="recorded"):
        fetch_split("d", "train", card, output=tmp_path / "third.jsonl", **folders)
    assert not (tmp_path / "third.jsonl").exists()
