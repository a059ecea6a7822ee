"""MLflow has one run per fingerprint, whatever happens; parallel writers on a missing database lose nothing."""

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.results.mlflow import client
from pipeline.results.mlflow.entry import DatasetUse, RunFiles, RunHeader


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@dataclass(frozen=True)
class FinishedRun:
    """A run as it is on disk."""

    header: RunHeader
    files: RunFiles

    def track(self) -> str:
        """Record it; return the id of the MLflow run."""
        dataset = DatasetUse(name="svamp", digest="abc", source="data/x", context="evaluation")
        return client.write_run(self.header, self.files, [dataset])


def make_run(name: str) -> FinishedRun:
    adapter = Path("results/adapters", name)
    adapter.mkdir(parents=True)
    (adapter / "history.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": 2.0 / step}) + "\n" for step in range(1, 6))
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    info = {
        "seconds": 3.5,
        "peak_memory_gib": 0.5,
        "trainable_parameters": 10,
        "device": "cpu",
        "host": "h",
        "packages": {"torch": "2"},
    }
    (adapter / "run.json").write_text(json.dumps(info))
    items = [{"correct": number < 50} for number in range(100)]
    task = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "unparsable": 2, "n": 100, "items": items}
    scores = Path(f"scores-{name}.json")
    scores.write_text(json.dumps({"tasks": {"svamp-strict": task}}))
    params = {"method": {"r": 8, "target_modules": ["q_proj"]}, "training": {"learning_rate": 3e-4}}
    tags = {"model": "tiny", "method": "lora", "seed": "0"}
    files = RunFiles(
        run_info=adapter / "run.json",
        history=adapter / "history.jsonl",
        scores=scores,
        answers=Path("results/answers", name),
        attachments=(adapter,),
    )
    return FinishedRun(RunHeader("study", f"tiny-lora-{name}", name, params, tags), files)


def recorded_runs() -> list:
    store = MlflowClient(client.default_store())
    experiment = store.get_experiment_by_name("study")
    return list(store.search_runs([experiment.experiment_id]))


def edit_tasks(run: FinishedRun, edit) -> None:
    content = json.loads(run.files.scores.read_text())
    edit(content["tasks"])
    run.files.scores.write_text(json.dumps(content))


def test_a_run_has_params_metrics_tags_datasets_and_artifacts():
    run_id = make_run("aaa").track()
    store = MlflowClient(client.default_store())
    run = store.get_run(run_id)
    assert run.info.run_name == "tiny-lora-aaa"
    assert run.data.params == {
        "method.r": "8",
        "method.target_modules": '["q_proj"]',
        "training.learning_rate": "0.0003",
    }
    assert run.data.metrics["accuracy/svamp-strict"] == 0.5
    assert run.data.metrics["accuracy_low/svamp-strict"] == 0.4
    assert run.data.metrics["seconds"] == 3.5
    assert run.data.tags["fingerprint"] == "aaa"
    assert run.data.tags["package.torch"] == "2"
    assert [use.dataset.name for use in run.inputs.dataset_inputs] == ["svamp"]
    assert [entry.path for entry in store.list_artifacts(run_id)] == ["adapters"]
    assert losses(run_id) == [(step, 2.0 / step) for step in range(1, 6)]


def test_a_rerun_updates_the_scores_of_the_same_run():
    run = make_run("aaa")
    first = run.track()
    edit_tasks(
        run, lambda tasks: tasks["svamp-strict"]["items"].__setitem__(slice(50, 90), [{"correct": True}] * 40)
    )
    assert run.track() == first
    assert [run.data.metrics["accuracy/svamp-strict"] for run in recorded_runs()] == [0.9]


def test_calibration_of_likelihood_protocols_is_recorded():
    run = make_run("aaa")
    task = {"low": 0.0, "high": 1.0, "unparsable": 0, "n": 1, "headline": "raw", "items": [{"correct": True}]}
    edit_tasks(run, lambda tasks: tasks.__setitem__("aqua-likelihood", task))
    run.files.answers.mkdir(parents=True)
    answer = {"choices": ["A", "B"], "loglikelihoods": [-1.0, -1.0]}
    (run.files.answers / "aqua-likelihood.jsonl").write_text(json.dumps(answer))
    run.track()
    (recorded,) = recorded_runs()
    assert recorded.data.metrics["accuracy/average"] == 0.75
    assert recorded.data.metrics["ece/aqua-likelihood"] == 0.5
    assert recorded.data.metrics["ece/average"] == 0.5
    assert "ece/svamp-strict" not in recorded.data.metrics


def test_a_run_left_running_is_marked_killed_and_replaced():
    store = MlflowClient(client.default_store())
    running = store.create_run(store.create_experiment("study"), tags={"fingerprint": "aaa"}).info.run_id
    finished = make_run("aaa").track()
    assert store.get_run(running).info.status == "KILLED"
    assert store.get_run(finished).info.status == "FINISHED"


def start_live_run(run, monkeypatch, interval_s=0):
    monkeypatch.setattr(client, "LIVE_INTERVAL_S", interval_s)
    return client.LiveRun(run.header)


def losses(run_id):
    history = MlflowClient(client.default_store()).get_metric_history(run_id, "loss")
    return sorted((metric.step, metric.value) for metric in history)


def test_a_long_training_is_shown_while_it_runs_and_completed_once(monkeypatch):
    finished = make_run("aaa")
    live_run = start_live_run(finished, monkeypatch)
    for step in (1, 2, 3):
        live_run.log_row({"step": step, "loss": 2.0 / step})
    (run,) = recorded_runs()
    assert run.info.status == "RUNNING"
    assert run.data.params["method.r"] == "8"
    assert losses(run.info.run_id) == [(step, 2.0 / step) for step in (1, 2, 3)]
    live_run.close()
    assert finished.track() == run.info.run_id
    assert losses(run.info.run_id) == [(step, 2.0 / step) for step in range(1, 6)]
    (run,) = recorded_runs()
    assert run.info.status == "FINISHED"
    assert client.LIVE_TAG not in run.data.tags
    assert finished.track() == run.info.run_id
    assert len(losses(run.info.run_id)) == 5
    assert len(run.inputs.dataset_inputs) == 1


def test_a_short_training_opens_no_run(monkeypatch):
    live_run = start_live_run(make_run("aaa"), monkeypatch, interval_s=60)
    live_run.log_row({"step": 1, "loss": 2.0})
    live_run.close()
    assert not Path("mlflow.db").exists()


def test_a_resumed_training_leaves_one_finished_run(monkeypatch):
    finished = make_run("aaa")
    start_live_run(finished, monkeypatch).log_row({"step": 1, "loss": 2.0})
    resumed = start_live_run(finished, monkeypatch)
    # the step after its checkpoint
    resumed.log_row({"step": 3, "loss": 2.0 / 3})
    resumed.close()
    assert losses(finished.track()) == [(step, 2.0 / step) for step in range(1, 6)]
    assert sorted(run.info.status for run in recorded_runs()) == ["FINISHED", "KILLED"]


def test_a_store_out_of_reach_never_stops_a_training(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such-folder/mlflow.db")
    live_run = start_live_run(make_run("aaa"), monkeypatch)
    for step in (1, 2, 3):
        live_run.log_row({"step": step, "loss": 1.0})
    live_run.close()
    assert capsys.readouterr().err.count("warning: no live curves in MLflow") == 1


def test_a_store_out_of_reach_is_reported_in_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such-folder/mlflow.db")
    with pytest.raises(client.TrackingError) as raised:
        make_run("aaa").track()
    assert "\n" not in str(raised.value)


def test_eight_writers_on_a_missing_database_leave_eight_complete_runs():
    finished = [make_run(f"run{number}") for number in range(8)]
    workers = [multiprocessing.get_context("spawn").Process(target=run.track) for run in finished]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    runs = recorded_runs()
    assert sorted(run.data.tags["fingerprint"] for run in runs) == sorted(
        f"run{number}" for number in range(8)
    )
    assert all(run.data.metrics["accuracy/average"] == 0.5 for run in runs)
    before = {run.info.run_id for run in runs}
    # writing them once more updates the same runs
    assert {run.track() for run in finished} == before
    assert {run.info.run_id for run in recorded_runs()} == before
