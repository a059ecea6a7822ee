"""The warm server: jobs run with the arguments, folder and output of their caller, and never outlive it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm server needs Linux")

SERVER = """
import os, sys, time
from pipeline.core import warm
warm.PRELOADED = ()

def run_job(arguments):
    if arguments[0] == "sleep":
        open("child", "w").write(str(os.getpid()))
        time.sleep(600)
    print("ran", arguments, os.getcwd(), os.environ.get("MARK"), flush=True)
    if arguments[0] == "raise":
        raise RuntimeError("broken")
    return int(arguments[1]) if len(arguments) > 1 else 0

warm.serve_jobs(sys.argv[1], int(sys.argv[2]), run_job)
"""
CALLER = "import sys; from pipeline.core import warm; status = warm.run_on_server(sys.argv[1:]); print('status', status)"


@pytest.fixture
def server(tmp_path):
    address = tmp_path / "warm" / "socket"
    address.parent.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(address), str(os.getpid())])
    wait_for(address.exists, process)
    yield address
    process.kill()
    process.wait()


def wait_for(condition, process):
    """Wait at most two minutes until a condition holds; fail if ``process`` ends before."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def environment(address, **variables):
    return {**os.environ, "PIPELINE_WARM": str(address), "PYTHONPATH": str(ROOT), **variables}


def call(address, *arguments, cwd, **variables):
    command = [sys.executable, "-c", CALLER, *arguments]
    return subprocess.run(
        command, env=environment(address, **variables), cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_a_job_runs_with_the_arguments_folder_environment_and_output_of_its_caller(server, tmp_path):
    output = call(server, "score", "0", cwd=tmp_path, MARK="mine").stdout
    assert f"ran ['score', '0'] {tmp_path} mine" in output
    assert "status 0" in output


def test_exit_statuses_and_exceptions_reach_the_caller(server, tmp_path):
    assert "status 7" in call(server, "score", "7", cwd=tmp_path).stdout
    failure = call(server, "raise", cwd=tmp_path)
    assert "status 1" in failure.stdout
    assert "RuntimeError: broken" in failure.stderr


def test_without_a_server_the_caller_runs_the_job_itself(tmp_path):
    assert "status None" in call(tmp_path / "nobody", "score", cwd=tmp_path).stdout


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID"])
def test_a_job_of_a_scheduler_does_not_use_the_server_of_its_submitter(server, tmp_path, name):
    assert "status None" in call(server, "score", cwd=tmp_path, **{name: "17"}).stdout


def test_within_an_allocation_jobs_use_its_server(server, tmp_path):
    variables = {"SLURM_JOB_ID": "17", "PIPELINE_WARM_ALLOCATION": "17"}
    assert "status 0" in call(server, "score", "0", cwd=tmp_path, **variables).stdout


def is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def start_sleeping_job(server, tmp_path):
    caller = subprocess.Popen([sys.executable, "-c", CALLER, "sleep"], env=environment(server), cwd=tmp_path)
    pid_file = tmp_path / "child"
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), caller)
    return caller, int(pid_file.read_text())


def ends_soon(pid: int) -> bool:
    """Return whether a process ends within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not is_dead(pid):
        time.sleep(0.05)
    return is_dead(pid)


def test_a_job_ends_with_its_killed_caller(server, tmp_path):
    caller, child = start_sleeping_job(server, tmp_path)
    assert not is_dead(child)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert ends_soon(child)


def test_a_job_ends_with_a_killed_server_and_its_caller_returns(tmp_path):
    address = tmp_path / "warm" / "socket"
    address.parent.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(address), str(os.getpid())])
    wait_for(address.exists, process)
    caller, child = start_sleeping_job(address, tmp_path)
    process.kill()
    process.wait()
    assert ends_soon(child)
    # run_on_server returned
    assert caller.wait(timeout=120) == 0


def test_server_and_jobs_end_when_the_parent_is_killed(tmp_path):
    address = tmp_path / "warm" / "socket"
    address.parent.mkdir()
    start_server = "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2], str(os.getpid())]); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", start_server, SERVER, str(address)],
        env=environment(address),
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(parent.stdout.readline())
    wait_for(address.exists, parent)
    caller, child = start_sleeping_job(address, tmp_path)
    parent.kill()
    parent.wait()
    assert ends_soon(pid)
    assert ends_soon(child)
    # the caller learned that its job had failed, and exited
    assert caller.wait(timeout=120) == 0


@pytest.mark.slow
def test_bitsandbytes_says_nothing_at_import_on_a_cpu_with_bfloat16():
    pytest.importorskip("bitsandbytes")
    # the native library reports the CPU's instructions
    code = (
        "import ctypes, pipeline; ctypes.CDLL.has_avx512bf16_cpu = lambda library: True; import bitsandbytes"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == ""
