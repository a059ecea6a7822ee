"""Unfinished work: what killed jobs left is freed on request, never what a running job needs or a planned one resumes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.commands.run.stages import JobOptions, run_train
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory
from pipeline.core.work_folder import locked_work_folder, work_folder
from pipeline.results.disk.unfinished import free_unfinished, remind_of_unfinished
from pipeline.study.artifacts import Artifact
from tests.conftest import ROOT

# holds the lock of a result's work folder until it is killed
JOB = """
import sys, time
from pathlib import Path
from pipeline.core.work_folder import locked_work_folder

with locked_work_folder(Path(sys.argv[1])):
    print("started", flush=True)
    time.sleep(600)
"""


class FakeStudy:
    """The part of a study that planning needs: its name and artifacts."""

    name = "study-a"

    def __init__(self, *artifacts: Artifact) -> None:
        self._artifacts = list(artifacts)

    def named(self) -> list[Artifact]:
        return self._artifacts


def adapter(seed: int) -> Artifact:
    return Artifact("train", f"tiny/lora/set/seed{seed}/", {"seed": seed})


def leave_work(root: Path, artifact: Artifact) -> Path:
    """Create the work folder of a killed training with a checkpoint of 1,000 bytes; return it."""
    work = work_folder(root / artifact.path)
    work.mkdir(parents=True)
    (work / "checkpoint.pt").write_bytes(bytes(1000))
    return work


def test_abandoned_work_is_freed_and_resumable_work_is_listed(tmp_path, capsys):
    planned, unplanned, finished = (leave_work(tmp_path, adapter(seed)) for seed in range(3))
    (tmp_path / adapter(2).path).mkdir()
    study = FakeStudy(adapter(0), adapter(2))
    free_unfinished(studies=[study], root=tmp_path)
    assert unplanned.exists()
    assert "nothing was freed" in capsys.readouterr().out
    free_unfinished(studies=[study], confirmed=True, root=tmp_path)
    assert [work.exists() for work in (planned, unplanned, finished)] == [True, False, False]
    output = capsys.readouterr().out
    assert re.search(r"^keep +1\.0 kB .*seed0/\.[0-9a-f]{12}\.work +resumable: study-a *$", output, re.M)
    assert re.search(r"^free +1\.0 kB .*seed1/\.[0-9a-f]{12}\.work +no study plans it *$", output, re.M)
    assert re.search(r"^free +1\.0 kB .*seed2/\.[0-9a-f]{12}\.work +the result exists *$", output, re.M)
    assert "to free: 2 of 3 unfinished results, 2.0 kB" in output
    assert (tmp_path / adapter(2).path).exists()


def test_resumable_work_is_freed_only_on_request(tmp_path):
    planned = leave_work(tmp_path, adapter(0))
    studies = [FakeStudy(adapter(0))]
    free_unfinished(studies=studies, confirmed=True, root=tmp_path)
    assert planned.exists()
    free_unfinished(studies=studies, confirmed=True, include_resumable=True, root=tmp_path)
    assert not planned.exists()


def test_work_of_a_running_job_is_skipped(tmp_path, capsys):
    work = leave_work(tmp_path, adapter(0))
    command = [sys.executable, "-c", JOB, str(tmp_path / adapter(0).path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert job.stdout.readline() == "started\n"
        free_unfinished(studies=[], confirmed=True, include_resumable=True, root=tmp_path)
        assert (work / "checkpoint.pt").exists()
        assert "skipped: 1 in use by a running job" in capsys.readouterr().out
    finally:
        job.kill()
        job.communicate()
    free_unfinished(studies=[], confirmed=True, root=tmp_path)
    assert not work.exists()


def test_a_second_training_of_an_adapter_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = JobOptions(device="cpu")
    with (
        locked_work_folder(adapter(0).path),
        pytest.raises(UserError, match=r"\.work: another process is working on .*; wait until it ends"),
    ):
        run_train(None, adapter(0), options)
    assert not work_folder(adapter(0).path).exists()


def test_what_a_killed_write_left_is_freed_and_a_running_write_is_not(tmp_path, capsys):
    target = tmp_path / adapter(0).path
    killed = target.with_name(f".{target.name}.4711.partial")
    (killed / "part").mkdir(parents=True)
    files = [tmp_path / "results/records/train" / f".record{number}.json.4711.partial" for number in range(2)]
    files[0].parent.mkdir(parents=True)
    for file in files:
        file.write_bytes(bytes(10))
    yesterday = time.time() - 86400
    os.utime(files[0], (yesterday, yesterday))
    with atomic_directory(target) as running:
        (running / "weights").write_bytes(bytes(10))
        remind_of_unfinished(tmp_path)
        assert "unfinished work: 4, 30 bytes; list it" in capsys.readouterr().out
        free_unfinished(studies=[], confirmed=True, root=tmp_path)
        assert (running / "weights").exists()
    assert (target / "weights").exists()
    assert not killed.exists()
    assert [file.exists() for file in files] == [False, True]
    assert "skipped: 2 in use" in capsys.readouterr().out


def test_recent_work_stays_if_only_older_work_is_freed(tmp_path):
    recent, old = (leave_work(tmp_path, adapter(seed)) for seed in range(2))
    for path in (old / "checkpoint.pt", old):
        os.utime(path, (0, 0))
    free_unfinished(studies=[], confirmed=True, older_than_days=1, root=tmp_path)
    assert recent.exists()
    assert not old.exists()
