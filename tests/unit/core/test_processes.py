"""One run at a time, nothing left to unlock after a kill, and no process that outlives what it works for."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline.core import processes
from pipeline.core.errors import UserError
from pipeline.results import store
from pipeline.results.store import set_aside
from pipeline.study.artifacts import STORE, Artifact
from tests.conftest import ROOT

CLAIM = """
import sys, time
from pathlib import Path
from pipeline.core import processes
processes.claim(Path(sys.argv[1]), processes.planned(Path(sys.argv[1])))
print("claimed", flush=True)
time.sleep(600)
"""
CALLER = """
import subprocess, sys
from pipeline.core import processes
processes.name_as_caller()
subprocess.run(["sh", "-c", f"{sys.executable} -c '{sys.argv[1]}'; true"])
"""
JOB = 'from pipeline.core import processes; import time; processes.end_with_caller(); print("working", flush=True); time.sleep(600)'


def start(*command: str, **more: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    environment.pop(processes.CALLER, None)
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert started.stdout.readline()
    return started


def all_end(family: list[psutil.Process]) -> bool:
    """Whether every process of ``family``, one at least, has ended, or does within a minute; a zombie has."""
    assert family
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(at_work(one) for one in family):
            return True
        time.sleep(0.05)
    return False


def at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also: its id is another's now
        return False


def test_a_second_run_is_refused_and_a_killed_one_leaves_nothing_to_unlock(tmp_path):
    first = start(sys.executable, "-c", CLAIM, str(tmp_path))
    plan = processes.planned(tmp_path)
    with pytest.raises(UserError, match=f"process {first.pid} on .* is at work"):
        processes.claim(tmp_path, plan)
    first.kill()
    first.wait()
    processes.claim(tmp_path, plan)


def adapter(root: Path) -> Path:
    """Make an adapter that no study names; return its path."""
    path = root / Artifact("train", "tiny/lora/set/seed0/", {"seed": 0}).path
    path.mkdir(parents=True)
    return path


def test_results_are_not_moved_away_from_a_run_at_work(tmp_path, capsys):
    path, study = adapter(tmp_path), SimpleNamespace(artifacts={"train": []}, named=list)
    run = start(sys.executable, "-c", CLAIM, str(tmp_path))
    store.prune(study, [], dry_run=True, root=tmp_path)
    assert "would be moved" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"process {run.pid} on .* is at work"):
        store.prune(study, [], root=tmp_path)
    assert path.exists()
    run.kill()
    run.wait()
    store.prune(study, [], root=tmp_path)
    assert not path.exists()


def test_the_store_is_shown_but_not_freed_while_a_run_is_at_work(tmp_path, capsys):
    path = adapter(tmp_path)
    set_aside([], ["train"], root=tmp_path)
    run = start(sys.executable, "-c", CLAIM, str(tmp_path))
    store.empty(studies=[], root=tmp_path)
    assert "to free: 1 of 1 results" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"process {run.pid} on .* is at work"):
        store.empty(yes=True, studies=[], root=tmp_path)
    assert (tmp_path / STORE / path.relative_to(tmp_path)).exists()
    run.kill()
    run.wait()


def test_a_plan_made_before_another_run_is_out_of_date(tmp_path):
    plan = processes.planned(tmp_path)
    other = start(sys.executable, "-c", CLAIM, str(tmp_path))
    other.kill()
    other.wait()
    with pytest.raises(UserError, match="while this one planned; start again"):
        processes.claim(tmp_path, plan)


@pytest.mark.parametrize("victim", ["caller", "shell"])
def test_a_job_ends_with_its_caller_and_with_its_shell(victim):
    caller = start(sys.executable, "-c", CALLER, JOB)
    family = psutil.Process(caller.pid).children(recursive=True)
    shell = next(one for one in family if one.name() in ("sh", "dash", "bash"))
    job = [one for one in family if one != shell]
    os.kill(caller.pid if victim == "caller" else shell.pid, 9)
    assert all_end(job)
    caller.kill()
    caller.wait()


def test_a_command_of_dvc_ends_with_dvc(tmp_path):
    dvc = tmp_path / "dvc"
    dvc.write_text(
        f"import subprocess\nsubprocess.run(['sh', '-c', \"\"\"{sys.executable} -c '{JOB}'; true\"\"\"])\n"
    )
    running = start(sys.executable, str(dvc), DVC_STAGE="train")
    # by name before the kill: it may be gone at once, and then nothing can be asked of it
    job = [one for one in psutil.Process(running.pid).children(recursive=True) if "python" in one.name()]
    running.kill()
    running.wait()
    assert all_end(job)


def test_a_persons_own_command_has_nothing_to_end_with():
    alone = start("sh", "-c", f"{sys.executable} -c '{JOB}' & wait")
    (job,) = psutil.Process(alone.pid).children()
    alone.kill()
    alone.wait()
    time.sleep(0.5)
    assert job.is_running()
    job.kill()
