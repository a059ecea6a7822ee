"""The record of each result: its content, that every change is detected, and that a result can be reproduced from it."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.results import provenance
from pipeline.results.dvc.summary import ACCURACIES, SUMMARY
from pipeline.results.verify import verify
from pipeline.study.artifacts import artifact_path, fingerprint_in_path
from pipeline.study.stages import STAGES

RUN = "small-llama/lora/world-math/seed0"
FOLDERS = ("data/raw", "data/prompts", "results", "reports")


def list_files(root: Path) -> list[Path]:
    """Return the files of results and records, relative to the checkout.

    Without the views of the report in git, which have no record.
    """
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()]
    relative = [path.relative_to(root) for path in paths if not path.name.startswith(".snakemake")]
    return sorted(path for path in relative if path != ACCURACIES and not path.is_relative_to(SUMMARY))


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def read_record_of(root: Path, stage: str, run: str, *, newest: bool = False) -> tuple[Path, dict]:
    """Return the record of a run's artifact and its content; the newest, or the only one."""
    paths = sorted((root / "results/records" / stage / run).iterdir(), key=lambda path: path.stat().st_mtime)
    assert newest or len(paths) == 1
    path = paths[-1]
    return path, json.loads(path.read_text())


def test_untouched_results_match_their_records(finished):
    outcome = verify(root=finished.folder)
    assert (outcome.faults, outcome.unrecorded, outcome.unchecked_links) == ((), (), 0)
    stages = {stage for stage in STAGES for _ in finished.folder.glob(f"results/records/{stage}/*")}
    # no training set of the study has a teacher, and no method is tuned
    assert stages == set(STAGES) - {"combine", "distill", "choose"}
    assert outcome.artifacts == len([path for path in list_files(finished.folder) if "records" in path.parts])


def test_a_flipped_bit_in_any_file_is_one_fault_with_its_path(checkout):
    for path in list_files(checkout.folder):
        before = (checkout.folder / path).read_bytes()
        flip_bit(checkout.folder / path)
        outcome = verify(root=checkout.folder)
        assert len(outcome.faults) == 1, (path, outcome.faults)
        assert str(path) in outcome.faults[0]
        (checkout.folder / path).write_bytes(before)
    assert not verify(root=checkout.folder).faults


def test_missing_and_added_files_are_reported(checkout):
    adapter = next((checkout.folder / "results/adapters" / RUN).iterdir())
    (adapter / "extra.txt").write_text("new")
    assert "extra.txt: not in the record; it was added later" in "\n".join(
        verify(root=checkout.folder).faults
    )
    (adapter / "extra.txt").rename(checkout.folder / "elsewhere")
    (adapter / "history.jsonl").unlink()
    assert "history.jsonl: missing" in "\n".join(verify(root=checkout.folder).faults)
    shutil.rmtree(adapter)
    assert verify(root=checkout.folder).faults == (
        f"{adapter.relative_to(checkout.folder)}: missing, but it has a record; get it with dvc pull or run snakemake",
    )


def test_a_record_rewritten_with_its_result_is_detected_by_what_was_produced_from_it(checkout):
    adapter = next((checkout.folder / "results/adapters" / RUN).iterdir())
    flip_bit(adapter / "adapter_model.safetensors")
    path, record = read_record_of(checkout.folder, "train", RUN)
    record["files"] = provenance.file_checksums("train", adapter)
    path.write_text(json.dumps(provenance.seal_record(record)))
    (fault,) = verify(root=checkout.folder).faults
    assert fault.startswith(f"results/answers/{RUN}/")
    assert f"produced from other content of results/adapters/{RUN}/{adapter.name}" in fault


def test_a_record_of_other_params_does_not_fit_the_path(checkout):
    path, record = read_record_of(checkout.folder, "train", RUN)
    record["artifact"]["params"]["seed"] = 1
    path.write_text(json.dumps(provenance.seal_record(record)))
    (fault,) = verify(root=checkout.folder).faults
    assert "do not have the fingerprint" in fault


def test_a_result_without_record_fails_until_it_is_adopted(checkout):
    record_path, _ = read_record_of(checkout.folder, "score", RUN)
    path = artifact_path("score", record_path.relative_to(checkout.folder))
    record_path.unlink()
    output = checkout.run("python", "-m", "pipeline", "verify", str(path), ok=False)
    assert f"{path}: no record, so it cannot be checked" in output
    checkout.run("python", "-m", "pipeline", "verify", "--adopt")
    flip_bit(checkout.folder / path)
    output = checkout.run("python", "-m", "pipeline", "verify", str(path), ok=False)
    assert f"{path}: changed (sha256 " in output


def test_a_record_says_what_produced_the_result(finished):
    commit = finished.run("git", "rev-parse", "HEAD").strip()
    _, record = read_record_of(finished.folder, "train", RUN)
    assert record["command"].startswith(
        f"python -m pipeline train {record['artifact']['fingerprint']} --study small"
    )
    assert record["artifact"]["params"]["method"]["r"] == 32
    assert record["code"] == {"commit": commit, "diff": None, "diff_sha256": None}
    assert record["seed"] == 0
    assert record["run"]["threads"] == 1
    assert {"started", "seconds", "peak_memory_gib", "device", "host", "platform", "packages"} <= set(
        record["run"]
    )
    for name, source in record["inputs"].items():
        path = Path(source["path"])
        assert fingerprint_in_path(path) == record["artifact"]["inputs"][name]
        stage = provenance.find_stage(path)
        assert source["sum"] == provenance.combined_checksum(
            provenance.file_checksums(stage, finished.folder / path)
        )


def test_status_plans_what_snakemake_plans_and_prints_the_key_and_file(checkout):
    def read_status() -> dict:
        return json.loads(checkout.run("python", "-m", "pipeline", "status", "--json"))

    def to_run() -> dict[str, list[str]]:
        planned: dict[str, list[str]] = {}
        for path in map(Path, read_status()["to_run"]):
            label = str(path.parent / path.stem[:-12]).rstrip("-")
            planned.setdefault(str(provenance.find_stage(path)), []).append(label)
        return {stage: sorted(labels) for stage, labels in planned.items()}

    assert read_status()["to_run"] == []
    assert read_status()["in_dvc_lock"] is True
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    checkout.edit("params/study/small.yaml", "learning_rate: 1.0e-2", "learning_rate: 2.0e-2")
    assert to_run() == checkout.planned()
    state = read_status()
    lora = [path for path in state["to_run"] if "/lora/" in path]
    report = [path for path in state["to_run"] if path.startswith("reports/")]
    assert state["causes"]["method.r: 32 -> 4 (params/methods/lora.yaml)"] == [*lora, *report]
    rate = "training.learning_rate: 0.01 -> 0.02 (params/study/small.yaml)"
    assert sorted(state["causes"][rate]) == sorted(state["to_run"])
    assert state["stages"]["train"]["last_s"] > 0
    assert state["stages"]["score"]["untimed"] == 0
    version = STAGES["score"].version
    checkout.edit("pipeline/study/stages.yaml", f"score: {{version: {version}", "score: {version: 999")
    checkout.run("git", "checkout", "--quiet", "params/methods/lora.yaml", "params/study/small.yaml")
    assert to_run() == checkout.planned()
    assert set(read_status()["causes"]) == {
        f"code of score: version {version} -> 999 (pipeline/study/stages.yaml)"
    }


def test_prune_lists_moves_and_frees_only_stale_results(checkout):
    def prune(*arguments: str) -> str:
        return checkout.run("python", "-m", "pipeline", "prune", *arguments)

    before = list_files(checkout.folder)
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    assert f"would be moved to the store: results/adapters/{RUN}" in prune("--dry-run")
    assert list_files(checkout.folder) == before
    assert f"moved to the store: results/adapters/{RUN}" in prune()
    stored = {path.parts[:3] for path in list_files(checkout.folder / ".store")}
    assert ("results", "records", "train") in stored
    assert "nothing was freed" in prune("--store")
    assert "to free: 3 of 3 results" in prune("--store", "--yes")
    assert [path for path in list_files(checkout.folder / ".store") if "report" not in path.parts] == []


def test_a_run_is_reproduced_from_nothing_byte_for_byte(checkout):
    output = checkout.run("python", "-m", "pipeline", "reproduce", RUN)
    assert "compared 18 files and metrics: reproduced" in output
    assert checkout.run("git", "worktree", "list").count("\n") == 1


def test_a_metric_is_reproduced_and_a_changed_one_is_reported(checkout):
    metric = "strict/small-llama/series/world-addsub"
    metrics = checkout.folder / "reports/small/metrics.json"
    value = json.loads(metrics.read_text())["strict"]["small-llama"]["series"]["world-addsub"]
    metrics.write_text(metrics.read_text().replace('"world-addsub":', '"world-addsub": 0.123, "was":'))
    answers = next((checkout.folder / "results/answers/small-llama/series/world-math/seed0").iterdir())
    rows = (answers / "world-addsub-strict.jsonl").read_text()
    (answers / "world-addsub-strict.jsonl").write_text(rows.replace('"tokens": ', '"tokens": 1', 1))
    output = checkout.run("python", "-m", "pipeline", "reproduce", metric, "--from-inputs", ok=False)
    assert f"differs: {metric}: 0.123 in the report, {value:.6f} reproduced" in output
    assert "world-addsub-strict.jsonl: 1 of 6 rows differ; row 0: tokens: " in output
    assert "the original was changed later" in output
    assert "2 differ" in output


@pytest.mark.exhaustive
@pytest.mark.exhaustive
def test_seeds_of_two_commits_are_reproduced_in_a_worktree_each(checkout, tmp_path):
    checkout.edit("params/study/small.yaml", "seeds: [0]", "seeds: [0, 1]")
    checkout.run("git", "commit", "--quiet", "--all", "--message", "a further seed")
    checkout.snakemake()
    metric, worktree = "strict/small-llama/lora/world-addsub", tmp_path / "reproduced"
    output = checkout.run(
        "python", "-m", "pipeline", "reproduce", metric, "--from-inputs", "--worktree", str(worktree)
    )
    assert ": reproduced" in output
    commits = [
        checkout.run("git", "-C", str(tmp_path / f"reproduced-{n}"), "rev-parse", "HEAD").strip()
        for n in (1, 2)
    ]
    assert commits == checkout.run("git", "rev-parse", "HEAD~1", "HEAD").split()


def test_uncommitted_changes_are_applied_and_unrecorded_ones_refused(checkout):
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    (checkout.folder / "params/notes.txt").write_text("a new file\n")
    output = checkout.run("snakemake", "--cores", "2", "--until", "train")
    assert "dvc.lock does not match the results on disk; record them: python -m pipeline commit" in output
    _, record = read_record_of(checkout.folder, "train", RUN, newest=True)
    assert "+r: 4" in record["code"]["diff"]
    assert "+a new file" in record["code"]["diff"]
    output = checkout.run("python", "-m", "pipeline", "reproduce", record["path"], "--from-inputs")
    assert "compared 4 files and metrics: reproduced" in output
    path, _ = read_record_of(checkout.folder, "train", RUN, newest=True)
    record["code"]["diff"] = None
    path.write_text(json.dumps(provenance.seal_record(record)))
    output = checkout.run("python", "-m", "pipeline", "reproduce", record["path"], ok=False)
    assert "changes that are not recorded" in output
