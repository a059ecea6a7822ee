"""kill -9 at random moments: one command then completes the study, with the results of a run without kills.

CHAOS_SEED repeats the random choices of a run, though not its timing. CHAOS_KILLS is the number of kills (20).
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
    find_lock_holder,
    read_report_tables,
    read_results,
    remove_generated_files,
    wait_until_idle,
)
from tests.e2e.conftest import Checkout, copy_checkout

KILLS = int(os.environ.get("CHAOS_KILLS", 20))
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
JOBS = ("train", "generate", "tracking")
COMMANDS = {"snakemake": ("snakemake", "--cores", "2"), "dvc": ("dvc", "repro")}


def test_killed_runs_are_completed_by_one_command(undisturbed, tmp_path):
    print(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
    choices, expected = random.Random(SEED), read_results(undisturbed.folder)
    checkout = copy_checkout(undisturbed, tmp_path / FOLDER)
    killed, completed, resumed = Counter(), Counter(), 0
    while killed.total() < KILLS:
        remove_generated_files(checkout.folder)
        for victim in draw_victims(choices)[: KILLS - killed.total()]:
            # the study was complete before the kill
            if not start_and_kill(checkout, victim, choices):
                check_complete(checkout, expected, undisturbed)
                break
            killed[victim] += 1
            results = read_results(checkout.folder)
            assert results == {path: expected.get(path) for path in results}
            check_artifacts_are_complete(results, expected)
            # so that the next kill hits what this one left
            with restored_afterwards(checkout.folder):
                # DVC takes longer, most of it before and after the jobs
                tool = "snakemake" if killed.total() % 4 else "dvc"
                complete_study(checkout, tool)
                completed[tool] += 1
                resumed += check_complete(checkout, expected, undisturbed)
                if tool == "dvc":
                    assert "up to date" in checkout.run("dvc", "status")
    print(f"killed: {dict(killed)}; completed by: {dict(completed)}; resumed trainings: {resumed}")
    assert killed.total() == KILLS
    assert resumed or KILLS < 10
    assert set(killed) == {*COMMANDS, *JOBS} or KILLS < 20


def complete_study(checkout: Checkout, tool: str) -> None:
    """Run the command that completes the study; first restore dvc.lock, as its message says, if a killed dvc cut it off."""
    if check_lock(checkout.folder):
        assert INVALID_LOCK in checkout.run(*COMMANDS["snakemake"])
        restore_lock(checkout)
    checkout.run(*COMMANDS[tool])


def restore_lock(checkout: Checkout) -> None:
    """Do what the message about an invalid dvc.lock says; if git does not track the file, delete it instead."""
    if checkout.run("git", "ls-files", "dvc.lock"):
        checkout.run("git", "checkout", "dvc.lock")
    else:
        (checkout.folder / "dvc.lock").unlink()
    checkout.run("python", "-m", "pipeline", "commit")


@contextlib.contextmanager
def restored_afterwards(folder: Path) -> Iterator[None]:
    """Restore a checkout afterwards to its present state, under the same path, which DVC and MLflow remember."""
    backup = folder.with_name("backup")
    shutil.copytree(folder, backup, symlinks=True)
    yield
    shutil.rmtree(folder)
    backup.rename(folder)


def draw_victims(choices: random.Random) -> list[str]:
    """Return what is killed, in order, until the study is complete: training before generation, as the jobs run."""
    order = ["train", "generate"]
    for victim in ("tracking", *COMMANDS):
        order.insert(choices.randrange(len(order) + 1), victim)
    return order


def start_and_kill(checkout: Checkout, victim: str, choices: random.Random) -> bool:
    """Run the study and kill the victim at a random moment; return whether the run failed because of it."""
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
    killed = kill_run(run, choices) if victim in COMMANDS else kill_job(checkout.folder, run, victim, choices)
    status = run.wait(timeout=1200)
    print(f"{victim}: {'killed' if killed else 'not met'} in {' '.join(command)}, which exited with {status}")
    assert killed or status == 0, log.read_text()
    wait_until_idle(checkout.folder)
    # a victim that was killed in its last moments may have completed its work
    return status != 0


def kill_run(run: subprocess.Popen, choices: random.Random) -> bool:
    """Kill a run at a random moment; return False if it ended before."""
    try:
        run.wait(timeout=choices.uniform(0.2, 12))
    except subprocess.TimeoutExpired:
        run.kill()
        return True
    return False


def kill_job(folder: Path, run: subprocess.Popen, victim: str, choices: random.Random) -> bool:
    """Kill a job of a run, or the process that writes to MLflow; return False if the run ended before."""
    delay = choices.uniform(0, {"train": 1.5, "generate": 0.3, "tracking": 0.05}[victim])
    before_checkpoint = choices.random() < 0.5
    if victim == "tracking":
        # there are many writes; do not always kill the first
        time.sleep(choices.uniform(0, 6))
    while run.poll() is None:
        time.sleep(0.001 if victim == "tracking" else 0.01)
        if (
            victim == "train"
            and not before_checkpoint
            and not any((folder / "results").rglob("checkpoint.pt"))
        ):
            continue
        pid = (
            find_lock_holder(folder / "mlflow.db.lock") if victim == "tracking" else find_job(folder, victim)
        )
        if pid is None:
            continue
        time.sleep(delay)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            # it ended during the delay
            delay /= 2
        else:
            return True
    return False


def find_job(folder: Path, stage: str) -> int | None:
    """Return the process id of a stage's job: a fork of the warm server that writes to a log of the stage.

    The process that sent the job to the server writes to the same log.
    """
    log = str(folder / "logs" / stage)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # the process may end meanwhile
        with contextlib.suppress(OSError):
            writes_to_log = os.readlink(f"/proc/{pid}/fd/1").startswith(log)
            if writes_to_log and "warm" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                return int(pid)
    return None


def check_artifacts_are_complete(results: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Check that every artifact whose folder has its final name has all its files."""
    folders = {str(Path(path).parent) for path in results if len(Path(path).parent.name) == 12}
    for folder in folders:
        assert {path for path in results if path.startswith(folder)} == {
            path for path in expected if path.startswith(folder)
        }


def check_complete(checkout: Checkout, expected: dict[str, bytes], undisturbed: Checkout) -> int:
    """Check that a checkout is as after a run without kills; return how many trainings resumed from a checkpoint."""
    assert read_results(checkout.folder) == expected
    assert read_report_tables(checkout.folder) == read_report_tables(undisturbed.folder)
    assert checkout.planned() == {}
    assert "all match their records" in checkout.run("python", "-m", "pipeline", "verify")
    client = MlflowClient(f"sqlite:///{checkout.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    # the study's own run holds its report
    runs = list(client.search_runs([experiment.experiment_id], "tags.kind != 'study'"))
    finished = Counter(run.data.tags["fingerprint"] for run in runs if run.info.status == "FINISHED")
    assert set(finished.values()) == {1}
    # the training of the base, the bare base, and two adapters
    assert len(finished) == 4
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    run_files = (checkout.folder / "results/adapters").rglob("run.json")
    return sum(json.loads(path.read_text())["resumed_at"] > 0 for path in run_files)
