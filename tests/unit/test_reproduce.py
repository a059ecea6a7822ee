"""What counts as the same: bytes on a CPU, accuracies within a tolerance on a GPU."""

import json
from pathlib import Path

import pytest

from pipeline import provenance
from pipeline.artifacts import Artifact
from pipeline.reproduce import TOLERANCE, Outcome, compare, machine_of

SCORE = Artifact("score", "tiny/lora/set/seed0/", {"a-strict": {"parser": "strict"}})
ADAPTER = Artifact("train", "tiny/lora/set/seed0/", {"seed": 0})


def put(root: Path, accuracy: float, *, seconds: float = 1.0) -> None:
    (root / SCORE.path.parent).mkdir(parents=True)
    (root / SCORE.path).write_text(json.dumps({"tasks": {"a-strict": {"accuracy": accuracy}}}))
    (root / ADAPTER.path).mkdir(parents=True)
    (root / ADAPTER.path / "history.jsonl").write_text(json.dumps({"loss": accuracy}) + "\n")
    (root / ADAPTER.path / "run.json").write_text(json.dumps({"seconds": seconds}))


def compared(tmp_path: Path, tolerance: float | None, *accuracies: float) -> Outcome:
    found = Outcome()
    for name, accuracy, seconds in zip(("here", "again"), accuracies, (1.0, 2.0), strict=True):
        put(tmp_path / name, accuracy, seconds=seconds)
    for artifact in (SCORE, ADAPTER):
        compare(artifact, tmp_path / "again", tmp_path / "here", found, tolerance)
    return found


def test_equal_bytes_are_reproduced_whatever_the_seconds(tmp_path):
    found = compared(tmp_path, None, 0.5, 0.5)
    assert (found.compared, found.faults, found.notes) == (2, [], [])


def test_on_a_cpu_every_difference_counts(tmp_path):
    score, history = compared(tmp_path, None, 0.5, 0.5001).faults
    assert score == f"{SCORE.path}: tasks.a-strict.accuracy: 0.5 here, 0.5001 made again"
    assert history.startswith(f"{ADAPTER.path}/history.jsonl: 1 of 1 rows differ; row 0: loss: 0.5 here")


@pytest.mark.parametrize(("again", "faults"), [(0.5 + TOLERANCE / 2, 0), (0.5 + 2 * TOLERANCE, 1)])
def test_on_a_gpu_accuracies_count_within_the_tolerance_and_the_rest_is_told(tmp_path, again, faults):
    found = compared(tmp_path, TOLERANCE, 0.5, again)
    assert len(found.faults) == faults
    assert len(found.notes) == 2 - faults
    assert any("history.jsonl" in note for note in found.notes)


def test_a_result_that_is_gone_is_held_to_its_recorded_sum(tmp_path):
    put(tmp_path / "again", 0.5)
    record = {"files": {SCORE.path.name: "0" * 64}}
    (tmp_path / SCORE.record).parent.mkdir(parents=True)
    (tmp_path / SCORE.record).write_text(json.dumps(provenance.sealed(record)))
    found = Outcome()
    compare(SCORE, tmp_path / "again", tmp_path, found, None)
    assert found.faults == [f"{SCORE.path}: has another sum than was recorded"]


def test_a_file_that_was_not_pulled_is_held_to_its_recorded_sum(tmp_path):
    for name in ("here", "again"):
        put(tmp_path / name, 0.5)
    record = {"files": provenance.sums("train", tmp_path / "here" / ADAPTER.path)}
    (tmp_path / "here" / ADAPTER.record).parent.mkdir(parents=True)
    (tmp_path / "here" / ADAPTER.record).write_text(json.dumps(record))
    (tmp_path / "here" / ADAPTER.path / "history.jsonl").unlink()
    found = Outcome()
    compare(ADAPTER, tmp_path / "again", tmp_path / "here", found, None)
    assert (found.compared, found.faults) == (1, [])
    (tmp_path / "again" / ADAPTER.path / "history.jsonl").write_text("other")
    compare(ADAPTER, tmp_path / "again", tmp_path / "here", found, None)
    assert found.faults == [f"{ADAPTER.path}/history.jsonl: has another sum than was recorded"]


@pytest.mark.parametrize(
    ("device", "machine"),
    [("cpu", (False, 1)), ("2 x cpu", (False, 2)), ("cuda", (True, 1)), ("2 x NVIDIA H100", (True, 2))],
)
def test_the_machine_of_a_result_is_the_recorded_one(tmp_path, device, machine):
    (tmp_path / ADAPTER.record).parent.mkdir(parents=True)
    (tmp_path / ADAPTER.record).write_text(json.dumps({"run": {"device": device}}))
    assert machine_of([SCORE, ADAPTER], tmp_path) == machine
