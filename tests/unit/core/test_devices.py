"""A GPU is claimed by at most one job, and is free again when the job dies. The GPUs here are simulated."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.hardware import devices
from pipeline.core.hardware.devices import check_device, claim_device, claim_gpus, launch_processes
from tests.conftest import ROOT

JOB = """
import sys, time
from pathlib import Path
from pipeline.core.hardware.devices import claim_gpus
with claim_gpus(int(sys.argv[2]), pool=sys.argv[3].split(","), directory=Path(sys.argv[1])) as gpus:
    print(",".join(gpus), flush=True)
    {work}
"""


# marks the GPU as used until the test creates the file "release"
USE_GPU = """
    in_use = Path(sys.argv[1], "in-use-" + gpus[0])
    in_use.touch(exist_ok=False)
    while not Path(sys.argv[1], "release").exists():
        time.sleep(0.02)
    in_use.unlink()
"""


def start_job(directory, n, pool, *, work="time.sleep(60)", stderr=subprocess.PIPE):
    """Start a process that claims ``n`` GPUs of ``pool``, prints them and then works."""
    return subprocess.Popen(
        [sys.executable, "-c", JOB.replace("{work}", work.strip()), str(directory), str(n), pool],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def test_a_gpu_stays_claimed_until_its_job_is_killed(tmp_path):
    first = start_job(tmp_path, 1, "0,1")
    try:
        assert first.stdout.readline().strip() == "0"
        with claim_gpus(1, pool=["0", "1"], directory=tmp_path) as gpus:
            assert gpus == ["1"]
        # needs both, so it waits
        second = start_job(tmp_path, 2, "0,1")
        assert "waiting for 2 free GPU(s)" in second.stderr.readline()
        first.send_signal(signal.SIGKILL)
        assert second.stdout.readline().strip() == "0,1"
        second.send_signal(signal.SIGKILL)
        second.wait()
        with claim_gpus(2, pool=["0", "1"], directory=tmp_path) as gpus:
            assert gpus == ["0", "1"]
    finally:
        first.kill()
        first.wait()


def test_parallel_jobs_never_share_a_gpu(tmp_path):
    """Six jobs use two GPUs. Each creates a file with the name of its GPU, which must not exist yet."""
    logs = [tmp_path / f"job-{number}.log" for number in range(6)]
    jobs = []
    try:
        for log in logs:
            with log.open("w") as stderr:
                jobs.append(start_job(tmp_path, 1, "a,b", work=USE_GPU, stderr=stderr))
        # two jobs hold a GPU each, and the four others have tried to claim one
        wait_until(lambda: all((tmp_path / f"in-use-{gpu}").exists() for gpu in "ab"))
        wait_until(lambda: sum("waiting for 1 free GPU(s)" in log.read_text() for log in logs) == 4)
        (tmp_path / "release").touch()
        outputs = [job.communicate(timeout=100)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    assert [job.returncode for job in jobs] == [0] * 6, [log.read_text() for log in logs]
    assert {output.strip() for output in outputs} == {"a", "b"}


def test_a_released_gpu_can_be_claimed_again(tmp_path):
    for _ in range(2):
        with claim_gpus(1, pool=["0"], directory=tmp_path) as gpus:
            assert gpus == ["0"]


def test_a_claim_of_more_gpus_than_available_is_an_error(tmp_path):
    with (
        pytest.raises(UserError, match=r"3 GPUs needed, 2 available \(0, 1\)"),
        claim_gpus(3, pool=["0", "1"], directory=tmp_path),
    ):
        pass


def test_devices_by_name(monkeypatch, tmp_path):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_lock_directory", lambda: tmp_path)
    with pytest.raises(UserError, match="choices: auto, cpu, cuda, mps"), claim_device("tpu"):
        pass
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    with pytest.raises(UserError, match="use --config device=cpu"), claim_device("cuda"):
        pass
    with claim_device("auto") as device:
        assert device == "cpu"
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["4", "7"])
    with claim_device("cpu") as device:
        assert device == "cpu"
    with claim_device("auto") as first:
        assert (first, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "4")
        with claim_device("cuda") as second:
            assert (second, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "7")
    with claim_device("auto", gpus=2) as device:
        assert (device, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "4,7")
    with claim_device("cpu", gpus=2) as device:
        assert device == "cpu"
    for refused in (check_device, lambda device, gpus: claim_device(device, gpus=gpus).__enter__()):
        with pytest.raises(UserError, match=r"--config gpus_per_job: 3 GPUs needed, 2 available \(4, 7\)"):
            refused("auto", gpus=3)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_an_apple_gpu_is_used_where_torch_reports_one(monkeypatch, tmp_path):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(devices, "_lock_directory", lambda: tmp_path)
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    monkeypatch.setattr(devices, "has_apple_gpu", lambda: True)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for name in ("auto", "mps"):
        check_device(name)
        with claim_device(name) as device:
            assert (device, os.environ.get("CUDA_VISIBLE_DEVICES")) == ("mps", visible)
            # a second job waits
            waiting = start_job(tmp_path, 1, "mps")
            assert "waiting for 1 free GPU(s) of mps" in waiting.stderr.readline()
            waiting.kill()
            waiting.wait()
    with claim_device("cpu") as device:
        assert device == "cpu"
    with pytest.raises(UserError, match="device=cuda: torch finds no usable GPU"), claim_device("cuda"):
        pass
    # one GPU cannot serve two processes of a training
    with pytest.raises(UserError, match=r"processes: 2 GPUs needed, 1 available \(mps\)"):
        launch_processes(["script.py"], 2)
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["0"])
    assert devices.find_gpus("auto") == ("cuda", ["0"])


def test_cuda_visible_devices_limits_the_pool(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-3fa")
    assert devices.visible_gpus() == ["5", "GPU-3fa"]


def test_launched_processes_have_ranks_of_the_same_group(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
    )
    launch_processes([str(script), str(tmp_path)], 2, device="cpu")
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]


def test_the_failure_of_a_launched_process_is_reported(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError, match=r"of 2 failed \(exit 3\); see its message above"):
        launch_processes([str(script)], 2, device="cpu")


LAUNCHER = """
import sys
from pipeline.core.hardware.devices import launch_processes
launch_processes([sys.argv[1], sys.argv[2]], 2, device="cpu")
"""
WORKER = """
import os, pathlib, sys, time
from pipeline.core.hardware.devices import check_device, claim_device
with claim_device("cpu"):
    pathlib.Path(sys.argv[1], "pid-" + os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(120)
"""


def test_launched_processes_end_with_a_killed_launcher(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LAUNCHER, str(script), str(tmp_path)]
    with subprocess.Popen(command, env=environment) as launcher:
        files = [tmp_path / f"pid-{rank}" for rank in "01"]
        wait_until(lambda: all(file.is_file() and file.read_text() for file in files))
        launcher.send_signal(signal.SIGKILL)
    pids = [int(file.read_text()) for file in files]
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert [pid for pid in pids if is_alive(pid)] == []


def wait_until(condition):
    """Wait at most two minutes until a condition holds."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the condition did not hold within two minutes")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_threads_and_deterministic_kernels(tmp_path):
    script = """
import json, os, sys
import torch
from pipeline.core.hardware.devices import configure_torch
device, threads, deterministic = json.loads(sys.argv[1])
configure_torch(device, threads=threads, deterministic=deterministic)
workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
print(json.dumps([torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), workspace]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)

    def settings(*arguments):
        command = [sys.executable, "-c", script, json.dumps(arguments)]
        return json.loads(subprocess.check_output(command, env=environment, text=True))

    assert settings("cpu", None, True) == [1, False, None]
    assert settings("cpu", 3, None) == [3, False, None]
    assert settings("cuda", 3, True)[1:] == [True, ":4096:8"]
    assert settings("mps", 3, True)[1:] == [True, None]


def test_a_missing_gpu_is_refused_before_any_job(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    with pytest.raises(UserError, match="device=cuda: torch finds no usable GPU"):
        check_device("cuda")
    with pytest.raises(
        UserError, match="device=mps: torch finds no usable GPU on this machine; use --config"
    ):
        check_device("mps")
    check_device("auto")
    check_device("cpu")
