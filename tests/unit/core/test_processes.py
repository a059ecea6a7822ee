"""The run lock is exclusive and needs no unlocking after a kill; no process outlives its caller."""

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
from pipeline.results.disk.free_store import free_store
from pipeline.results.store import park_stale, prune_results
from pipeline.study.artifacts import STORE, Artifact
from tests.conftest import ROOT

RUN = """
import sys, time
from pathlib import Path
from pipeline.core import processes
processes.acquire_run_lock(Path(sys.argv[1]), processes.last_run(Path(sys.argv[1])))
print("acquired", flush=True)
time.sleep(600)
"""
CALLER = """
import subprocess, sys
from pipeline.core import processes
processes.register_as_caller()
subprocess.run(["sh", "-c", f"{sys.executable} -c '{sys.argv[1]}'; true"])
"""
JOB = 'from pipeline.core import processes; import time; processes.exit_with_caller(); print("working", flush=True); time.sleep(600)'


# prints a second line if it outlives its shell; a thread that waits for a caller would kill the job before
DETACHED_JOB = """
import os, threading, time
from pipeline.core import processes
processes.exit_with_caller()
shell = os.getppid()
print("working", flush=True)
while os.getppid() == shell:
    time.sleep(0.02)
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print("outlived its shell", flush=True)
time.sleep(600)
"""


def start(*command: str, **variables: str) -> subprocess.Popen:
    """Start a command that has no caller, and wait for its first line of output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment.pop(processes.CALLER, None)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    return process


def kill(process: subprocess.Popen) -> None:
    """Kill a process and wait for its end."""
    process.kill()
    process.wait()


def all_end(jobs: list[psutil.Process]) -> bool:
    """Return whether all jobs end within a minute."""
    assert jobs
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(is_running(job) for job in jobs):
            return True
        time.sleep(0.05)
    return False


def is_running(process: psutil.Process) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def active_run_error(run: subprocess.Popen) -> str:
    """Return a pattern of the error of a command that needs the lock of ``run``."""
    return rf"another run is active \(process {run.pid} on "


def test_a_second_run_is_refused_and_a_killed_run_leaves_nothing_to_unlock(tmp_path):
    first = start(sys.executable, "-c", RUN, str(tmp_path))
    last_run = processes.last_run(tmp_path)
    with pytest.raises(UserError, match=active_run_error(first)):
        processes.acquire_run_lock(tmp_path, last_run)
    kill(first)
    processes.acquire_run_lock(tmp_path, last_run)


def make_stale_adapter(root: Path) -> Path:
    """Create an adapter that belongs to no study; return its path."""
    path = root / Artifact("train", "tiny/lora/set/seed0/", {"seed": 0}).path
    path.mkdir(parents=True)
    return path


def test_results_are_not_moved_while_a_run_is_active(tmp_path, capsys):
    path, study = make_stale_adapter(tmp_path), SimpleNamespace(artifacts={"train": []}, named=list)
    run = start(sys.executable, "-c", RUN, str(tmp_path))
    prune_results(study, [], dry_run=True, root=tmp_path)
    assert "would be moved" in capsys.readouterr().out
    with pytest.raises(UserError, match=active_run_error(run)):
        prune_results(study, [], root=tmp_path)
    assert path.exists()
    kill(run)
    prune_results(study, [], root=tmp_path)
    assert not path.exists()


def test_the_store_is_listed_but_not_emptied_while_a_run_is_active(tmp_path, capsys):
    path = make_stale_adapter(tmp_path)
    park_stale([], ["train"], root=tmp_path)
    run = start(sys.executable, "-c", RUN, str(tmp_path))
    free_store(studies=[], root=tmp_path)
    assert "to free: 1 of 1 results" in capsys.readouterr().out
    with pytest.raises(UserError, match=active_run_error(run)):
        free_store(confirmed=True, studies=[], root=tmp_path)
    assert (tmp_path / STORE / path.relative_to(tmp_path)).exists()
    kill(run)


def test_a_plan_from_before_another_run_is_stale(tmp_path):
    last_run = processes.last_run(tmp_path)
    another_run = start(sys.executable, "-c", RUN, str(tmp_path))
    kill(another_run)
    with pytest.raises(UserError, match="another run was active while this one was planned; start again"):
        processes.acquire_run_lock(tmp_path, last_run)


@pytest.mark.parametrize("victim", ["caller", "shell"])
def test_a_job_ends_with_its_caller_and_with_its_shell(victim):
    caller = start(sys.executable, "-c", CALLER, JOB)
    children = psutil.Process(caller.pid).children(recursive=True)
    shell = next(child for child in children if child.name() in ("sh", "dash", "bash"))
    jobs = [child for child in children if child != shell]
    os.kill(caller.pid if victim == "caller" else shell.pid, 9)
    assert all_end(jobs)
    kill(caller)


def test_a_command_in_dvc_yaml_ends_with_dvc(tmp_path):
    dvc = tmp_path / "dvc"
    dvc.write_text(
        f"import subprocess\nsubprocess.run(['sh', '-c', \"\"\"{sys.executable} -c '{JOB}'; true\"\"\"])\n"
    )
    run = start(sys.executable, str(dvc), DVC_STAGE="train")
    # selected by name before the kill, since the name of a dead process is unknown
    children = psutil.Process(run.pid).children(recursive=True)
    jobs = [child for child in children if "python" in child.name()]
    kill(run)
    assert all_end(jobs)


def test_a_command_from_a_shell_has_no_caller_to_end_with():
    shell = start("sh", "-c", f"{sys.executable} -c '{DETACHED_JOB}' & wait")
    (job,) = psutil.Process(shell.pid).children()
    try:
        kill(shell)
        assert shell.stdout.readline() == "outlived its shell\n"
    finally:
        job.kill()
