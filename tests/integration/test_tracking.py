"""MLflow: one run per fingerprint, whatever happens; parallel writers on an absent database lose nothing."""

import json
import multiprocessing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.results.mlflow import client


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write_run(name: str) -> dict:
    adapter = Path("results/adapters", name)
    adapter.mkdir(parents=True)
    (adapter / "history.jsonl").write_text(
        "".join(json.dumps({"step": s, "loss": 2.0 / s}) + "\n" for s in range(1, 6))
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
    return {
        "experiment": "study",
        "run_name": f"tiny-lora-{name}",
        "fingerprint": name,
        "params": {"method": {"r": 8, "target_modules": ["q_proj"]}, "training": {"learning_rate": 3e-4}},
        "tags": {"model": "tiny", "method": "lora", "seed": "0"},
        "history": adapter / "history.jsonl",
        "timing": None,
        "scores": scores,
        "answers": Path("results/answers", name),
        "run_info": adapter / "run.json",
        "datasets": [{"name": "svamp", "digest": "abc", "source": "data/x", "context": "evaluation"}],
        "artifacts": [adapter],
    }


def runs() -> list:
    store = MlflowClient(client.default_store())
    experiment = store.get_experiment_by_name("study")
    return list(store.search_runs([experiment.experiment_id]))


def test_a_run_holds_params_metrics_tags_datasets_and_artifacts():
    run_id = client.track(**write_run("aaa"))
    run = MlflowClient(client.default_store()).get_run(run_id)
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
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["svamp"]
    assert [one.path for one in MlflowClient(client.default_store()).list_artifacts(run_id)] == ["adapters"]
    assert [one.value for one in MlflowClient(client.default_store()).get_metric_history(run_id, "loss")] == [
        2.0 / s for s in range(1, 6)
    ]


def test_a_repeat_keeps_one_run_and_takes_new_scores():
    given = write_run("aaa")
    first = client.track(**given)
    score_file = json.loads(given["scores"].read_text())
    score_file["tasks"]["svamp-strict"]["items"][50:90] = [{"correct": True}] * 40
    given["scores"].write_text(json.dumps(score_file))
    assert client.track(**given) == first
    assert [run.data.metrics["accuracy/svamp-strict"] for run in runs()] == [0.9]


def test_calibration_of_likelihood_protocols_is_recorded():
    arguments = write_run("aaa")
    task = {"low": 0.0, "high": 1.0, "unparsable": 0, "n": 1, "headline": "raw", "items": [{"correct": True}]}
    score_file = json.loads(arguments["scores"].read_text())
    score_file["tasks"]["aqua-likelihood"] = task
    arguments["scores"].write_text(json.dumps(score_file))
    arguments["answers"].mkdir(parents=True)
    row = {"choices": ["A", "B"], "loglikelihoods": [-1.0, -1.0]}
    (arguments["answers"] / "aqua-likelihood.jsonl").write_text(json.dumps(row))
    client.track(**arguments)
    (run,) = runs()
    assert run.data.metrics["accuracy/average"] == 0.75
    assert run.data.metrics["ece/aqua-likelihood"] == 0.5
    assert run.data.metrics["ece/average"] == 0.5
    assert "ece/svamp-strict" not in run.data.metrics


def test_a_run_left_running_is_marked_killed_and_replaced():
    given = write_run("aaa")
    store = MlflowClient(client.default_store())
    left = store.create_run(store.create_experiment("study"), tags={"fingerprint": "aaa"}).info.run_id
    new = client.track(**given)
    assert store.get_run(left).info.status == "KILLED"
    assert store.get_run(new).info.status == "FINISHED"


def live(given, monkeypatch, seconds=0):
    monkeypatch.setattr(client, "LIVE_SECONDS", seconds)
    names = ("experiment", "run_name", "fingerprint", "params", "tags")
    first, second, *rest = (given[name] for name in names)
    return client.Live(first, second, **dict(zip(names[2:], rest, strict=True)))


def losses(run_id):
    history = MlflowClient(client.default_store()).get_metric_history(run_id, "loss")
    return [(one.step, one.value) for one in sorted(history, key=lambda one: one.step)]


def test_a_long_training_is_shown_while_it_goes_on_and_completed_once(monkeypatch):
    given = write_run("aaa")
    shown = live(given, monkeypatch)
    for step in (1, 2, 3):
        shown({"step": step, "loss": 2.0 / step})
    (run,) = runs()
    assert run.info.status == "RUNNING"
    assert run.data.params["method.r"] == "8"
    assert losses(run.info.run_id) == [(step, 2.0 / step) for step in (1, 2, 3)]
    shown.close()
    assert client.track(**given) == run.info.run_id
    assert losses(run.info.run_id) == [(step, 2.0 / step) for step in range(1, 6)]
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert client.LIVE not in run.data.tags
    assert client.track(**given) == run.info.run_id
    assert len(losses(run.info.run_id)) == 5
    assert len(run.inputs.dataset_inputs) == 1


def test_a_short_training_opens_no_run(monkeypatch):
    shown = live(write_run("aaa"), monkeypatch, seconds=60)
    shown({"step": 1, "loss": 2.0})
    shown.close()
    assert not Path("mlflow.db").exists()


def test_a_killed_training_that_goes_on_leaves_one_finished_run(monkeypatch):
    given = write_run("aaa")
    live(given, monkeypatch)({"step": 1, "loss": 2.0})
    shown = live(given, monkeypatch)
    shown({"step": 3, "loss": 2.0 / 3})  # from its checkpoint on
    shown.close()
    assert losses(client.track(**given)) == [(step, 2.0 / step) for step in range(1, 6)]
    assert sorted(run.info.status for run in runs()) == ["FINISHED", "KILLED"]


def test_a_store_out_of_reach_never_stops_a_training(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such-folder/mlflow.db")
    shown = live(write_run("aaa"), monkeypatch)
    for step in (1, 2, 3):
        shown({"step": step, "loss": 1.0})
    shown.close()
    assert capsys.readouterr().err.count("warning: no live curves in MLflow") == 1


def test_a_store_out_of_reach_is_one_line_is_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such-folder/mlflow.db")
    with pytest.raises(client.TrackingError) as caught:
        client.track(**write_run("aaa"))
    assert "\n" not in str(caught.value)


def test_eight_writers_on_an_absent_database_leave_eight_whole_runs():
    given = [write_run(f"run{number}") for number in range(8)]
    workers = [multiprocessing.get_context("spawn").Process(target=client.track, kwargs=one) for one in given]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert sorted(run.data.tags["fingerprint"] for run in runs()) == sorted(
        f"run{number}" for number in range(8)
    )
    assert all(run.data.metrics["accuracy/average"] == 0.5 for run in runs())
    before = {run.info.run_id for run in runs()}
    assert {client.track(**one) for one in given} == before  # a repeat: one active run a fingerprint
    assert {run.info.run_id for run in runs()} == before
