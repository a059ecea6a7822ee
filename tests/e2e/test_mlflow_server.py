"""A study with the MLflow server on PostgreSQL: down at the start, and killed together with Slurm's jobs and nodes."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.io import read_json
from tests import loopback_mlflow, loopback_slurm
from tests.e2e.conftest import Checkout, copy_checkout, copy_project
from tests.e2e.test_slurm import (
    CONFIG,
    PROFILE,
    STEPS,
    WAIT_SECONDS,
    find_adapter,
    find_checkpoint,
    find_training,
    read_text_if_there,
    wait_for,
)
from tests.loopback_mlflow import ADMIN, PASSWORD

OBSTACLE = loopback_mlflow.find_obstacle()
SLURM_OBSTACLE = OBSTACLE or loopback_slurm.find_obstacle()

pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))]

BUCKET = "store"
# what a study is, without what says when and where it ran
RESULTS = ("data/**/*", "results/[!r]*/**/*", "reports/small/metrics.json", "reports/small/answers/*")
TIMED = ("run.json", "timing.jsonl")


class RecordingCheckout(Checkout):
    """A checkout that records on a server."""

    address = ""

    def environment(self) -> dict[str, str]:
        credentials = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        return {
            **super().environment(),
            **credentials,
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_EXPERIMENT_PREFIX": "lab",
            "no_proxy": "127.0.0.1",
        }


def record_on(checkout: Checkout, address: str) -> RecordingCheckout:
    recording = RecordingCheckout(checkout.folder)
    recording.address = address
    return recording


def find_recorded(server, monkeypatch) -> list:
    """Return the runs of the study on the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("lab/small")
    return list(client.search_runs([experiment.experiment_id]))


def find_finished(server, monkeypatch) -> list:
    """Return the runs of the study on the server that are recorded to their end, without the run that holds them."""
    try:
        recorded = find_recorded(server, monkeypatch)
    # the experiment is not there yet
    except AttributeError:
        return []
    return [run for run in recorded if run.info.status == "FINISHED" and run.data.tags.get("kind") != "study"]


def assert_recorded_once(server, monkeypatch, *, runs: int) -> None:
    """Check that each run of the study and its report is there once, and complete; only interrupted ones are there besides."""
    recorded = find_recorded(server, monkeypatch)
    finished = [run for run in recorded if run.info.status == "FINISHED"]
    assert {run.info.status for run in recorded} <= {"FINISHED", "KILLED"}
    names = [run.info.run_name for run in finished]
    assert len(names) == len(set(names)) == runs, names
    assert not [run for run in finished if "live" in run.data.tags]


def assert_no_password(folder: Path) -> None:
    leaks = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and PASSWORD.encode() in path.read_bytes()
    ]
    assert leaks == []


def test_a_study_without_its_server_is_finished_in_time_and_recorded_later(checkout, tmp_path, monkeypatch):
    port = loopback_mlflow.free_port()
    recording = record_on(checkout, f"http://127.0.0.1:{port}")
    for folder in ("results/scores", "reports/small"):
        shutil.rmtree(checkout.folder / folder)
    started = time.monotonic()
    output = recording.run("snakemake", "--cores", "2")
    seconds = time.monotonic() - started
    line = f"runs are not recorded in MLflow (no response from http://127.0.0.1:{port} (MLFLOW_TRACKING_URI)"
    assert line in output
    assert (checkout.folder / "reports/small/index.html").exists()
    # the wait for the server is seconds, so this is the time of the jobs
    assert seconds < 120
    with loopback_mlflow.running_server(tmp_path) as server:
        recording.address = server.address
        recording.run("python", "-m", "pipeline", "track")
        # the bare base, two adapters, the pretraining and the report
        assert_recorded_once(server, monkeypatch, runs=5)
        recording.run("python", "-m", "pipeline", "track")
        assert_recorded_once(server, monkeypatch, runs=5)
    assert "not recorded" not in recording.run("snakemake", "--cores", "2")
    assert_no_password(checkout.folder)


@pytest.fixture
def bucket(monkeypatch):
    """Yield the address of an S3 server with a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def list_results(folder: Path) -> dict[str, bytes]:
    """Return the results that equal runs write with equal bytes: path -> content."""
    paths = [path for name in RESULTS for path in folder.glob(name) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name not in TIMED}


@pytest.mark.skipif(SLURM_OBSTACLE is not None, reason=str(SLURM_OBSTACLE))
def test_slurm_the_server_and_s3_survive_kills_of_each(tmp_path, monkeypatch, bucket):
    checkout = copy_project(tmp_path / "a project")
    checkout.edit("params/study/small.yaml", "max_steps: 4", f"max_steps: {STEPS}")
    checkout.edit("params/study/small.yaml", "[lora, {method: series, bottleneck_size: 8}]", "[lora]")
    local = copy_checkout(checkout, tmp_path / "local")
    for folder in ("server", "slurm"):
        (tmp_path / folder).mkdir()
    log = checkout.folder / "logs/train"
    with (
        loopback_mlflow.running_server(tmp_path / "server", artifacts=f"s3://{BUCKET}/artifacts") as server,
        loopback_slurm.running_slurm(tmp_path / "slurm") as slurm,
    ):
        recording = record_on(checkout, server.address)
        first = start(slurm, recording, tmp_path / "first.log")
        wait_for(lambda: find_checkpoint(checkout), "checkpoint")
        (killed_job,) = find_jobs("train")
        # it must not end before the next snakemake starts; Slurm wakes what it cancels
        find_training(checkout).suspend()
        # the pretraining of the base is on the server, and its artifacts are in S3
        assert find_finished(server, monkeypatch)
        assert any(name.endswith("params.json") for name in list_objects(bucket, "artifacts/"))
        assert find_jobs("train") == [killed_job]
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL

        second = start(slurm, recording, tmp_path / "second.log")
        wait_for(lambda: "resuming from step" in read_logs(log), "resumed training")
        (lost_job,) = find_jobs("train")
        assert lost_job != killed_job
        server.kill()
        assert server.process.returncode == -signal.SIGKILL
        node = find_node(lost_job)
        assert lost_job in slurm.kill_node(node)
        wait_for(lambda: find_state(lost_job) == "NODE_FAIL", "failed node")
        (other,) = {*loopback_slurm.NODES} - {node}
        wait_for(lambda: find_jobs("train"), "job after the failure of its node")
        (healed_job,) = find_jobs("train")
        assert healed_job != lost_job
        assert find_node(healed_job) == other
        slurm.start_node(node)
        assert second.wait(timeout=WAIT_SECONDS) == 0, (tmp_path / "second.log").read_text()
        text = (tmp_path / "second.log").read_text()
        # among others: the answers of the bare base may run at the same time
        assert re.search(rf"Slurm jobs of an earlier run: .*\b{killed_job}\b", text)
        assert f"no response from {server.address} (MLFLOW_TRACKING_URI)" in text
        assert loopback_slurm.query("sinfo", f"--nodes={node}", "--Node", "--format=%T")[0] in (
            "idle",
            "mixed",
        )
        server.start()
        recording.run("python", "-m", "pipeline", "track")
        # the bare base, the adapter, the pretraining and the report
        assert_recorded_once(server, monkeypatch, runs=4)
        objects = list_objects(bucket, "artifacts/")
        assert any(name.endswith("adapter_model.safetensors") for name in objects)
        # the same command: nothing is left to do, and nothing is submitted or recorded again
        third = start(slurm, recording, tmp_path / "third.log")
        assert third.wait(timeout=WAIT_SECONDS) == 0
        assert "Nothing to be done" in (tmp_path / "third.log").read_text()
        assert_recorded_once(server, monkeypatch, runs=4)
        assert list_objects(bucket, "artifacts/") == objects
        # `commit` adds a summary, which the local run lacks
        results = list_results(checkout.folder)
        for option in (("url", f"s3://{BUCKET}/dvc"), ("endpointurl", bucket)):
            checkout.run("dvc", "remote", "modify", "--quiet", "shared", *option)
        checkout.run("python", "-m", "pipeline", "commit")
        checkout.run("python", "-m", "pipeline", "push", "--study", "small")
        status = checkout.run("python", "-m", "pipeline", "check-remote")
        assert "0 damaged" in status
        assert "0 results are missing" in status
        submitted = sum(
            (tmp_path / name).read_text().count("submitted with SLURM")
            for name in ("first.log", "second.log")
        )
        # shown with `pytest -s`
        print(
            f"{submitted} jobs, {len(objects)} artifacts of MLflow in S3, {len(list_objects(bucket, 'dvc/'))} of DVC"
        )
    # the base, the training three times, the answers of the adapter, and those of the bare base as often as a kill met them
    assert 6 <= submitted <= 8
    local.snakemake()
    assert read_json(find_adapter(checkout) / "run.json")["resumed_at"] > 0
    assert results == list_results(local.folder)
    assert_no_password(checkout.folder)


def start(slurm: loopback_slurm.Slurm, checkout: Checkout, log: Path) -> subprocess.Popen:
    command = [*PROFILE, *CONFIG]
    return slurm.start_client(command, folder=checkout.folder, log=log, environment=checkout.environment())


def read_logs(folder: Path) -> str:
    """Return the logs in a folder; Snakemake removes the log of a job before it submits the job again."""
    return "".join(read_text_if_there(path) for path in folder.glob("*.log"))


def list_objects(endpoint: str, prefix: str) -> list[str]:
    import boto3

    bucket = boto3.resource("s3", endpoint_url=endpoint).Bucket(BUCKET)
    return sorted(item.key for item in bucket.objects.filter(Prefix=prefix))


def find_jobs(rule: str) -> list[str]:
    """Return the ids of the running jobs of a rule."""
    lines = loopback_slurm.query("squeue", "--states=RUNNING", "--format=%i %k")
    return [line.split()[0] for line in lines if line.split()[1].startswith(f"rule_{rule}")]


def find_node(job: str) -> str:
    return loopback_slurm.query("squeue", f"--jobs={job}", "--format=%N")[0].strip()


def find_state(job: str) -> str:
    return loopback_slurm.query("squeue", "--states=all", f"--jobs={job}", "--format=%T")[0].strip()
