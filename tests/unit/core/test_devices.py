"""GPUs are claimed by one job each and free when it dies; here with pretended ones."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import devices
from pipeline.core.devices import claim, claimed, launch
from pipeline.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.core.devices import claim
with claim(int(sys.argv[2]), pool=sys.argv[3].split(","), directory=Path(sys.argv[1])) as got:
    print(",".join(got), flush=True)
    {then}
"""


def holder(directory, n, pool, then="time.sleep(60)"):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("{then}", then), str(directory), str(n), pool],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_holder_keeps_its_gpu_and_a_killed_one_gives_it_back(tmp_path, capsys):
    first = holder(tmp_path, 1, "0,1")
    try:
        assert first.stdout.readline().strip() == "0"
        with claim(1, pool=["0", "1"], directory=tmp_path) as got:
            assert got == ["1"]
        second = holder(tmp_path, 2, "0,1")  # needs both, so waits
        assert "waiting for 2 free GPU(s)" in second.stderr.readline()
        first.send_signal(signal.SIGKILL)
        assert second.stdout.readline().strip() == "0,1"
        second.send_signal(signal.SIGKILL)
        second.wait()
        with claim(2, pool=["0", "1"], directory=tmp_path) as got:
            assert got == ["0", "1"]
    finally:
        first.kill()
        first.wait()


def test_jobs_side_by_side_never_share(tmp_path):
    """Each of six jobs on two GPUs makes a file named after its GPU, which must not exist, and removes it."""
    mark = (
        "p = Path(sys.argv[1]) / ('in-use-' + got[0]); p.touch(exist_ok=False); time.sleep(0.2); p.unlink()"
    )
    jobs = [holder(tmp_path, 1, "a,b", then=mark) for _ in range(6)]
    ends = [(job.communicate(timeout=100), job.returncode) for job in jobs]
    assert [code for _, code in ends] == [0] * 6, ends
    assert {out.strip() for (out, _), _ in ends} == {"a", "b"}


def test_a_released_claim_is_free_again(tmp_path):
    for _ in range(2):
        with claim(1, pool=["0"], directory=tmp_path) as got:
            assert got == ["0"]


def test_more_than_there_are_is_refused(tmp_path):
    with (
        pytest.raises(UserError, match="3 GPUs asked for, 2 here"),
        claim(3, pool=["0", "1"], directory=tmp_path),
    ):
        pass


def test_devices_by_name(monkeypatch, tmp_path):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_lock_directory", lambda: tmp_path)
    with pytest.raises(UserError, match="choices: auto, cpu, cuda"), claimed("tpu"):
        pass
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    with pytest.raises(UserError, match="use --config device=cpu"), claimed("cuda"):
        pass
    with claimed("auto") as device:
        assert device == "cpu"
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["4", "7"])
    with claimed("cpu") as device:
        assert device == "cpu"
    with claimed("auto") as first:
        assert (first, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "4")
        with claimed("cuda") as second:
            assert (second, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "7")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_preset_gpus_are_the_pool(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-3fa")
    assert devices.visible_gpus() == ["5", "GPU-3fa"]


def test_launch_runs_processes_that_know_each_other(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
    )
    launch([str(script), str(tmp_path)], 2, device="cpu")
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]


def test_launch_tells_of_a_failure(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError, match=r"of 2 failed \(exit 3\)"):
        launch([str(script)], 2, device="cpu")


LAUNCHER = """
import sys
from pipeline.core.devices import launch
launch([sys.argv[1], sys.argv[2]], 2, device="cpu")
"""
WORKER = """
import os, pathlib, sys, time
from pipeline.core.devices import claimed
with claimed("cpu"):
    pathlib.Path(sys.argv[1], "pid-" + os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(120)
"""


def test_a_killed_launcher_takes_its_processes_along(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LAUNCHER, str(script), str(tmp_path)]
    with subprocess.Popen(command, env=environment) as launcher:
        files = [tmp_path / f"pid-{rank}" for rank in "01"]
        _wait(lambda: all(file.is_file() and file.read_text() for file in files))
        launcher.send_signal(signal.SIGKILL)
    pids = [int(file.read_text()) for file in files]
    _wait(lambda: not any(_alive(pid) for pid in pids))
    assert [pid for pid in pids if _alive(pid)] == []


def _wait(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited two minutes")


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
