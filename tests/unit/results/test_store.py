"""Only results that no study refers to are freed from the store, and a result is deleted completely."""

import re
import time
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.results import store as store_module
from pipeline.results.disk import free_store as free_store_module
from pipeline.results.disk.free_store import DAY_S, free_store
from pipeline.results.store import park_stale, restore_artifacts, restore_study
from pipeline.study.artifacts import STORE, Artifact


class FakeStudy:
    """The part of a study that the store needs: its name and artifacts."""

    def __init__(self, name: str, *artifacts: Artifact) -> None:
        self.name, self._artifacts = name, list(artifacts)

    def named(self) -> list[Artifact]:
        return self._artifacts


def adapter(seed: int) -> Artifact:
    return Artifact("train", f"tiny/lora/set/seed{seed}/", {"seed": seed})


@pytest.fixture
def root(tmp_path) -> Path:
    """A project whose store holds two adapters of 1,000 bytes with their records."""
    for seed in (0, 1):
        (tmp_path / adapter(seed).path).mkdir(parents=True)
        (tmp_path / adapter(seed).path / "weights").write_bytes(bytes(1000))
        (tmp_path / adapter(seed).record).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / adapter(seed).record).write_text("{}")
    assert len(park_stale([], ["train"], root=tmp_path)) == 2
    assert not (tmp_path / adapter(0).record).exists()
    return tmp_path


def seeds_in_store(root: Path) -> list[int]:
    return [seed for seed in (0, 1) if (root / STORE / adapter(seed).path).exists()]


def test_a_record_moves_with_its_result(root):
    assert restore_artifacts([adapter(1)], root=root) == [adapter(1).path]
    assert (root / adapter(1).record).exists()
    assert seeds_in_store(root) == [0]


def test_only_results_that_no_study_refers_to_are_freed(root, capsys):
    free_store(confirmed=True, studies=[FakeStudy("study-a", adapter(0))], root=root)
    assert seeds_in_store(root) == [0]
    assert not (root / STORE / adapter(1).record).exists()
    output = capsys.readouterr().out
    assert "to free: 1 of 2 results, 1.0 kB" in output
    assert re.search(rf"^keep .* {adapter(0).path} +study-a *$", output, re.M)
    assert re.search(rf"^free .* {adapter(1).path} +none *$", output, re.M)


def test_results_that_a_study_refers_to_are_freed_only_on_request(root):
    free_store(confirmed=True, include_referenced=True, studies=[FakeStudy("study-a", adapter(0))], root=root)
    assert seeds_in_store(root) == []


def test_without_confirmation_nothing_is_freed(root, capsys):
    free_store(studies=[], root=root)
    assert seeds_in_store(root) == [0, 1]
    assert "nothing was freed" in capsys.readouterr().out


def test_recently_parked_results_stay(root, monkeypatch):
    free_store(confirmed=True, older_than_days=2, studies=[], root=root)
    assert seeds_in_store(root) == [0, 1]
    later = time.time() + 3 * DAY_S
    monkeypatch.setattr(free_store_module.time, "time", lambda: later)
    free_store(confirmed=True, older_than_days=2, studies=[], root=root)
    assert seeds_in_store(root) == []


def test_a_partly_deleted_result_is_not_restored(root, monkeypatch):
    def kill(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(free_store_module.shutil, "rmtree", kill)
    with pytest.raises(KeyboardInterrupt):
        free_store(confirmed=True, studies=[], root=root)
    assert seeds_in_store(root) == [1]
    assert restore_artifacts([adapter(0)], root=root) == []


@pytest.fixture
def linked(tmp_path) -> tuple[Path, Path]:
    """A project whose adapter is a link into DVC's cache, and the object in the cache."""
    root, object_ = tmp_path / "project", tmp_path / "cache/files/md5/ab/cdef"
    object_.parent.mkdir(parents=True)
    object_.write_bytes(bytes(1000))
    object_.chmod(0o444)
    (root / adapter(0).path).mkdir(parents=True)
    (root / adapter(0).path / "weights").symlink_to(object_)
    return root, object_


def test_a_parked_result_outlives_the_cache_that_it_linked_to(linked):
    root, object_ = linked
    park_stale([], ["train"], root=root)
    assert object_.read_bytes() == bytes(1000)
    object_.unlink()
    assert restore_artifacts([adapter(0)], root=root) == [adapter(0).path]
    assert (root / adapter(0).path / "weights").read_bytes() == bytes(1000)


def test_a_result_with_a_dead_link_is_neither_parked_nor_restored(linked):
    root, object_ = linked
    object_.unlink()
    assert park_stale([], ["train"], root=root) == [adapter(0).path]
    assert not (root / STORE / adapter(0).path).exists()
    # an earlier version moved links to the store
    parked = root / STORE / adapter(0).path
    parked.mkdir(parents=True)
    (parked / "weights").symlink_to(object_)
    assert restore_artifacts([adapter(0)], root=root) == []


def test_a_result_with_a_dead_link_counts_as_missing(linked, monkeypatch, capsys):
    root, object_ = linked
    monkeypatch.setattr(store_module, "project_root", lambda: root)
    restore_study(FakeStudy("study-a", adapter(0)))
    assert (root / adapter(0).path).exists()
    object_.unlink()
    restore_study(FakeStudy("study-a", adapter(0)))
    assert not (root / adapter(0).path).exists()
    assert str(adapter(0).path) in capsys.readouterr().err


def test_links_into_a_cache_that_is_not_mounted_are_refused(linked, monkeypatch):
    root, object_ = linked
    object_.parents[3].rename(root / "unmounted")
    monkeypatch.setattr(store_module, "project_root", lambda: root)
    with pytest.raises(UserError, match="mount it"):
        restore_study(FakeStudy("study-a", adapter(0)))
    assert (root / adapter(0).path).exists()
