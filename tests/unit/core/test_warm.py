"""The warm parent: jobs run with their caller's arguments, folder and output, and never outlive it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm parent is for Linux")

SERVER = """
import os, sys, time
from pipeline.core import warm
warm.PRELOADED = ()

def run(arguments):
    if arguments[0] == "sleep":
        open("child", "w").write(str(os.getpid()))
        time.sleep(600)
    print("ran", arguments, os.getcwd(), os.environ.get("MARK"), flush=True)
    if arguments[0] == "raise":
        raise RuntimeError("broken")
    return int(arguments[1]) if len(arguments) > 1 else 0

warm.serve(sys.argv[1], int(sys.argv[2]), run)
"""
CALLER = (
    "import sys; from pipeline.core import warm; status = warm.ask(sys.argv[1:]); print('status', status)"
)


@pytest.fixture
def server(tmp_path):
    address = tmp_path / "warm" / "socket"
    address.parent.mkdir()
    running = subprocess.Popen([sys.executable, "-c", SERVER, str(address), str(os.getpid())])
    wait_for(address.exists, running)
    yield address
    running.kill()
    running.wait()


def wait_for(condition, process):
    """Wait until something holds, which a process brings about; two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def environment(address, **more):
    root = str(ROOT)
    return {**os.environ, "PIPELINE_WARM": str(address), "PYTHONPATH": root, **more}


def call(address, *arguments, cwd, **more):
    command = [sys.executable, "-c", CALLER, *arguments]
    return subprocess.run(
        command, env=environment(address, **more), cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_a_job_has_its_callers_arguments_folder_environment_and_output(server, tmp_path):
    done = call(server, "score", "0", cwd=tmp_path, MARK="mine")
    assert f"ran ['score', '0'] {tmp_path} mine" in done.stdout
    assert "status 0" in done.stdout


def test_exit_status_and_exceptions_come_back(server, tmp_path):
    assert "status 7" in call(server, "score", "7", cwd=tmp_path).stdout
    broken = call(server, "raise", cwd=tmp_path)
    assert "status 1" in broken.stdout
    assert "RuntimeError: broken" in broken.stderr


def test_without_a_server_the_caller_is_told_to_run_itself(tmp_path):
    assert "status None" in call(tmp_path / "nobody", "score", cwd=tmp_path).stdout


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def child_of(server, tmp_path):
    caller = subprocess.Popen([sys.executable, "-c", CALLER, "sleep"], env=environment(server), cwd=tmp_path)
    noted = tmp_path / "child"
    wait_for(lambda: noted.exists() and noted.read_text(), caller)
    return caller, int(noted.read_text())


def wait_gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not gone(pid):
        time.sleep(0.05)
    return gone(pid)


def test_a_killed_caller_takes_its_job_with_it(server, tmp_path):
    caller, child = child_of(server, tmp_path)
    assert not gone(child)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert wait_gone(child)


def test_a_job_ends_with_a_killed_server_and_its_caller_says_so(tmp_path):
    address = tmp_path / "warm" / "socket"
    address.parent.mkdir()
    running = subprocess.Popen([sys.executable, "-c", SERVER, str(address), str(os.getpid())])
    wait_for(address.exists, running)
    caller, child = child_of(address, tmp_path)
    running.kill()
    running.wait()
    assert wait_gone(child)
    assert caller.wait(timeout=120) == 0  # ``ask`` came back


def test_when_the_parent_is_killed_server_and_jobs_end(tmp_path):
    address = tmp_path / "warm" / "socket"
    address.parent.mkdir()
    started = "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2], str(os.getpid())]); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", started, SERVER, str(address)],
        env=environment(address),
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(parent.stdout.readline())
    wait_for(address.exists, parent)
    caller, child = child_of(address, tmp_path)
    parent.kill()
    parent.wait()
    assert wait_gone(pid)
    assert wait_gone(child)
    assert caller.wait(timeout=120) == 0  # it was told that its job failed, and ended
