"""Artifacts: what changes a path, what does not, and what prune and restore do."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.results.store import park_stale, restore_artifacts
from pipeline.study import artifacts
from pipeline.study.artifacts import Artifact, list_artifacts


def adapter(r: int = 8, base_seed: int = 0) -> Artifact:
    base = Artifact("base", "tiny/", {"seed": base_seed})
    return Artifact("train", "tiny/lora/set/seed0/", {"r": r}, {"base": base})


def put(root: Path, artifact: Artifact) -> None:
    (root / artifact.path).mkdir(parents=True)
    (root / artifact.path / "weights").write_text(artifact.fingerprint)


def test_equal_params_and_inputs_have_equal_paths():
    assert adapter().path == adapter().path
    assert adapter().path.name == adapter().fingerprint


@pytest.mark.parametrize("changed", [adapter(r=4), adapter(base_seed=1)])
def test_params_and_inputs_change_the_path(changed):
    assert changed.path != adapter().path


def test_the_version_of_a_stage_changes_its_path_and_those_made_from_it(monkeypatch):
    before = adapter()
    names = before.path, before.inputs["base"].path
    monkeypatch.setitem(artifacts.STAGES, "base", replace(artifacts.STAGES["base"], version=999))
    after = adapter()
    assert after.path != names[0]
    assert after.inputs["base"].path != names[1]


def test_the_label_is_not_part_of_the_fingerprint():
    renamed = Artifact("base", "other-name/", {"seed": 0})
    assert renamed.fingerprint == Artifact("base", "tiny/", {"seed": 0}).fingerprint


def test_prune_parks_stale_artifacts_and_restore_brings_them_back(tmp_path):
    old, new = adapter(r=8), adapter(r=4)
    put(tmp_path, old)
    put(tmp_path, new)
    assert park_stale([new], ["train"], root=tmp_path) == [old.path]
    assert not (tmp_path / old.path).exists()
    assert (tmp_path / new.path / "weights").read_text() == new.fingerprint
    assert restore_artifacts([old], root=tmp_path) == [old.path]
    assert (tmp_path / old.path / "weights").read_text() == old.fingerprint


def test_prune_leaves_other_stages_and_unfinished_work(tmp_path):
    put(tmp_path, adapter())
    work = tmp_path / adapter(r=2).path.with_name(f".{adapter(r=2).fingerprint}.work")
    work.mkdir(parents=True)
    assert park_stale([], ["base"], root=tmp_path) == []
    park_stale([], ["train"], root=tmp_path)
    assert work.exists()


def test_restore_never_replaces_an_artifact(tmp_path):
    put(tmp_path, adapter())
    park_stale([], ["train"], root=tmp_path)
    put(tmp_path, adapter())
    (tmp_path / adapter().path / "weights").write_text("newer")
    assert restore_artifacts([adapter()], root=tmp_path) == []
    assert (tmp_path / adapter().path / "weights").read_text() == "newer"


def test_a_reports_files_of_single_runs_are_no_artifacts(tmp_path):
    report = Artifact("report", "study/manifest-", {"seed": 0})
    (tmp_path / report.path).parent.mkdir(parents=True)
    (tmp_path / report.path).write_text("{}")
    answers = tmp_path / report.path.parent / "answers"
    answers.mkdir()
    (answers / f"run-{adapter().fingerprint}.js").write_text("")
    assert list_artifacts(tmp_path, "report") == [report.path]
