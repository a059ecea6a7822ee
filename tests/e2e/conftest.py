"""A checkout of its own with a small study: one tiny base of few steps, two methods, a few examples."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODEL = """
name: LLaMA (small)
kind: pretrained
architecture: llama
config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 256}
tokenizer: {kind: world}
pretraining: {steps: 20, batch_tokens: 384, length: 96, learning_rate: 1.0e-3, warmup_steps: 2, weight_decay: 0.0,
  seed: 0, world_seed: 1, logging_steps: 5}
source: test
"""
STUDY = """
title: small
description: small
models: [small-llama]
methods: [lora, {method: series, bottleneck_size: 8}]
seeds: [0]
arms:
  - {name: arithmetic, training_set: world-math, tasks: [world-addsub], limit: 40}
protocols: [strict]
limit: 6
max_new_tokens: 4
training: {max_steps: 4, batch_size: 4, warmup_steps: 1, logging_steps: 1, learning_rate: 1.0e-2}
"""
# in no study, for those that change it to one in which little training is enough for right answers
YES_NO = """
name: small-yes-no
title: Yes or no (small)
answer_form: boolean
splits:
  train: {rows: 60, sources: [{kind: world, task: world-boolq, split: train, n: 60, world_seed: 1, seed: 1}]}
licence: test
citation: test
"""


class Checkout:
    """A copy of the project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command of the environment in the checkout; return all that it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not ok or done.returncode == 0, done.stdout
        assert ok or done.returncode != 0, done.stdout
        return done.stdout

    def environment(self) -> dict[str, str]:
        """The variables that its commands get."""
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": tools, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def snakemake(self, *arguments: str) -> None:
        """Run the study."""
        self.run("snakemake", "--cores", "2", *arguments)

    def planned(self) -> dict[str, list[str]]:
        """What a run would make now: rule -> the paths, fingerprints cut off; without the report and ``all``."""
        told = self.run("snakemake", "--dry-run", "--cores", "2")
        found: dict[str, list[str]] = {}
        for rule, output in re.findall(r"^rule (\w+):\n(?:    input: .*\n)?    output: (.*)$", told, re.M):
            found.setdefault(rule, []).append(re.sub(r"/?-?[0-9a-f]{12}.*", "", output))
        for message, output in re.findall(
            r"^Job \d+: (.*)\nReason: Missing output files: ([^;\n]*)", told, re.M
        ):
            assert message
            stage = STAGES[next(folder for folder in STAGES if output.startswith(folder))]
            found.setdefault(stage, []).extend(
                re.sub(r"/?-?[0-9a-f]{12}.*", "", one) for one in output.split(", ")
            )
        if not found:
            assert "Nothing to be done" in told, told
        return {stage: sorted(paths) for stage, paths in found.items() if stage != "all"}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the checkout."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


STAGES = {
    "data/raw": "fetch",
    "data/prompts": "prompts",
    "results/audit": "audit",
    "results/bases": "base",
    "results/adapters": "train",
    "results/answers": "generate",
    "results/scores": "score",
    "reports": "report",
}


def copy_project(folder: Path) -> Checkout:
    """Copy the tracked files into ``folder`` as a git repository, with the small study as its default."""
    folder.mkdir(parents=True)
    names = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (ROOT / name).exists() and not name.startswith(("tests/", "docs/", "data/shipped", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    checkout = Checkout(folder)
    (folder / "params/models/small-llama.yaml").write_text(MODEL)
    (folder / "params/study/small.yaml").write_text(STUDY)
    (folder / "params/datasets/small-yes-no.yaml").write_text(YES_NO)
    (folder / "params/params.yaml").write_text("study: small\n")
    checkout.run("git", "init", "--quiet")
    checkout.run("git", "config", "user.email", "test@example.org")
    checkout.run("git", "config", "user.name", "test")
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message", "start")
    return checkout


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Checkout:
    """A checkout in which the small study has been run and recorded; tests work on copies of it."""
    checkout = copy_project(tmp_path_factory.mktemp("finished") / "a project")
    checkout.snakemake()
    checkout.run("python", "-m", "pipeline", "commit")
    return checkout


@pytest.fixture
def checkout(finished, tmp_path) -> Checkout:
    """A copy of the finished checkout."""
    shutil.copytree(finished.folder, tmp_path / "a project", symlinks=True)
    return Checkout(tmp_path / "a project")
