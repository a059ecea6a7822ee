"""A record is there before its result has its name, and stays when the same is made again."""

import json
from pathlib import Path

import pytest

from pipeline.core.io import atomic_directory, atomic_file, before_renaming, write_json
from pipeline.results import provenance
from pipeline.study.artifacts import Artifact

RAW = Artifact("fetch", "set/train-", {"sum": "x"})
ADAPTER = Artifact("train", "tiny/lora/set/seed0/", {"seed": 0}, {"raw": RAW})
REPORT = Artifact("report", "study/manifest-", {}, {"adapter": ADAPTER})


@pytest.fixture(autouse=True)
def _in_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "code_state", lambda: {"commit": "c", "diff_sha256": None, "diff": None})


def make(artifact: Artifact, text: str = "made") -> None:
    with provenance.record_result(artifact, study="s", command=["make it"]):
        if artifact is RAW:
            with atomic_file(artifact.path) as path:
                path.write_text(text)
            return
        with atomic_directory(provenance.content_path(artifact.stage, artifact.path)) as folder:
            write_json(folder / (artifact.path.name if artifact is REPORT else "weights"), text)
            write_json(folder / "run.json", {"seconds": 1})


def test_files_of_every_kind_of_artifact_have_their_sums():
    for artifact in (RAW, ADAPTER, REPORT):
        make(artifact)
        record = json.loads(artifact.record.read_text())
        assert provenance.is_intact(record)
        assert record["files"] == provenance.file_checksums(artifact.stage, artifact.path)
        assert record["files"]
    assert set(record["files"]) == {REPORT.path.name, "run.json"}


def test_a_job_killed_before_its_result_has_its_name_leaves_a_record_at_most(monkeypatch):
    def killed(source: Path, target: Path) -> None:
        if target == RAW.path:
            raise KeyboardInterrupt
        rename(source, target)

    import os

    rename = os.replace
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make(RAW)
    assert RAW.record.exists()
    assert not RAW.path.exists()


def test_the_same_again_keeps_the_first_record_and_other_bytes_do_not():
    make(RAW)
    first = RAW.record.read_text()
    make(RAW)
    assert RAW.record.read_text() == first
    make(RAW, "other")
    assert RAW.record.read_text() != first


def test_what_other_processes_made_is_recorded_afterwards():
    make(RAW)
    with provenance.record_result(ADAPTER, study="s", command=["launch"]):
        ADAPTER.path.mkdir(parents=True)
        (ADAPTER.path / "weights").write_text("made elsewhere")
    assert set(json.loads(ADAPTER.record.read_text())["files"]) == {"weights"}


def test_a_failed_job_leaves_no_record():
    with pytest.raises(ValueError, match="broken"), provenance.record_result(RAW, study="s", command=[]):
        raise ValueError("broken")
    assert not RAW.record.exists()


def test_seconds_are_no_part_of_the_sum_as_an_input():
    make(RAW)
    make(ADAPTER)
    before = provenance.combined_checksum(provenance.file_checksums("train", ADAPTER.path))
    write_json(ADAPTER.path / "run.json", {"seconds": 2})
    assert provenance.combined_checksum(provenance.file_checksums("train", ADAPTER.path)) == before
    write_json(ADAPTER.path / "weights", "other")
    assert provenance.combined_checksum(provenance.file_checksums("train", ADAPTER.path)) != before


def test_nobody_is_told_after_the_block(tmp_path):
    told = []
    with before_renaming(lambda source, target: told.append(target.name)):
        write_json(tmp_path / "a.json", 1)
    write_json(tmp_path / "b.json", 1)
    assert told == ["a.json"]
