"""What counts as the same: bytes on a CPU, accuracies within a tolerance on a GPU."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from pipeline.core.errors import UserError
from pipeline.results import provenance
from pipeline.results import reproduce as module
from pipeline.results.reproduce import TOLERANCE, Asked, Outcome, compare, machine_of, reproduce, show
from pipeline.study.artifacts import Artifact

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
    (tmp_path / SCORE.record).write_text(json.dumps(provenance.seal_record(record)))
    found = Outcome()
    compare(SCORE, tmp_path / "again", tmp_path, found, None)
    assert found.faults == [f"{SCORE.path}: has another sum than was recorded"]


def test_a_file_that_was_not_pulled_is_held_to_its_recorded_sum(tmp_path):
    for name in ("here", "again"):
        put(tmp_path / name, 0.5)
    record = {"files": provenance.file_checksums("train", tmp_path / "here" / ADAPTER.path)}
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


class Making:
    """What stands in for git and Snakemake: a worktree whose score says another accuracy, or a making that fails."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.config, self.log = root, {}, ""
        monkeypatch.setattr(module, "git", lambda *_, at: b"")
        monkeypatch.setattr(module.subprocess, "run", self.run)

    def run(self, command: list[str], *, cwd: Path, stdout: TextIO, **_: object) -> SimpleNamespace:
        given = command[command.index("--config") + 1 : command.index("--")]
        self.config = dict(one.split("=") for one in given)
        stdout.write(self.log)
        if not self.log:
            put(cwd, 0.51)
        return SimpleNamespace(returncode=1 if self.log else 0)

    def told(self, capsys: pytest.CaptureFixture[str], **given: str) -> str:
        asked, folder = Asked(SimpleNamespace(name="small"), (SCORE,)), self.root / "worktree"
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_worktree", lambda *_: nullcontext(folder))
            show(reproduce(asked, root=self.root, **given))
        return capsys.readouterr().out


@pytest.fixture
def made_on_a_gpu(tmp_path, monkeypatch) -> Making:
    put(tmp_path, 0.5)
    files = {SCORE.path.name: provenance.file_checksums("score", tmp_path / SCORE.path)[SCORE.path.name]}
    run = {"device": "NVIDIA H100", "packages": {}}
    code = {"commit": "c0", "diff": None, "diff_sha256": None}
    (tmp_path / SCORE.record).parent.mkdir(parents=True)
    record = provenance.seal_record({"files": files, "run": run, "code": code, "study": "small"})
    (tmp_path / SCORE.record).write_text(json.dumps(record))
    return Making(tmp_path, monkeypatch)


@pytest.mark.parametrize("device", ["", "cpu"])
def test_a_gpus_result_made_again_is_said_to_be_held_by_accuracies_alone(made_on_a_gpu, device, capsys):
    told = made_on_a_gpu.told(capsys, device=device)
    assert made_on_a_gpu.config["device"] == (device or "cuda")
    assert "accuracy: 0.5 here, 0.51 made again (on a GPU only accuracies are held to each other)" in told
    assert told.endswith("compared 1 files and numbers: reproduced, accuracies to within 0.02\n")


def test_a_gpus_result_where_there_is_none_is_one_line_with_both_ways_on(made_on_a_gpu, capsys):
    made_on_a_gpu.log = "Job 4\nerror: device=cuda: there is no GPU here that torch can use; use ...\nLog\n"
    with pytest.raises(
        UserError, match="made on a GPU, and here is none: go where one is, or add --device cpu"
    ) as told:
        made_on_a_gpu.told(capsys)
    assert "\n" not in str(told.value)


def test_a_making_that_fails_is_told_with_the_jobs_own_line(made_on_a_gpu, capsys):
    made_on_a_gpu.log = "Job 4\nerror: params/study: no 'small'\nLog\n"
    with pytest.raises(UserError, match=r"failed \(params/study: no 'small'\); see .*reproduce.log"):
        made_on_a_gpu.told(capsys, device="cpu")
