"""kill -9 at random moments: one command finishes the work, and nothing tells that it was ever interrupted.

CHAOS_SEED repeats a run's choices (what timing adds cannot be repeated); CHAOS_KILLS is how often is killed (20).
"""

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.chaos.conftest import FOLDER, at_work, clear, open_files, report, results, wait_until_nothing_works
from tests.e2e.conftest import Checkout

KILLS = int(os.environ.get("CHAOS_KILLS", 20))
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
COMMANDS = {"snakemake": ("snakemake", "--cores", "2"), "dvc": ("dvc", "repro")}


def test_killed_runs_are_finished_by_one_command(undisturbed, tmp_path):
    print(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
    chosen, expected = random.Random(SEED), results(undisturbed.folder)
    shutil.copytree(undisturbed.folder, tmp_path / FOLDER, symlinks=True)
    checkout = Checkout(tmp_path / FOLDER)
    killed, resumed = Counter(), 0
    while killed.total() < KILLS:
        clear(checkout.folder)
        for victim in one_life(chosen)[: KILLS - killed.total()]:
            if not kill(checkout, victim, chosen):
                break  # the work was finished before
            killed[victim] += 1
            found = results(checkout.folder)
            assert {path: found[path] for path in found} == {path: expected.get(path) for path in found}
            assert_whole(found, expected)
        last = "dvc" if killed.total() == KILLS else "snakemake"
        checkout.run(*COMMANDS[last])
        resumed += check_finished(checkout, expected, undisturbed)
        if last == "dvc":
            assert "up to date" in checkout.run("dvc", "status")
    print(f"killed: {dict(killed)}; trainings that went on from a checkpoint: {resumed}")
    assert killed.total() == KILLS
    assert resumed or KILLS < 10


def one_life(chosen: random.Random) -> list[str]:
    """What is killed, one after the other, until the work is finished: in the order in which the jobs come."""
    order = ["train", "generate", "tracking"]
    for run in COMMANDS:
        order.insert(chosen.randrange(len(order) + 1), run)
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
    status = run.wait(timeout=300)
    print(f"{victim}: {'killed' if hit else 'not met'} in {' '.join(command)}, which ended with {status}")
    assert (status != 0) == hit, log.read_text()
    wait_until_nothing_works(checkout.folder)
    return hit


def kill_run(run: subprocess.Popen, chosen: random.Random) -> bool:
    try:
        run.wait(timeout=chosen.uniform(0.2, 12))
    except subprocess.TimeoutExpired:
        run.kill()
        return True
    return False


def kill_job(folder: Path, run: subprocess.Popen, victim: str, chosen: random.Random) -> bool:
    wait, hit = chosen.uniform(0, 1.5 if victim == "train" else 0.3), False
    started = chosen.random() < 0.5  # else a training is killed after its first checkpoint
    while run.poll() is None and not hit:
        if victim == "train" and not (started or any((folder / "results").rglob("checkpoint.pt"))):
            time.sleep(0.02)
            continue
        for process in at_work(folder):
            files = open_files(process)
            writes = str(folder / ".mlflow.lock") in files.values()
            works = files.get("1", "").startswith(str(folder / "logs" / victim))
            # a job's process and the one that asked for it have one log: the job's is a fork of the warm server
            if writes if victim == "tracking" else works and "warm" in process.cmdline():
                time.sleep(wait)
                try:
                    os.kill(process.pid, signal.SIGKILL)
                    hit = True
                except ProcessLookupError:  # it was quicker
                    wait /= 2
                break
        time.sleep(0.01)
    return hit


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
    assert "all as recorded" in checkout.run("python", "-m", "pipeline", "verify")
    client = MlflowClient(f"sqlite:///{checkout.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    runs = list(client.search_runs([experiment.experiment_id]))
    finished = Counter(run.data.tags["fingerprint"] for run in runs if run.info.status == "FINISHED")
    assert set(finished.values()) == {1}
    assert len(finished) == 4  # the base, it bare, and two adapters
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    infos = (checkout.folder / "results/adapters").rglob("run.json")
    return sum(json.loads(info.read_text())["resumed_at"] > 0 for info in infos)
