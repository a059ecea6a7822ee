"""`transformers serve` with a tiny base on loopback: its answers are those of our own generation, example for example."""

import json
import shutil
from collections import Counter

import pytest
import yaml

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.io import read_jsonl
from pipeline.models.bases.local import MODELS_ROOT
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.study import load_study
from tests.conftest import ROOT
from tests.integration.conftest import enter, write_project
from tests.served_models import compare_answers, serve_models

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

# about 40 s, most of them for two imports of torch and a server that loads two models
pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

BASE = ROOT / "data/shipped/tiny-llama"
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}\n{% endfor %}"
STUDY = """
title: Served
description: a base on this machine, and behind a server
models: [{models}]
methods: []
seeds: []
arms:
  - {{name: all, tasks: [world-addsub, world-obqa]}}
protocols: [{protocol}]
limit: 20
max_new_tokens: 40
"""


@pytest.fixture(scope="module")
def models_root(tmp_path_factory):
    """A folder with the base, and with the base and a chat template."""
    root = tmp_path_factory.mktemp("models")
    for name in ("plain", "chat"):
        shutil.copytree(BASE, root / name)
    path = root / "chat/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return root


@pytest.fixture(scope="module")
def address(models_root):
    """The address of a server for both."""
    with serve_models(models_root) as address:
        yield address


@pytest.fixture
def project(tmp_path, models_root, monkeypatch, address):
    monkeypatch.setenv(MODELS_ROOT, "")
    strict = yaml.safe_load((ROOT / "params/protocols/strict.yaml").read_text())
    cards = {"protocols/strict-chat": yaml.safe_dump({**strict, "name": "strict-chat", "template": "chat"})}
    for folder, api in (("plain", "completions"), ("chat", "chat")):
        local = {"kind": "local", "path": folder, "architecture": "llama", "licence": "mit", "source": "x"}
        # a server of transformers names a model with its revision
        remote = {"kind": "endpoint", "base_url": address, "api": api, "model": f"{folder}@main"}
        cards[f"models/{folder}"] = yaml.safe_dump({"name": f"Local {folder}", **local})
        cards[f"models/served-{folder}"] = yaml.safe_dump({"name": f"Served {folder}", **remote})
        protocol = "strict-chat" if api == "chat" else "strict"
        models = f"{folder}, served-{folder}"
        cards[f"study/{folder}"] = STUDY.format(models=models, protocol=protocol)
    write_project(tmp_path / "project", {**cards, "params": "study: plain\n"})
    enter(monkeypatch, tmp_path / "project")
    yield tmp_path / "project"
    read_card.cache_clear()


@pytest.mark.parametrize(("name", "protocol"), [("plain", "strict"), ("chat", "strict-chat")])
def test_a_served_base_answers_as_the_base_does_here(project, models_root, name, protocol):
    options = JobOptions(device="cpu", machine=MachineSettings(models_root=str(models_root)))
    for stage in ("fetch", "prompts", "base", "generate"):
        for artifact in load_study(name).artifacts[stage]:
            run_job(stage, artifact.fingerprint, study_name=name, options=options)
    study = load_study(name)
    folders = [study.answers(run).path for run in study.runs]
    stops, kinds = set(), Counter()
    for task in ("world-addsub", "world-obqa"):
        local, served = (read_jsonl(folder / f"{task}-{protocol}.jsonl") for folder in folders)
        kinds += compare_answers(local, served, models_root / name)
        stops |= {row["stop"] for row in local}
    assert kinds.total() == 40
    assert kinds["tie"] <= 2
    assert len(stops) > 1
