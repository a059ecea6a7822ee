"""What counts as reproduced: equal bytes on a CPU, accuracies within a tolerance on a GPU."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from pipeline.core.errors import UserError
from pipeline.results import provenance
from pipeline.results.comparison import Comparison, combine_comparisons, compare_artifact
from pipeline.results.reproduction import reproduce as reproduce_module
from pipeline.results.reproduction import request as reproduce_request
from pipeline.results.reproduction.reproduce import (
    TOLERANCE,
    ReproduceOptions,
    print_reproduce_outcome,
    reproduce,
)
from pipeline.results.reproduction.request import ReproduceRequest, find_request
from pipeline.study.artifacts import Artifact

SCORE = Artifact("score", "tiny/lora/set/seed0/", {"a-strict": {"parser": "strict"}})
ADAPTER = Artifact("train", "tiny/lora/set/seed0/", {"seed": 0})
BASE = Artifact("base", "tiny-llama/", {"seed": 0})
# what a record says of a run on another processor
OTHER_RUN = {"device": "cpu", "processor": "Xeon, avx2"}


def write_results(root: Path, accuracy: float, *, seconds: float = 1.0) -> None:
    (root / SCORE.path.parent).mkdir(parents=True)
    (root / SCORE.path).write_text(json.dumps({"tasks": {"a-strict": {"accuracy": accuracy}}}))
    (root / ADAPTER.path).mkdir(parents=True)
    (root / ADAPTER.path / "history.jsonl").write_text(json.dumps({"loss": accuracy}) + "\n")
    (root / ADAPTER.path / "run.json").write_text(json.dumps({"seconds": seconds}))


def write_record(root: Path, artifact: Artifact, record: dict) -> None:
    (root / artifact.record).parent.mkdir(parents=True)
    (root / artifact.record).write_text(json.dumps(record))


def compare_accuracies(
    tmp_path: Path, tolerance: float | None, original: float, reproduced: float
) -> Comparison:
    root, worktree = tmp_path / "original", tmp_path / "reproduced"
    write_results(root, original, seconds=1.0)
    write_results(worktree, reproduced, seconds=2.0)
    return combine_comparisons(
        compare_artifact(artifact, worktree=worktree, root=root, tolerance=tolerance)
        for artifact in (SCORE, ADAPTER)
    )


def test_equal_bytes_are_reproduced_whatever_the_run_time(tmp_path):
    assert compare_accuracies(tmp_path, None, 0.5, 0.5) == Comparison(compared=2)


def test_on_a_cpu_every_difference_counts(tmp_path):
    score, history = compare_accuracies(tmp_path, None, 0.5, 0.5001).differences
    assert score == f"{SCORE.path}: tasks.a-strict.accuracy: original 0.5, reproduced 0.5001"
    assert history.startswith(
        f"{ADAPTER.path}/history.jsonl: 1 of 1 rows differ; row 0: loss: original 0.5, reproduced"
    )


@pytest.mark.parametrize(("reproduced", "count"), [(0.5 + TOLERANCE / 2, 0), (0.5 + 2 * TOLERANCE, 1)])
def test_on_a_gpu_accuracies_count_beyond_the_tolerance_and_the_rest_is_a_note(tmp_path, reproduced, count):
    comparison = compare_accuracies(tmp_path, TOLERANCE, 0.5, reproduced)
    assert len(comparison.differences) == count
    assert len(comparison.notes) == 2 - count
    assert any("history.jsonl" in note for note in comparison.notes)


def test_a_missing_original_is_replaced_by_its_recorded_checksum(tmp_path):
    write_results(tmp_path / "reproduced", 0.5)
    write_record(tmp_path, SCORE, provenance.seal_record({"files": {SCORE.path.name: "0" * 64}}))
    comparison = compare_artifact(SCORE, worktree=tmp_path / "reproduced", root=tmp_path, tolerance=None)
    assert comparison.differences == (f"{SCORE.path}: its checksum differs from the recorded one",)


def test_a_file_that_was_not_pulled_is_replaced_by_its_recorded_checksum(tmp_path):
    root, worktree = tmp_path / "original", tmp_path / "reproduced"
    for folder in (root, worktree):
        write_results(folder, 0.5)
    write_record(root, ADAPTER, {"files": provenance.file_checksums("train", root / ADAPTER.path)})
    (root / ADAPTER.path / "history.jsonl").unlink()
    assert compare_artifact(ADAPTER, worktree=worktree, root=root, tolerance=None) == Comparison(compared=1)
    (worktree / ADAPTER.path / "history.jsonl").write_text("changed")
    comparison = compare_artifact(ADAPTER, worktree=worktree, root=root, tolerance=None)
    assert comparison.differences == (
        f"{ADAPTER.path}/history.jsonl: its checksum differs from the recorded one",
    )


def test_a_file_without_counterpart_is_a_difference(tmp_path):
    root, worktree = tmp_path / "original", tmp_path / "reproduced"
    for folder in (root, worktree):
        write_results(folder, 0.5)
    (root / ADAPTER.path / "a.json").write_text("{}")
    (worktree / ADAPTER.path / "b.json").write_text("{}")
    comparison = compare_artifact(ADAPTER, worktree=worktree, root=root, tolerance=None)
    assert comparison.differences == (
        f"{ADAPTER.path}/a.json: only in the original",
        f"{ADAPTER.path}/b.json: only in the reproduced result",
    )


class FakeSnakemake:
    """Replaces git and Snakemake: a worktree whose score has another accuracy, or a run that fails."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.config, self.log = root, {}, ""
        monkeypatch.setattr(reproduce_module, "run_git", lambda *_, folder: b"")
        monkeypatch.setattr(reproduce_module.subprocess, "run", self.run)

    def run(self, command: list[str], *, cwd: Path, stdout: TextIO, **_: object) -> SimpleNamespace:
        settings = command[command.index("--config") + 1 : command.index("--")]
        self.config = dict(setting.split("=") for setting in settings)
        stdout.write(self.log)
        if not self.log:
            write_results(cwd, 0.51)
        return SimpleNamespace(returncode=1 if self.log else 0)

    def reproduce(
        self,
        capsys: pytest.CaptureFixture[str],
        options: ReproduceOptions | None = None,
        *,
        target: Artifact = SCORE,
    ) -> str:
        request, worktree = (
            ReproduceRequest(SimpleNamespace(name="small", seed_count=None), (target,)),
            self.root / "worktree",
        )
        worktree.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reproduce_module, "_worktree_at", lambda *_: nullcontext(worktree))
            print_reproduce_outcome(reproduce(request, options, root=self.root))
        return capsys.readouterr().out


@pytest.fixture
def gpu_result(tmp_path, monkeypatch) -> FakeSnakemake:
    write_results(tmp_path, 0.5)
    run = {"device": "NVIDIA H100", "packages": {}}
    code = {"commit": "c0", "diff": None, "diff_sha256": None}
    files = provenance.file_checksums("score", tmp_path / SCORE.path)
    record = provenance.seal_record({"files": files, "run": run, "code": code, "study": "small"})
    write_record(tmp_path, SCORE, record)
    return FakeSnakemake(tmp_path, monkeypatch)


def write_original(root: Path, artifact: Artifact, run: dict) -> None:
    """Write what the reproduced run writes too, and its record."""
    write_results(root, 0.51)
    code = {"commit": "c0", "diff": None, "diff_sha256": None}
    files = provenance.file_checksums(artifact.stage, root / ADAPTER.path)
    content = {"files": files, "run": {**run, "packages": {}}, "code": code, "study": "small"}
    write_record(root, artifact, provenance.seal_record(content))


@pytest.mark.parametrize(("has_kernels", "setting", "notes"), [(True, "True", 0), (False, None, 1)])
def test_a_portable_result_is_reproduced_on_every_processor(
    tmp_path, monkeypatch, capsys, this_processor, has_kernels, setting, notes
):
    this_processor(has_kernels)
    write_original(tmp_path, ADAPTER, {**OTHER_RUN, "machine": {"portable": True}})
    snakemake = FakeSnakemake(tmp_path, monkeypatch)
    output = snakemake.reproduce(capsys, target=ADAPTER)
    assert snakemake.config.get("portable") == setting
    assert output.count("with portable=true") == notes
    assert output.count("\n") == 1 + notes
    assert output.endswith(": reproduced\n")


def test_the_processor_of_a_base_that_is_copied_is_not_named(tmp_path, monkeypatch, capsys, this_processor):
    this_processor(True)
    adapter = Artifact("train", "tiny/lora/set/seed0/", {"seed": 0}, {"base": BASE})
    monkeypatch.setattr(sys.modules[__name__], "ADAPTER", adapter)
    write_original(tmp_path, adapter, {"device": "cpu", "processor": "this, avx2"})
    write_record(tmp_path, BASE, {"run": OTHER_RUN})
    monkeypatch.setattr(reproduce_module, "_copy_inputs", lambda *_: None)
    snakemake = FakeSnakemake(tmp_path, monkeypatch)
    output = snakemake.reproduce(capsys, ReproduceOptions(from_inputs=True), target=adapter)
    assert output == "compared 1 files and metrics: reproduced\n"


@pytest.mark.parametrize("device", ["", "cpu"])
def test_the_output_says_that_only_accuracies_of_a_gpu_result_are_compared(gpu_result, device, capsys):
    output = gpu_result.reproduce(capsys, ReproduceOptions(device=device))
    assert gpu_result.config["device"] == (device or "cuda")
    assert "accuracy: original 0.5, reproduced 0.51 (on a GPU only accuracies are compared)" in output
    assert output.endswith("compared 1 files and metrics: reproduced, accuracies to within 0.02\n")


def test_a_gpu_result_on_a_machine_without_gpu_fails_with_both_ways_to_continue(gpu_result, capsys):
    gpu_result.log = "Job 4\nerror: device=cuda: torch finds no usable GPU on this machine; use ...\nLog\n"
    with pytest.raises(
        UserError, match="this machine has none: use one with a GPU, or add --device cpu"
    ) as raised:
        gpu_result.reproduce(capsys)
    assert "\n" not in str(raised.value)


def test_a_failed_run_is_reported_with_the_error_line_of_its_job(gpu_result, capsys):
    gpu_result.log = "Job 4\nerror: params/study: no 'small'\nLog\n"
    with pytest.raises(UserError, match=r"failed \(params/study: no 'small'\); see .*reproduce.log"):
        gpu_result.reproduce(capsys, ReproduceOptions(device="cpu"))


def test_a_metric_other_than_accuracy_points_to_the_accuracy_of_the_same_answers(tmp_path, monkeypatch):
    (tmp_path / "metrics.json").write_text('{"likelihood ece": {"tiny": {"lora": {"world-arc": 0.1}}}}')
    study = SimpleNamespace(
        named=list, report=SimpleNamespace(path=tmp_path / "manifest-abc.json"), name="small"
    )
    monkeypatch.setattr(reproduce_request, "load_study", lambda name, seeds: study)
    with pytest.raises(UserError, match="is not an accuracy; reproduce 'likelihood/tiny/lora/world-arc'"):
        find_request("likelihood ece/tiny/lora/world-arc", None)
