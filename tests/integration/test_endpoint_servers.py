"""`transformers serve` with a tiny base on loopback: its answers are those of our own generation, example for example."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.io import read_jsonl
from pipeline.models.bases.local import MODELS_ROOT
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.study import load_study
from tests.conftest import ROOT
from tests.integration.conftest import enter, write_project

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (models_root / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--device", "cpu"],
            cwd=models_root,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()
            server.wait()


def _wait_for(url, server):
    for _ in range(900):
        assert server.poll() is None
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError("the server does not start")


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
    stops, ties = [], 0
    for task in ("world-addsub", "world-obqa"):
        rows = [read_jsonl(folder / f"{task}-{protocol}.jsonl") for folder in folders]
        for local, served in zip(*rows, strict=True):
            stops.append(local["stop"])
            assert local["id"] == served["id"]
            if local["stop"] == "complete":
                # here generation ends where the model begins another example
                assert served["text"].startswith(local["text"])
            elif (served["text"], served["stop"]) != (local["text"], local["stop"]):
                # where two tokens are equally likely, rounding decides, and a batch rounds in another way than one row
                assert _has_tie(models_root / name, local["prompt"], served["text"])
                ties += 1
    assert len(stops) == 40
    assert ties <= 2
    assert len(set(stops)) > 1


def _has_tie(folder, prompt, text):
    """Return whether greedy decoding of a text meets two tokens of one logit, up to rounding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + text)["input_ids"]])
    with torch.inference_mode():
        best = model(ids).logits[0, start - 1 :].topk(2).values
    return bool((best[:, 0] - best[:, 1]).min() < 1e-4)
