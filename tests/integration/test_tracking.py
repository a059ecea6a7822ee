"""MLflow has one run per fingerprint, whatever happens; parallel writers on a missing database lose nothing."""

import json
import multiprocessing
import shutil
import socket
import subprocess
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from pipeline.core.errors import UserError
from pipeline.results.mlflow import client, lifecycle, server, store
from pipeline.results.mlflow.view import VIEW_TAG
from tests.finished_run import STUDY, FinishedRun, make_run


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def open_client() -> MlflowClient:
    return MlflowClient(store.default_store())


def recorded_runs(kind="run") -> list:
    experiment = open_client().get_experiment_by_name("study")
    return list(open_client().search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def edit_tasks(run: FinishedRun, edit) -> None:
    content = json.loads(run.files.scores.read_text())
    edit(content["tasks"])
    run.files.scores.write_text(json.dumps(content))


def test_a_run_has_params_metrics_tags_datasets_and_artifacts():
    run_id = make_run("aaa").track()
    run = open_client().get_run(run_id)
    assert run.info.run_name == "tiny/lora/aaa"
    assert run.data.params == {
        "method.r": "8",
        "method.target_modules": '["q_proj"]',
        "method.rank_pattern": '{"^model.*[01]": 4}',
        "training.learning_rate": "0.0003",
    }
    assert json.loads(Path(open_client().download_artifacts(run_id, "params.json")).read_text())["seed"] == 0
    assert run.data.metrics["accuracy/svamp-strict"] == 0.5
    assert run.data.metrics["accuracy_low/svamp-strict"] == 0.4
    assert run.data.metrics["average/arithmetic-strict"] == 0.5
    assert run.data.metrics["seconds"] == 3.5
    assert run.data.metrics["trainable_parameters"] == 10
    assert run.data.tags["fingerprint"] == "aaa"
    # versions are in run.json, an artifact
    assert not [key for key in run.data.tags if "torch" in key]
    assert [use.dataset.name for use in run.inputs.dataset_inputs] == ["svamp"]
    assert [entry.path for entry in open_client().list_artifacts(run_id)] == ["adapters", "params.json"]
    assert losses(run_id) == [(step, 2.0 / step) for step in range(1, 6)]


def test_the_times_of_a_run_are_those_of_its_work():
    info = open_client().get_run(make_run("aaa").track()).info
    # 3.5 s that ended at 10:01:00
    assert info.end_time == 1769853660000
    assert info.start_time == info.end_time - 3500


def test_a_view_shows_the_averages_and_sorts_by_the_first():
    make_run("aaa").track()
    experiment = open_client().get_experiment_by_name("study")
    state = json.loads(json.loads(experiment.tags[VIEW_TAG])["state"])
    assert state["orderByKey"] == "metrics.`average/arithmetic-strict`"
    assert "tags.`method`" in state["selectedColumns"]
    assert experiment.tags["mlflow.note.content"] == "A study of two adapters"
    address = server.find_address("study")
    assert address.endswith(
        f"/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=study"
    )


def make_report() -> Path:
    folder = Path("reports/study")
    for part in ("answers", "tables", "figures"):
        (folder / part).mkdir(parents=True)
        (folder / part / "file.csv").write_text("1")
    (folder / "index.html").write_text("<h1>Report</h1>")
    (folder / "metrics.json").write_text("{}")
    return folder


def test_the_report_is_in_a_parent_run_and_marks_the_runs_that_it_uses():
    used, unused = make_run("aaa").track(), make_run("bbb").track()
    assert {run.data.tags["in_report"] for run in recorded_runs()} == {"pending"}
    parent = client.write_report(STUDY, make_report(), fingerprints={"aaa"})
    assert [run.info.run_id for run in recorded_runs("study")] == [parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in recorded_runs()} == {parent}
    assert open_client().get_run(used).data.tags["in_report"] == "yes"
    assert open_client().get_run(unused).data.tags["in_report"] == "no"
    names = {entry.path for entry in open_client().list_artifacts(parent, "report")}
    parts = ("index.html", "metrics.json", "answers", "tables", "figures")
    assert names == {f"report/{part}" for part in parts}


def test_an_experiment_deleted_in_the_interface_is_restored():
    make_run("aaa").track()
    open_client().delete_experiment(open_client().get_experiment_by_name("study").experiment_id)
    make_run("bbb").track()
    assert {run.data.tags["fingerprint"] for run in recorded_runs()} == {"aaa", "bbb"}


@pytest.mark.parametrize("change", ["set_experiment_tag", "restore_experiment", "delete_tag"])
def test_a_change_that_another_writer_made_first_is_no_error(change, monkeypatch):
    """A server with several workers refuses the slower of two equal requests."""
    finished = make_run("aaa")
    finished.track()
    experiment_id = open_client().get_experiment_by_name("study").experiment_id
    [run] = recorded_runs()
    open_client().set_tag(run.info.run_id, lifecycle.LIVE_TAG, "yes")
    open_client().delete_experiment_tag(experiment_id, store.NOTE_TAG)
    open_client().delete_experiment(experiment_id)
    original = getattr(MlflowClient, change)
    late = []

    def lose_the_race(self, *arguments):
        original(self, *arguments)
        if not late:
            late.append(arguments)
            raise MlflowException("duplicate key", RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr(MlflowClient, change, lose_the_race)
    finished.track()
    assert late
    experiment = open_client().get_experiment(experiment_id)
    assert (experiment.lifecycle_stage, experiment.tags[store.NOTE_TAG]) == ("active", STUDY.note)
    [run] = recorded_runs()
    assert lifecycle.LIVE_TAG not in run.data.tags


@pytest.mark.parametrize("change", ["set_experiment_tag", "restore_experiment", "delete_tag"])
def test_a_change_that_the_store_refuses_is_an_error(change, monkeypatch):
    finished = make_run("aaa")
    finished.track()
    experiment_id = open_client().get_experiment_by_name("study").experiment_id
    [run] = recorded_runs()
    open_client().set_tag(run.info.run_id, lifecycle.LIVE_TAG, "yes")
    open_client().delete_experiment_tag(experiment_id, store.NOTE_TAG)
    open_client().delete_experiment(experiment_id)

    def refuse(self, *arguments):
        raise MlflowException("disk is full")

    monkeypatch.setattr(MlflowClient, change, refuse)
    with pytest.raises(store.TrackingError, match="disk is full"):
        finished.track()


def test_artifacts_are_still_there_after_the_checkout_was_moved(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    monkeypatch.chdir(old)
    run_id = make_run("aaa").track()
    # a copy may not write into the checkout that it was copied from either
    shutil.copytree(old, new)
    monkeypatch.chdir(new)
    second = make_run("bbb").track()
    shutil.rmtree(old)
    assert open_client().list_artifacts(run_id)
    assert open_client().list_artifacts(second)


def test_a_server_that_never_responds_costs_seconds(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(
            store.TrackingError, match=r"^no response from http://127.0.0.1:\d+ \(MLFLOW_TRACKING_URI\)$"
        ):
            make_run("aaa").track()
    assert time.monotonic() - started < 60


def test_the_interface_says_why_a_store_cannot_be_read(monkeypatch):
    Path("mlflow.db").write_text("no database")
    with pytest.raises(UserError, match="the database is damaged"):
        server.serve_runs("study")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match=f"no response from http://127.0.0.1:{port}"):
        server.serve_runs("study")


def test_a_proxy_does_not_hide_the_server_of_this_machine(monkeypatch):
    monkeypatch.setattr(server, "STARTUP_TIMEOUT_S", 1)
    # nothing listens on port 9
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as listener:
        Path("health").write_text("OK")
        Thread(target=listener.serve_forever).start()
        process = subprocess.Popen(["sleep", "60"])
        try:
            server.wait_for_server(process, listener.server_port)
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
            listener.shutdown()


def test_an_empty_address_is_the_database_of_the_project(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    make_run("aaa").track()
    assert [path.name for path in Path("mlartifacts").iterdir()]


def test_only_artifacts_on_this_machine_move_with_the_checkout():
    make_run("aaa").track()
    bucket = "s3://bucket/mlartifacts"
    open_client().create_experiment("own", bucket)
    make_run("bbb").track()
    assert open_client().get_experiment_by_name("own").artifact_location == bucket


def test_a_rerun_updates_the_scores_of_the_same_run():
    run = make_run("aaa")
    first = run.track()
    edit_tasks(
        run,
        lambda tasks: tasks["svamp-strict"]["items"].__setitem__(
            slice(50, 90), [{"id": "50", "correct": True}] * 40
        ),
    )
    assert run.track() == first
    assert [run.data.metrics["accuracy/svamp-strict"] for run in recorded_runs()] == [0.9]


def test_calibration_of_likelihood_protocols_is_recorded():
    run = make_run("aaa")
    items = [{"id": "0", "correct": True, "gold": "A", "parsed": "A"}]
    task = {"low": 0.0, "high": 1.0, "unparsable": 0, "n": 1, "headline": "raw", "items": items}
    task |= {"answer_form": "letter", "majority": 1.0}
    edit_tasks(run, lambda tasks: tasks.__setitem__("aqua-likelihood", task))
    run.files.averages["arithmetic-likelihood"] = ["aqua-likelihood"]
    run.files.answers.mkdir(parents=True)
    answer = {"choices": ["A", "B"], "loglikelihoods": [-1.0, -1.0]}
    (run.files.answers / "aqua-likelihood.jsonl").write_text(json.dumps(answer))
    run.track()
    (recorded,) = recorded_runs()
    assert recorded.data.metrics["average/arithmetic-likelihood"] == 1.0
    assert recorded.data.metrics["average/arithmetic-strict"] == 0.5
    assert recorded.data.metrics["ece/aqua-likelihood"] == 0.5
    assert recorded.data.metrics["average_ece/arithmetic-likelihood"] == 0.5
    assert recorded.data.metrics["brier/aqua-likelihood"] == 0.25
    assert recorded.data.metrics["coverage80/aqua-likelihood"] == 1.0
    # the tasks of the other protocol have no such error
    assert "average_ece/arithmetic-strict" not in recorded.data.metrics
    assert "ece/svamp-strict" not in recorded.data.metrics


def test_a_run_left_running_is_marked_killed_and_replaced():
    experiment = open_client().create_experiment("study")
    running = open_client().create_run(experiment, tags={"fingerprint": "aaa"}).info.run_id
    finished = make_run("aaa").track()
    assert open_client().get_run(running).info.status == "KILLED"
    assert open_client().get_run(finished).info.status == "FINISHED"


def start_live_run(run, monkeypatch, interval_s=0):
    monkeypatch.setattr(client, "LIVE_INTERVAL_S", interval_s)
    return client.LiveRun(run.header)


def losses(run_id):
    history = open_client().get_metric_history(run_id, "loss")
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
    assert lifecycle.LIVE_TAG not in run.data.tags
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


def test_a_training_whose_run_another_writer_finished_leaves_that_run(monkeypatch):
    """Another person trains the same adapter, and is faster."""
    finished = make_run("aaa")
    live_run = start_live_run(finished, monkeypatch)
    live_run.log_row({"step": 1, "loss": 2.0})
    first = finished.track()
    live_run.log_row({"step": 2, "loss": 1.0})
    live_run.close()
    assert [run.info.run_id for run in recorded_runs() if run.info.status == "FINISHED"] == [first]
    assert finished.track() == first
    assert losses(first) == [(step, 2.0 / step) for step in range(1, 6)]
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
    with pytest.raises(store.TrackingError) as raised:
        make_run("aaa").track()
    assert "\n" not in str(raised.value)


def test_four_writers_on_a_missing_database_leave_four_complete_runs():
    finished = [make_run(f"run{number}") for number in range(4)]
    workers = [multiprocessing.get_context("spawn").Process(target=run.track) for run in finished]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    runs = recorded_runs()
    assert sorted(run.data.tags["fingerprint"] for run in runs) == sorted(
        f"run{number}" for number in range(4)
    )
    assert all(run.data.metrics["average/arithmetic-strict"] == 0.5 for run in runs)
    before = {run.info.run_id for run in runs}
    # writing them once more updates the same runs
    assert {run.track() for run in finished} == before
    assert {run.info.run_id for run in recorded_runs()} == before
