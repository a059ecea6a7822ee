"""Checkouts to damage: a small study whose trainings are long enough to be killed, and its results without a disturbance."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Checkout, copy_checkout, copy_project, find_processes

RESULTS = ("data/raw", "data/prompts", "results", "reports")
STORE = ("mlflow.db", "mlflow.db-journal", "mlflow.db.lock", "mlartifacts")
GENERATED = (*RESULTS, *STORE, ".snakemake", ".run.lock", "logs", "dvc.lock")
# spaces and letters beyond ASCII, which home folders may have
FOLDER = "a prøject, λ"
RECORDS = "results/records/"
# views of the report in git, which snakemake alone does not write
SUMMARY = ("results/summary/", "results/accuracies.json")
# files that state when, where and how fast a result was produced
RUN_DETAILS = {"run.json", "timing.jsonl", ".snakemake_timestamp"}

if sys.platform != "linux":
    # processes are found in /proc, and full disks need private mounts
    collect_ignore_glob = ["test_*.py"]


def read_results(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every result by path, without records, details of the run, the report and its summary."""
    contents = {}
    for top in RESULTS[:-1]:
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            is_detail = path.name in RUN_DETAILS or name.startswith((RECORDS, *SUMMARY))
            if path.is_file() and not is_detail and "/." not in name:
                contents[name] = path.read_bytes()
    return contents


def read_report_tables(folder: Path) -> dict[str, bytes]:
    """Return the report's tables of accuracies and differences by file name."""
    tables = folder / "reports/small/tables"
    return {
        path.name: path.read_bytes() for path in tables.iterdir() if path.name.startswith(("acc", "diff"))
    }


def wait_until_idle(folder: Path, *, seconds: float = 120) -> None:
    """Wait until no process runs in a checkout."""
    deadline = time.monotonic() + seconds
    while processes := find_processes(folder):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)


def find_lock_holder(lock: Path) -> int | None:
    """Return the id of the process that holds the lock on a file; None if nobody does."""
    try:
        status = lock.stat()
    except FileNotFoundError:
        return None
    file_id = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        # such as "7: FLOCK ADVISORY WRITE 512 fe:00:1041 0 EOF"; "->" follows the number if the process waits
        _, kind, *fields = line.split()
        if kind != "->" and fields[3] == file_id:
            return int(fields[2])
    return None


def remove_generated_files(folder: Path) -> None:
    """Remove everything that runs have written to a checkout."""
    for name in GENERATED:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Checkout:
    """Return a checkout in which the study ran once without a disturbance; tests must not change it."""
    checkout = copy_project(tmp_path_factory.mktemp("undisturbed") / FOLDER)
    checkout.edit("params/study/small.yaml", "max_steps: 4", "save_steps: 2, max_steps: 80")
    checkout.edit("params/study/small.yaml", "limit: 6", "limit: 30")
    checkout.edit("params/study/small.yaml", "max_new_tokens: 4", "max_new_tokens: 16")
    checkout.edit("pipeline/results/mlflow/client.py", "LIVE_INTERVAL_S = 30", "LIVE_INTERVAL_S = 0")
    checkout.run("git", "commit", "--quiet", "--all", "--message", "longer")
    checkout.snakemake()
    return checkout


@pytest.fixture
def copy(undisturbed, tmp_path) -> Checkout:
    """Return a copy of the undisturbed checkout with its results."""
    return copy_checkout(undisturbed, tmp_path / FOLDER)
