"""A study on a real Slurm on this machine: a kill, a cancellation, time limits and two nodes; no process outside a job's allocation works."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline.core.io import read_json, read_jsonl
from tests.e2e.conftest import Checkout, copy_checkout, find_processes
from tests.loopback_slurm import find_obstacle, running_slurm

pytestmark = [
    pytest.mark.skipif(find_obstacle() is not None, reason=str(find_obstacle())),
    pytest.mark.exhaustive,
]

PROFILE = (
    "snakemake",
    "--profile",
    "workflow/profiles/slurm",
    "--slurm-init-seconds-before-status-checks",
    "1",
)
# torch finds no GPU behind the links to /dev/null, and then computes on the CPU
CONFIG = ("--latency-wait", "5", "--config", "device=auto", "slurm_gpu_partition=gpu", "save_steps=5")
STEPS = 600
WEIGHTS = "adapter_model.safetensors"
# most of it is the start of processes, which takes minutes on a busy machine
WAIT_SECONDS = 1200


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    with running_slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def long_training(finished, tmp_path) -> Checkout:
    """Return a checkout whose data and base are there, and whose training of one adapter takes a while."""
    checkout = copy_checkout(finished, tmp_path / "a project")
    checkout.edit("params/study/small.yaml", "max_steps: 4", f"max_steps: {STEPS}")
    checkout.edit("params/study/small.yaml", "[lora, {method: series, bottleneck_size: 8}]", "[lora]")
    # those of the finished study
    shutil.rmtree(checkout.folder / "logs")
    return checkout


def wait_for(find, what):
    """Return what ``find`` returns as soon as it is true."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if result := find():
            return result
        time.sleep(0.1)
    raise AssertionError(f"no {what} after {WAIT_SECONDS} s")


def read_text_if_there(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def start(checkout: Checkout, log: Path, *targets: str, config: tuple[str, ...] = ()) -> subprocess.Popen:
    with log.open("w") as output:
        command = [*PROFILE, *targets, *CONFIG, *config]
        return subprocess.Popen(
            command,
            cwd=checkout.folder,
            env=checkout.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def find_checkpoint(checkout: Checkout) -> list[Path]:
    return list(checkout.folder.glob("results/adapters/**/.*.work/checkpoint.pt"))


def running_jobs() -> list[str]:
    command = ["squeue", "--noheader", "--states=RUNNING", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def find_training(checkout: Checkout):
    """Return the process that trains: it has a checkpoint's folder locked and torch in its memory."""
    return next(process for process in find_processes(checkout.folder) if "train" in process.cmdline()[2:4])


def find_adapter(checkout: Checkout, *, steps: int = STEPS) -> Path:
    """Return the folder of the adapter with so many steps, beside that of the finished study."""
    adapters = checkout.folder.glob("results/adapters/small-llama/lora/world-math/seed0/[0-9a-f]*")
    return next(path for path in adapters if read_json(path / "manifest.json")["steps"] == steps)


def test_a_training_survives_a_killed_snakemake_and_a_cancelled_job(long_training, tmp_path):
    local = copy_checkout(long_training, tmp_path / "local")
    first = start(long_training, tmp_path / "first.log", "all_train")
    wait_for(lambda: find_checkpoint(long_training), "checkpoint")
    (job,) = running_jobs()
    training = find_training(long_training)
    # the job's own process does the work: it has the libraries, and the scheduler counts it
    assert training.environ()["SLURM_JOB_ID"] == job
    assert "libtorch" in Path(f"/proc/{training.pid}/maps").read_text()
    # otherwise it may end before the next snakemake starts, which takes a minute on a busy machine; Slurm wakes what it cancels
    training.suspend()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert running_jobs() == [job]

    log = tmp_path / "second.log"
    second = start(long_training, log, "all_train")
    wait_for(lambda: job not in running_jobs() and running_jobs(), "second job")
    text = log.read_text()
    assert f"cancelling 1 Slurm jobs of an earlier run: {job}" in text
    # Snakemake removes the log of the first job before the second one writes it
    logs = long_training.folder / "logs/train"
    wait_for(
        lambda: any("resuming from step" in read_text_if_there(log) for log in logs.glob("*.log")),
        "resumed training",
    )
    (job,) = running_jobs()
    subprocess.run(["scancel", job], check=True)
    assert second.wait() == 0, log.read_text()
    assert "the next run resumes there" in log.read_text()
    # the same training on this machine, undisturbed
    local.snakemake("all_train")
    resumed, whole = (find_adapter(checkout) for checkout in (long_training, local))
    assert read_json(resumed / "run.json")["resumed_at"] > 0
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_training_on_two_nodes_has_the_losses_of_a_single_process(finished, tmp_path):
    checkout = copy_checkout(finished, tmp_path / "a project")
    checkout.edit("params/study/small.yaml", "max_steps: 4", "max_steps: 30")
    checkout.edit("params/study/small.yaml", "[lora, {method: series, bottleneck_size: 8}]", "[lora]")
    local = copy_checkout(checkout, tmp_path / "local")
    log = tmp_path / "run.log"
    process = start(checkout, log, "all_train", config=("slurm_nodes=2", "processes=2"))

    def find_ranks() -> set[tuple[str, str]]:
        environments = [read_environment(other) for other in find_processes(checkout.folder)]
        return {
            (variables["RANK"], variables["SLURMD_NODENAME"])
            for variables in environments
            if {"RANK", "SLURMD_NODENAME"} <= variables.keys()
        }

    wait_for(lambda: len(find_ranks()) == 2 or process.poll() is not None, "training on two nodes")
    # c10d gives the ranks in the order in which the nodes arrive
    assert {rank for rank, _ in find_ranks()} == {"0", "1"}, log.read_text()
    assert {node for _, node in find_ranks()} == {"n1", "n2"}
    assert process.wait(timeout=WAIT_SECONDS) == 0, log.read_text()
    local.snakemake("all_train")
    of_nodes, of_one = (
        read_jsonl(find_adapter(other, steps=30) / "history.jsonl") for other in (checkout, local)
    )
    assert [row["step"] for row in of_nodes] == list(range(1, 31))
    assert [row["loss"] for row in of_nodes] == pytest.approx([row["loss"] for row in of_one], abs=1e-4)
    assert "2 x " in read_json(find_adapter(checkout, steps=30) / "run.json")["device"]


def read_environment(process) -> dict[str, str]:
    """Return the environment of a process; of one that has ended nothing."""
    try:
        return process.environ()
    except psutil.NoSuchProcess:
        return {}


def test_a_training_resumes_each_time_that_its_time_limit_ends_it(long_training, tmp_path):
    long_training.edit("params/study/small.yaml", f"max_steps: {STEPS}", "max_steps: 1000000")
    log = tmp_path / "run.log"
    process = start(long_training, log, "all_train", config=("slurm_minutes=3",))

    def find_stops() -> list[int]:
        return [int(step) for step in re.findall(r"stopped by SIGTERM after step (\d+)", log.read_text())]

    try:
        # Slurm checks its limits twice a minute
        wait_for(find_stops, "stop at the time limit")
        wait_for(lambda: len(set(find_stops())) > 1, "second stop")
    finally:
        process.kill()
        process.wait()
    first, second = sorted(set(find_stops()))[:2]
    assert 0 < first < second
