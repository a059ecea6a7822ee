"""The store is freed of what no study names, and never half."""

import time
from pathlib import Path

import pytest

from pipeline.results import store
from pipeline.results.store import set_aside, take_back
from pipeline.study.artifacts import STORE, Artifact


class Named:
    """A study as the store sees it: a name and artifacts."""

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
    assert len(set_aside([], ["train"], root=tmp_path)) == 2
    assert not (tmp_path / adapter(0).record).exists()
    return tmp_path


def left(root: Path) -> list[int]:
    return [seed for seed in (0, 1) if (root / STORE / adapter(seed).path).exists()]


def test_a_record_goes_and_comes_with_its_result(root):
    assert take_back([adapter(1)], root=root) == [adapter(1).path]
    assert (root / adapter(1).record).exists()
    assert left(root) == [0]


def test_only_what_no_study_names_is_freed(root, capsys):
    store.empty(yes=True, studies=[Named("one", adapter(0))], root=root)
    assert left(root) == [0]
    assert not (root / STORE / adapter(1).record).exists()
    told = capsys.readouterr().out
    assert "to free: 1 of 2 results, 1.0 kB" in told
    assert "named by one" in told


def test_what_a_study_names_is_freed_only_when_asked_for(root):
    store.empty(yes=True, also_named=True, studies=[Named("one", adapter(0))], root=root)
    assert left(root) == []


def test_without_a_yes_nothing_is_freed(root, capsys):
    store.empty(studies=[], root=root)
    assert left(root) == [0, 1]
    assert "nothing was freed" in capsys.readouterr().out


def test_what_was_moved_there_lately_is_kept(root, monkeypatch):
    store.empty(yes=True, older_than_days=2, studies=[], root=root)
    assert left(root) == [0, 1]
    later = time.time() + 3 * store.DAY_S
    monkeypatch.setattr(store.time, "time", lambda: later)
    store.empty(yes=True, older_than_days=2, studies=[], root=root)
    assert left(root) == []


def test_a_result_that_is_half_deleted_is_no_result(root, monkeypatch):
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.empty(yes=True, studies=[], root=root)
    assert left(root) == [1]
    assert take_back([adapter(0)], root=root) == []


@pytest.mark.parametrize(
    ("size", "told"), [(999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_sizes_are_told_for_people(size, told):
    assert store.told_size(size) == told
