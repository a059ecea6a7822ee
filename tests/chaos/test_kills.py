"""kill -9 at random moments: one command finishes the work, and nothing tells that it was ever interrupted.

CHAOS_SEED repeats a run's choices (what timing adds cannot be repeated); CHAOS_KILLS is how often is killed (20).
"""

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mlflow.tracking import MlflowClient

from pipeline.results.dvc.lock import INVALID_LOCK, check_lock
from tests.chaos.conftest import (
    FOLDER,
    clear,
    holder,
    report,
    results,
    wait_until_nothing_works,
)
from tests.e2e.conftest import Checkout

KILLS = int(os.environ.get("CHAOS_KILLS", 20))
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
JOBS = ("train", "generate", "tracking")
COMMANDS = {"snakemake": ("snakemake", "--cores", "2"), "dvc": ("dvc", "repro")}


def test_killed_runs_are_finished_by_one_command(undisturbed, tmp_path):
    print(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
    chosen, expected = random.Random(SEED), results(undisturbed.folder)
    shutil.copytree(undisturbed.folder, tmp_path / FOLDER, symlinks=True)
    checkout = Checkout(tmp_path / FOLDER)
    killed, finished, resumed = Counter(), Counter(), 0
    while killed.total() < KILLS:
        clear(checkout.folder)
        for victim in one_life(chosen)[: KILLS - killed.total()]:
            if not kill(checkout, victim, chosen):  # the work was finished before
                check_finished(checkout, expected, undisturbed)
                break
            killed[victim] += 1
            found = results(checkout.folder)
            assert {path: found[path] for path in found} == {path: expected.get(path) for path in found}
            assert_whole(found, expected)
            with put_back_after(checkout.folder):  # so that the next kill meets what this one left
                last = (
                    "snakemake" if killed.total() % 4 else "dvc"
                )  # DVC takes longer, most of it before and after the jobs
                finish(checkout, last)
                finished[last] += 1
                resumed += check_finished(checkout, expected, undisturbed)
                if last == "dvc":
                    assert "up to date" in checkout.run("dvc", "status")
    print(f"killed: {dict(killed)}; finished by: {dict(finished)}; trainings that went on: {resumed}")
    assert killed.total() == KILLS
    assert resumed or KILLS < 10
    assert set(killed) == {*COMMANDS, *JOBS} or KILLS < 20


def finish(checkout: Checkout, last: str) -> None:
    """Run the command that finishes the work; if a killed dvc left dvc.lock cut off, first restore it as the message says."""
    if check_lock(checkout.folder):
        assert INVALID_LOCK in checkout.run(*COMMANDS["snakemake"])
        restore_lock(checkout)
    checkout.run(*COMMANDS[last])


def restore_lock(checkout: Checkout) -> None:
    """Do what the message about an invalid dvc.lock says; a life that began without the file has none to check out."""
    if checkout.run("git", "ls-files", "dvc.lock"):
        checkout.run("git", "checkout", "dvc.lock")
    else:
        (checkout.folder / "dvc.lock").unlink()
    checkout.run("python", "-m", "pipeline", "commit")


@contextlib.contextmanager
def put_back_after(folder: Path) -> Iterator[None]:
    """Have a checkout afterwards as it is now, at the same place: paths are part of what DVC and MLflow remember."""
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept, symlinks=True)
    yield
    shutil.rmtree(folder)
    kept.rename(folder)


def one_life(chosen: random.Random) -> list[str]:
    """What is killed, one after the other, until the work is finished: training before generation, as the jobs come."""
    order = ["train", "generate"]
    for other in ("tracking", *COMMANDS):
        order.insert(chosen.randrange(len(order) + 1), other)
    return order


def kill(checkout: Checkout, victim: str, chosen: random.Random) -> bool:
    """Start the work, kill the victim at some moment; return False if there was none before the work was finished."""
    command = COMMANDS.get(victim, COMMANDS["snakemake"])
    log = checkout.folder.parent / "output.txt"
    with log.open("w") as output:
        run = subprocess.Popen(
            command,
            cwd=checkout.folder,
            env=checkout.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    hit = kill_run(run, chosen) if victim in COMMANDS else kill_job(checkout.folder, run, victim, chosen)
    status = run.wait(timeout=1200)
    print(f"{victim}: {'killed' if hit else 'not met'} in {' '.join(command)}, which ended with {status}")
    assert hit or status == 0, log.read_text()
    wait_until_nothing_works(checkout.folder)
    return status != 0  # what was killed in its last instant may have done its work


def kill_run(run: subprocess.Popen, chosen: random.Random) -> bool:
    try:
        run.wait(timeout=chosen.uniform(0.2, 12))
    except subprocess.TimeoutExpired:
        run.kill()
        return True
    return False


def kill_job(folder: Path, run: subprocess.Popen, victim: str, chosen: random.Random) -> bool:
    wait = chosen.uniform(0, {"train": 1.5, "generate": 0.3, "tracking": 0.05}[victim])
    started = chosen.random() < 0.5  # else a training is killed after its first checkpoint
    if victim == "tracking":
        time.sleep(chosen.uniform(0, 6))  # there are many writes; not always the first
    while run.poll() is None:
        time.sleep(0.001 if victim == "tracking" else 0.01)
        if victim == "train" and not (started or any((folder / "results").rglob("checkpoint.pt"))):
            continue
        found = holder(folder / "mlflow.db.lock") if victim == "tracking" else job_of(folder, victim)
        if found is None:
            continue
        time.sleep(wait)
        try:
            os.kill(found, signal.SIGKILL)
        except ProcessLookupError:  # it was quicker
            wait /= 2
        else:
            return True
    return False


def job_of(folder: Path, stage: str) -> int | None:
    """The process of a stage's job: it and the one that asked for it have one log, and it is a fork of the warm server."""
    log = str(folder / "logs" / stage)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # gone meanwhile
            writes = os.readlink(f"/proc/{pid}/fd/1").startswith(log)
            if writes and "warm" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                return int(pid)
    return None


def assert_whole(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """An artifact that has its name has all its files."""
    folders = {str(Path(path).parent) for path in found if len(Path(path).parent.name) == 12}
    for folder in folders:
        assert {path for path in found if path.startswith(folder)} == {
            path for path in expected if path.startswith(folder)
        }


def check_finished(checkout: Checkout, expected: dict[str, bytes], undisturbed: Checkout) -> int:
    """Everything is as if nothing had happened; returns how many trainings went on from a checkpoint."""
    assert results(checkout.folder) == expected
    assert report(checkout.folder) == report(undisturbed.folder)
    assert checkout.planned() == {}
    assert "all match their records" in checkout.run("python", "-m", "pipeline", "verify")
    client = MlflowClient(f"sqlite:///{checkout.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    runs = list(client.search_runs([experiment.experiment_id]))
    finished = Counter(run.data.tags["fingerprint"] for run in runs if run.info.status == "FINISHED")
    assert set(finished.values()) == {1}
    assert len(finished) == 4  # the base, it bare, and two adapters
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    infos = (checkout.folder / "results/adapters").rglob("run.json")
    return sum(json.loads(info.read_text())["resumed_at"] > 0 for info in infos)
