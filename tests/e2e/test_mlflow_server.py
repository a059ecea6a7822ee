"""A study with the MLflow server on PostgreSQL: down at the start, and killed together with Slurm's jobs and nodes."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests import loopback_mlflow, loopback_slurm
from tests.e2e.conftest import Checkout, copy_checkout
from tests.e2e.test_slurm import (
    CONFIG,
    PROFILE,
    WAIT_SECONDS,
    find_adapter,
    find_checkpoint,
    running_jobs,
    wait_for,
)
from tests.loopback_mlflow import ADMIN, PASSWORD

OBSTACLE = loopback_mlflow.find_obstacle()
SLURM_OBSTACLE = OBSTACLE or loopback_slurm.find_obstacle()

pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))]

STEPS = 600
BUCKET = "store"


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


def assert_recorded_once(server, monkeypatch, *, runs: int) -> None:
    """Check that each run of the study and its report is there once, and complete."""
    finished = [run for run in find_recorded(server, monkeypatch) if run.info.status == "FINISHED"]
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
    patterns = ("adapters/**/adapter_model.safetensors", "adapters/**/history.jsonl", "answers/**/*.jsonl")
    paths = [path for pattern in patterns for path in (folder / "results").glob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.skipif(SLURM_OBSTACLE is not None, reason=str(SLURM_OBSTACLE))
def test_slurm_the_server_and_s3_survive_kills_of_each(finished, tmp_path, monkeypatch, bucket):
    import boto3

    checkout = copy_checkout(finished, tmp_path / "a project")
    checkout.edit("params/study/small.yaml", "max_steps: 4", f"max_steps: {STEPS}")
    checkout.edit("params/study/small.yaml", "[lora, {method: series, bottleneck_size: 8}]", "[lora]")
    shutil.rmtree(checkout.folder / "logs")
    # the runs of the server's kill must be those of this study
    local = copy_checkout(checkout, tmp_path / "local")
    (tmp_path / "server").mkdir()
    slurm_folder = tmp_path / "slurm"
    slurm_folder.mkdir()
    with (
        loopback_mlflow.running_server(tmp_path / "server", artifacts=f"s3://{BUCKET}/artifacts") as server,
        loopback_slurm.running_slurm(slurm_folder),
    ):
        recording = record_on(checkout, server.address)
        first = start(recording, tmp_path / "first.log")
        wait_for(lambda: find_checkpoint(checkout), "checkpoint")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()

        second = start(recording, tmp_path / "second.log")
        job_log = next((checkout.folder / "logs/train").glob("*.log"))
        wait_for(lambda: "resuming from step" in job_log.read_text(), "resumed training")
        server.kill()
        (job,) = running_jobs()
        node = find_node(job)
        # as if the node had lost its power: its daemon and the job are gone at once
        kill_node(node)
        wait_for(lambda: not running_jobs(), "failed node")
        loopback_slurm.start_node(node, slurm_folder)
        wait_for(lambda: running_jobs(), "job after the failure of its node")
        server.start()
        assert second.wait(timeout=WAIT_SECONDS) == 0, (tmp_path / "second.log").read_text()
        recording.run("python", "-m", "pipeline", "track")
        # the bare base, the adapter, the pretraining and the report
        assert_recorded_once(server, monkeypatch, runs=4)
        objects = boto3.resource("s3", endpoint_url=bucket).Bucket(BUCKET).objects.all()
        assert any(item.key.endswith("adapter_model.safetensors") for item in objects)
        for option, value in (("url", f"s3://{BUCKET}/dvc"), ("endpointurl", bucket)):
            if option == "url":
                checkout.run("dvc", "remote", "add", "--quiet", "--default", "shared", value)
            else:
                checkout.run("dvc", "remote", "modify", "--quiet", "shared", option, value)
        checkout.run("python", "-m", "pipeline", "commit")
        checkout.run("dvc", "push", "--quiet")
    local.snakemake()
    assert find_adapter(local).name == find_adapter(checkout).name
    assert list_results(checkout.folder).items() >= list_results(local.folder).items()
    assert_no_password(checkout.folder)


def start(checkout: Checkout, log: Path) -> subprocess.Popen:
    with log.open("w") as output:
        return subprocess.Popen(
            [*PROFILE, *CONFIG],
            cwd=checkout.folder,
            env=checkout.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def find_node(job: str) -> str:
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%N"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def kill_node(name: str) -> None:
    """Kill the daemon of a node and every process of its jobs."""
    import psutil

    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        is_daemon = process.info["name"] == "slurmd" and words[-1:] == [name]
        is_step = process.info["name"] == "slurmstepd"
        if is_daemon or is_step:
            for member in [*process.children(recursive=True), process]:
                try:
                    member.kill()
                except psutil.NoSuchProcess:
                    continue
