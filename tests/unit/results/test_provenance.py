"""The record is written before the final rename, and stays if a rerun produces the same bytes."""

import json
from pathlib import Path

import pytest

from pipeline.core.io import atomic_directory, atomic_file, before_rename, write_json
from pipeline.results import provenance
from pipeline.study.artifacts import Artifact

RAW = Artifact("fetch", "set/train-", {"sum": "x"})
ADAPTER = Artifact("train", "tiny/lora/set/seed0/", {"seed": 0}, {"raw": RAW})
REPORT = Artifact("report", "study/manifest-", {}, {"adapter": ADAPTER})


@pytest.fixture(autouse=True)
def _in_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "code_state", lambda: {"commit": "c", "diff_sha256": None, "diff": None})


def produce(artifact: Artifact, text: str = "content") -> None:
    with provenance.record_result(artifact, study="s", command=["produce it"]):
        if artifact is RAW:
            with atomic_file(artifact.path) as path:
                path.write_text(text)
            return
        with atomic_directory(provenance.content_path(artifact.stage, artifact.path)) as folder:
            write_json(folder / (artifact.path.name if artifact is REPORT else "weights"), text)
            write_json(folder / "run.json", {"seconds": 1})


def test_a_record_has_the_checksum_of_each_file_for_every_kind_of_artifact():
    for artifact in (RAW, ADAPTER, REPORT):
        produce(artifact)
        record = json.loads(artifact.record.read_text())
        assert provenance.is_intact(record)
        assert record["files"] == provenance.file_checksums(artifact.stage, artifact.path)
        assert record["files"]
    assert set(record["files"]) == {REPORT.path.name, "run.json"}


def test_a_job_killed_before_the_final_rename_leaves_only_a_record(monkeypatch):
    def kill(source: Path, target: Path) -> None:
        if target == RAW.path:
            raise KeyboardInterrupt
        rename(source, target)

    import os

    rename = os.replace
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        produce(RAW)
    assert RAW.record.exists()
    assert not RAW.path.exists()


def test_a_rerun_keeps_the_record_unless_the_bytes_changed():
    produce(RAW)
    first = RAW.record.read_text()
    produce(RAW)
    assert RAW.record.read_text() == first
    produce(RAW, "other")
    assert RAW.record.read_text() != first


def test_the_output_of_a_child_process_is_recorded_afterwards():
    produce(RAW)
    with provenance.record_result(ADAPTER, study="s", command=["launch"]):
        ADAPTER.path.mkdir(parents=True)
        (ADAPTER.path / "weights").write_text("written by a child process")
    assert set(json.loads(ADAPTER.record.read_text())["files"]) == {"weights"}


def test_a_failed_job_leaves_no_record():
    with pytest.raises(ValueError, match="broken"), provenance.record_result(RAW, study="s", command=[]):
        raise ValueError("broken")
    assert not RAW.record.exists()


def test_run_time_is_not_part_of_the_combined_checksum():
    produce(RAW)
    produce(ADAPTER)
    before = provenance.combined_checksum(provenance.file_checksums("train", ADAPTER.path))
    write_json(ADAPTER.path / "run.json", {"seconds": 2})
    assert provenance.combined_checksum(provenance.file_checksums("train", ADAPTER.path)) == before
    write_json(ADAPTER.path / "weights", "other")
    assert provenance.combined_checksum(provenance.file_checksums("train", ADAPTER.path)) != before


def test_the_callback_is_not_called_after_the_block(tmp_path):
    renamed = []
    with before_rename(lambda source, target: renamed.append(target.name)):
        write_json(tmp_path / "a.json", 1)
    write_json(tmp_path / "b.json", 1)
    assert renamed == ["a.json"]
