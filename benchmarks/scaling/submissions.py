"""How many jobs of a large grid are submitted to Slurm, by the setting that decides it."""

import subprocess
import sys

from benchmarks.scaling.plan import clone_project, write_grid

# prints the numbers of a table's rows: jobs, and those submitted without groups and with them
COUNT = """
from pathlib import Path

from pipeline.commands.run.deployment.engine import Engine
from pipeline.commands.run.slurm.resources import Devices
from pipeline.commands.run.workflow import StudyRun
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.study import load_groups, load_study

study = load_study("grid")
sizes = {stage: len(artifacts) for stage, artifacts in study.artifacts.items()}
pretrained = sum(read_card("models", model).kind == "pretrained" for model in study.card.models)
print(sum(sizes.values()))
for size in (1, 8, "all"):
    groups = load_groups.group_answers(study, size)
    run = StudyRun(study, Path(), 0, MachineSettings(), groups, None, Devices(1, 1, 1), Engine(), "")
    answers = 0 if "generate" in run.local_rules else sizes["generate"]
    print(pretrained + sizes["train"] + sizes["combine"] + answers + len(groups))
"""


def count_submissions(seeds: int) -> None:
    """Print a row for each setting; the study is that of ``plan``, without results."""
    with clone_project() as clone:
        write_grid(clone, seeds=seeds)
        done = subprocess.run(
            [sys.executable, "-c", COUNT], cwd=clone, capture_output=True, text=True, check=True
        )
    jobs, *submitted = map(int, done.stdout.split())
    print("| setting | submissions |\n|---|---|")
    print(f"| each job is submitted | {jobs:,} |")
    for setting, count in zip(
        ("the default", "`adapters_per_load=8`", "`adapters_per_load=all`"), submitted, strict=True
    ):
        print(f"| {setting} | {count:,} |")
