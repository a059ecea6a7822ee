"""Copies of the project with a small study: a tiny base trained for a few steps, two methods, a few examples."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.study import stages
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
# The study does not use this card. A test that needs right answers after little training switches to it.
YES_NO = """
name: small-yes-no
title: Yes or no (small)
answer_form: boolean
splits:
  train: {rows: 60, sources: [{kind: world, task: world-boolq, split: train, n: 60, world_seed: 1, seed: 1}]}
licence: test
citation: test
"""
# what a copy does without, among the tracked files
OMITTED = ("tests/", "docs/", "results/", "data/shipped", "dvc.lock")
# folder of artifacts -> name of the stage that writes them
STAGES = {stage.folder: name for name, stage in stages.STAGES.items()}
# a fingerprint at the end of a path, with what separates it from the label
FINGERPRINT = r"/?-?[0-9a-f]{12}.*"


class Checkout:
    """A copy of the project in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command in the checkout and return its output, stdout and stderr together.

        Args:
            command: the program, from the environment of the tests or PATH, and its arguments.
            ok: whether the command must succeed; False: it must fail.
        """
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not ok or process.returncode == 0, process.stdout
        assert ok or process.returncode != 0, process.stdout
        return process.stdout

    def environment(self) -> dict[str, str]:
        """Return the environment variables of its commands."""
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": tools, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def snakemake(self, *arguments: str) -> None:
        """Run the study."""
        self.run("snakemake", "--cores", "2", *arguments)

    def planned(self) -> dict[str, list[str]]:
        """Return what a run would produce now: stage -> sorted paths without fingerprints."""
        output = self.run("snakemake", "--dry-run", "--printshellcmds", "--cores", "2")
        paths: dict[str, list[str]] = {}
        # rules without a message
        for rule, path in re.findall(r"^rule (\w+):\n(?:    input: .*\n)?    output: (.*)$", output, re.M):
            paths.setdefault(rule, []).append(re.sub(FINGERPRINT, "", path))
        # jobs with a message, which snakemake prints instead of the rule
        for message, missing in re.findall(
            r"^Job \d+: (.*)\nReason: Missing output files: ([^;\n]*)", output, re.M
        ):
            assert message
            stage = STAGES[next(folder for folder in STAGES if missing.startswith(folder))]
            paths.setdefault(stage, []).extend(re.sub(FINGERPRINT, "", path) for path in missing.split(", "))
        if not paths:
            assert "Nothing to be done" in output, output
        return {stage: sorted(labels) for stage, labels in paths.items() if stage != "all"}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the checkout; the text must be there."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def copy_project(folder: Path) -> Checkout:
    """Copy the tracked files into ``folder`` as a git repository, with the small study as its default."""
    folder.mkdir(parents=True)
    names = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (ROOT / name).exists() and not name.startswith(OMITTED):
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


def find_processes(folder: Path) -> list[psutil.Process]:
    """Return the running processes whose working folder is in a checkout."""
    processes = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder)
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


def find_errors(output: str) -> set[str]:
    """Return the errors in an output: of snakemake the reasons of failed jobs, which it prints at once and at the end."""
    matches = (re.fullmatch(r"(?:failed: .*?: |\s*)(error: .*)", line) for line in output.splitlines())
    return {match[1] for match in matches if match}


def copy_checkout(checkout: Checkout, folder: Path) -> Checkout:
    """Return a copy of a checkout in a new folder, with its results and caches."""
    shutil.copytree(checkout.folder, folder, symlinks=True)
    return Checkout(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Checkout:
    """Return a checkout in which the small study was run and recorded; tests must not change it."""
    checkout = copy_project(tmp_path_factory.mktemp("finished") / "a project")
    checkout.snakemake()
    checkout.run("python", "-m", "pipeline", "commit")
    return checkout


@pytest.fixture
def checkout(finished, tmp_path) -> Checkout:
    """Return a copy of the finished checkout."""
    return copy_checkout(finished, tmp_path / "a project")
