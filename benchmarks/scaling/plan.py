"""The time that a plan takes, by the number of its jobs."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
# 4 models x 19 methods x 2 arms
CARD = """
title: Grid
description: A large grid
models: [tiny-llama, tiny-bloom, tiny-gptj, smollm2-135m]
methods: {methods}
seeds: {seeds}
arms:
  - name: arithmetic
    training_set: world-math
    tasks: [world-addsub, world-multiarith, world-svamp, world-aqua]
  - name: commonsense
    training_set: world-commonsense
    tasks: [world-boolq, world-piqa, world-siqa, world-winogrande, world-hellaswag, world-obqa, world-arc]
protocols: [strict]
template: strict
limit: 150
max_new_tokens: 24
training: {{max_steps: 300, batch_size: 8}}
"""
# prints the number of trainings and the CPU time of resolving the study, without imports
RESOLVE = """
import time
from pipeline.study import load_study
start = time.process_time()
study = load_study("grid")
print(len(study.paths("train")), time.process_time() - start)
"""


def measure_plans(seeds: Sequence[int]) -> None:
    """Print a row for each number of seeds, and a straight line through the rows.

    The study is in a clone of this checkout (committed files only), without results.
    """
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.1f}\n")
    print(
        "| training jobs | jobs | CPU-s | of which resolving the study | wall s | peak MiB |\n|---|---|---|---|---|---|"
    )
    rows = []
    with clone_project() as clone:
        for count in seeds:
            write_grid(clone, seeds=count)
            rows.append(_measure_plan(clone))
    if len(rows) > 1:
        jobs, seconds = zip(*rows, strict=True)
        slope, start = np.polyfit(jobs, seconds, 1)
        print(
            f"\nfit: {start:.2f} s + {1000 * slope:.2f} ms a job; 300,000 jobs: {start + 3e5 * slope:.0f} s"
        )


@contextmanager
def clone_project() -> Iterator[Path]:
    """Yield a clone of this checkout, with committed files only."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        yield clone


def write_grid(clone: Path, *, seeds: int) -> None:
    """Write the study "grid" into a clone."""
    # combinations train nothing
    cards = sorted((clone / "params/methods").glob("*.yaml"))
    methods = [path.stem for path in cards if "kind: combined" not in path.read_text()]
    card = CARD.format(methods=methods, seeds=list(range(seeds)))
    (clone / "params/study/grid.yaml").write_text(card)


def _measure_plan(clone: Path) -> tuple[int, float]:
    output = subprocess.run(
        [sys.executable, "-c", RESOLVE], cwd=clone, capture_output=True, text=True, check=True
    )
    trainings, resolving = output.stdout.split()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = ["/usr/bin/env", "snakemake", "--dry-run", "--config", "study=grid"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search(r"^total +(\d+)", done.stdout + done.stderr, re.M)
    assert match
    jobs = int(match[1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # the largest child until now: the sizes grow
    peak = after.ru_maxrss / 1024
    print(f"| {int(trainings):,} | {jobs:,} | {cpu:.1f} | {float(resolving):.1f} | {wall:.1f} | {peak:.0f} |")
    return jobs, cpu
