"""A study of a model in a local folder, from `check` to its answers."""

import shutil

import pytest
import yaml

from pipeline.commands.app import run_command
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.models.bases.local import MODELS_ROOT
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.study import load_study
from tests.integration.conftest import STAGES, STUDY, enter, run_study, write_project
from tests.tiny import save_base

CARD = {
    "name": "Tiny Qwen",
    "kind": "local",
    "path": "org/tiny",
    "architecture": "qwen2",
    "modules": "llama",
    "licence": "mit",
    "source": "test",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    # restored at the end, whatever the jobs set
    monkeypatch.setenv(MODELS_ROOT, "")
    save_base("qwen2", tmp_path / "models/org/tiny")
    study = STUDY.replace("small-llama", "tiny").replace(
        ", {method: prefix-tuning, label: prefix}, full]", "]"
    )
    cards = {"models/tiny": yaml.safe_dump(CARD), "study/small": study, "params": "study: small\n"}
    write_project(tmp_path / "project", cards)
    enter(monkeypatch, tmp_path / "project")
    yield tmp_path
    read_card.cache_clear()


def test_a_local_model_is_checked_before_the_jobs_and_used_by_all(project, monkeypatch, capsys):
    assert run_command(["check"]) == 1
    assert "org/tiny: models_root is not set" in capsys.readouterr().err
    root = str(project / "models")
    machine = MachineSettings(models_root=root)
    base = load_study().base("tiny")
    assert set(base.params) == {"path"}
    run_job("base", base.fingerprint, options=JobOptions(device="cpu", machine=machine))
    assert "model folder org/tiny" in (project / "project/params/lock.yaml").read_text()
    monkeypatch.setenv(MODELS_ROOT, "")
    assert run_command(["check", "--machine", f"models_root={root}"]) == 0
    assert run_command(["check", "--machine", "models_rot=x"]) == 1
    assert "--machine models_rot: unknown (choices: " in capsys.readouterr().err
    shutil.rmtree(base.path)
    run_study(monkeypatch)
    scores = load_study().artifacts[STAGES[-1]]
    assert len(scores) == 3
    # a folder relative to the caller's, for one command
    for command in (
        ["predict", "--run", "tiny/bare", "--device", "cpu", "how many stamps ?"],
        ["show", "world-addsub", "--model", "tiny", "--tokens"],
        ["lengths", "world-addsub", "--model", "tiny"],
    ):
        monkeypatch.setenv(MODELS_ROOT, "")
        capsys.readouterr()
        assert run_command(command) == 1
        assert "models_root is not set" in capsys.readouterr().err
        monkeypatch.chdir(project)
        assert run_command([*command, "--models-root", "models"]) == 0, capsys.readouterr().err
    assert all(score.path.is_file() for score in scores)
