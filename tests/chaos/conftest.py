"""Checkouts to break: a small study whose trainings take long enough to be killed, and what an undisturbed run makes of it."""

import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Checkout, copy_project

RESULTS = ("data/raw", "data/prompts", "results", "reports")
STORE = ("mlflow.db", "mlflow.db-journal", "mlflow.db.lock", "mlartifacts")
MADE = (*RESULTS, *STORE, ".snakemake", ".run.lock", "logs", "dvc.lock")
FOLDER = "a prøject, λ"  # spaces and letters beyond ASCII, as home folders have them
RECORDS = "results/records/"
OF_THE_MACHINE = {"run.json", "timing.jsonl", ".snakemake_timestamp"}  # when, where and how fast

if sys.platform != "linux":
    collect_ignore_glob = [
        "test_*.py"
    ]  # processes are found by /proc, full disks made by a limit that others lack


def results(folder: Path) -> dict[str, bytes]:
    """Every result's bytes by path, but for what says when, where and how fast, and for the report."""
    found = {}
    for top in RESULTS[:-1]:
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            told = path.name in OF_THE_MACHINE or name.startswith("results/records/")
            if path.is_file() and not told and "/." not in name:
                found[name] = path.read_bytes()
    return found


def report(folder: Path) -> dict[str, bytes]:
    """The report's tables of scores and differences."""
    tables = folder / "reports/small/tables"
    return {
        path.name: path.read_bytes() for path in tables.iterdir() if path.name.startswith(("acc", "diff"))
    }


def at_work(folder: Path) -> list[psutil.Process]:
    """The processes that work in a checkout."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder)
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until_nothing_works(folder: Path, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while left := at_work(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def holder(lock: Path) -> int | None:
    """The id of the process that holds a lock on a file, if one does."""
    try:
        about = lock.stat()
    except FileNotFoundError:
        return None
    place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, *told = (
            line.split()
        )  # 7: FLOCK ADVISORY WRITE 512 fe:00:1041 0 EOF; with "->" for one that waits
        if kind != "->" and told[3] == place:
            return int(told[2])
    return None


def clear(folder: Path) -> None:
    """Take everything away that was ever made in a checkout."""
    for name in MADE:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Checkout:
    """A checkout in which the study was run once, and nothing happened to it."""
    checkout = copy_project(tmp_path_factory.mktemp("undisturbed") / FOLDER)
    checkout.edit("params/study/small.yaml", "max_steps: 4", "save_steps: 2, max_steps: 80")
    checkout.edit("params/study/small.yaml", "limit: 6", "limit: 30")
    checkout.edit("params/study/small.yaml", "max_new_tokens: 4", "max_new_tokens: 16")
    checkout.edit("pipeline/results/mlflow/client.py", "LIVE_SECONDS = 30", "LIVE_SECONDS = 0")
    checkout.run("git", "commit", "--quiet", "--all", "--message", "longer")
    checkout.snakemake()
    return checkout


@pytest.fixture
def copy(undisturbed, tmp_path) -> Checkout:
    """A copy of the undisturbed checkout, results and all."""
    shutil.copytree(undisturbed.folder, tmp_path / FOLDER, symlinks=True)
    return Checkout(tmp_path / FOLDER)
