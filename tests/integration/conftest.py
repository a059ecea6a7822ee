"""Fixtures: tiny bases, and a small finished study in its own folder, built in this process and without MLflow."""

import shutil
from contextlib import nullcontext

import pytest

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.params import reading
from pipeline.results.mlflow import runs
from pipeline.results.status import plan_artifacts
from pipeline.study import find, grid
from tests.conftest import ROOT
from tests.e2e.conftest import MODEL
from tests.tiny import CONFIGS, save_base, write_rows

STUDY = """
title: Small
description: small
models: [small-llama]
methods: [lora, {method: series, bottleneck_size: 8}, {method: prefix-tuning, label: prefix}, full]
seeds: [0]
arms:
  - {name: arithmetic, training_set: world-math, tasks: [world-addsub, world-aqua], limit: 40}
protocols: [strict, paper]
limit: 6
max_new_tokens: 6
training: {max_steps: 4, batch_size: 4, warmup_steps: 1, logging_steps: 1, learning_rate: 1.0e-2, epochs: null}
"""
STAGES = ("fetch", "prompts", "audit", "base", "train", "generate", "score")


def enter(patch, root):
    """Make ``root`` the current project for params and commands."""
    for module in (reading, grid, find):
        patch.setattr(module, "PARAMS", root / "params")
    patch.chdir(root)
    reading.read_card.cache_clear()


def write_project(root, cards):
    """Write a project with this repository's datasets, methods and protocols, and ``cards`` (name under params/ -> text)."""
    for kind in ("datasets", "methods", "protocols"):
        shutil.copytree(ROOT / "params" / kind, root / "params" / kind)
    for name, text in cards.items():
        path = root / "params" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def leave_out_mlflow(patch):
    """Record nothing in MLflow."""
    patch.setattr(runs, "_write", lambda *_: True)
    patch.setattr(runs, "stream_training", lambda *_: nullcontext())


def run_study(patch):
    """Run all stages of the default study in this process."""
    leave_out_mlflow(patch)
    for stage in STAGES:
        for artifact in find.load_study().artifacts[stage]:
            run_job(stage, artifact.fingerprint, options=JobOptions(device="cpu"))


def extend_project(finished_study, root, studies):
    """Copy a finished project to ``root``, and run further studies there: name -> text of the card."""
    shutil.copytree(finished_study, root)
    for name, text in studies.items():
        (root / f"params/study/{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, root)
        leave_out_mlflow(patch)
        for name in studies:
            for artifact in plan_artifacts(find.load_study(name)):
                run_job(
                    artifact.stage, artifact.fingerprint, study_name=name, options=JobOptions(device="cpu")
                )
    reading.read_card.cache_clear()


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory):
    """Folder of a project whose study 'small' is finished; the seeds of its study 'more' are not trained."""
    root = tmp_path_factory.mktemp("study") / "a project"
    unfinished_study = STUDY.replace("seeds: [0]", "seeds: [5, 6]")
    cards = {
        "models/small-llama": MODEL,
        "study/small": STUDY,
        "study/more": unfinished_study,
        "params": "study: small\n",
    }
    write_project(root, cards)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, root)
        run_study(patch)
    reading.read_card.cache_clear()
    return root


@pytest.fixture
def project(finished_study, tmp_path, monkeypatch):
    """A copy of the finished project, which is the current project."""
    root = tmp_path / "a project"
    shutil.copytree(finished_study, root)
    enter(monkeypatch, root)
    yield root
    reading.read_card.cache_clear()


@pytest.fixture(scope="module")
def base(request, tmp_path_factory):
    """The folder of a tiny LLaMA, with the changes that a module's BASE names."""
    folder = tmp_path_factory.mktemp("base") / "llama"
    save_base("llama", folder, **getattr(request.module, "BASE", {}))
    return folder


@pytest.fixture(scope="module")
def prompts(request, tmp_path_factory):
    """A prompts file of 22 examples, or of as many as a module's ROWS says."""
    return write_rows(
        tmp_path_factory.mktemp("data") / "train.parquet", n=getattr(request.module, "ROWS", 22)
    )


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folder of a tiny base for each of the three architectures."""
    folders = {}
    for architecture in CONFIGS:
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        save_base(architecture, folders[architecture])
    return folders
