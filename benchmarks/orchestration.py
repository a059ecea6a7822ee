"""What orchestration costs: a call with nothing to do, a plan of 2,000 jobs, and what a job pays beside its stage's work.

Works in a clone of this checkout (committed files only) with the results of a finished default study. The alternative in
the same run: a bare Snakefile of as many jobs in the same chains, without params, fingerprints or anything of ours.

    python -m benchmarks.orchestration --finished CHECKOUT [--rounds N]
"""

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE = ("data/raw", "data/prompts", "results", "reports", "dvc.lock")
GRID_SEEDS = 27  # of quickstart's 3 models, 4 methods and 2 arms: 1,982 jobs
JOB_STAGES = ("prompts", "audit", "train", "generate", "score")
BARE = """
RUNS = range({runs})
rule all:
    input: "report"
rule report:
    input: [ancient(f"scores/{{run}}") for run in RUNS]
    output: "report"
    shell: "cat {{input}} > {{output}}"
rule prompts:
    output: "prompts"
    shell: "touch {{output}}"
rule train:
    input: ancient("prompts")
    output: "adapters/{{run}}"
    shell: "touch {{output}}"
rule generate:
    input: ancient("adapters/{{run}}"), ancient("prompts")
    output: "answers/{{run}}"
    shell: "touch {{output}}"
rule score:
    input: ancient("answers/{{run}}")
    output: "scores/{{run}}"
    shell: "touch {{output}}"
"""
# A stage that does nothing, in a process that has everything loaded: what is left is ours.
JOB = """
import importlib, sys, time
from pipeline.commands import stages
from pipeline.core import warm
from pipeline.__main__ import run_stage
for name in warm.PRELOADED: importlib.import_module(name)
stage = sys.argv[1]
stages.COMMANDS[stage] = lambda study, given: None
wall, cpu = time.perf_counter(), time.process_time()
assert run_stage(sys.argv[1:]) == 0
print(time.perf_counter() - wall, time.process_time() - cpu)
"""

Seconds = dict[str, list[tuple[float, float]]]  # what was run -> (wall, CPU) of each round


def main() -> None:
    """Measure by turns and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--finished", type=Path, required=True, help="checkout with the default study's results"
    )
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        _copy_results(given.finished, clone)
        jobs = _grid(clone)
        bare = {runs: _bare(Path(folder) / f"bare-{runs}", runs) for runs in (60, jobs // 3)}
        load = os.getloadavg()[0]
        told = _measure(clone, bare, rounds=given.rounds)
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average {load:.1f}, "
            f"{given.rounds} rounds; the grid has {jobs} jobs\n"
        )
        _table(told)
        _job_table(clone, rounds=given.rounds)


def _copy_results(finished: Path, clone: Path) -> None:
    for name in MADE:
        source, target = finished / name, clone / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)


def _grid(clone: Path) -> int:
    """Add a study of quickstart's grid with many seeds; return how many jobs it has."""
    card = (clone / "params/study/quickstart.yaml").read_text()
    lines = [
        f"seeds: {list(range(GRID_SEEDS))}" if line.startswith("seeds:") else line
        for line in card.splitlines()
    ]
    (clone / "params/study/grid.yaml").write_text("\n".join(lines) + "\n")
    text = "from pipeline.study.grid import load_study; print(len(load_study('grid').named()))"
    return int(
        subprocess.run(
            [sys.executable, "-c", text], cwd=clone, capture_output=True, text=True, check=True
        ).stdout
    )


def _bare(folder: Path, runs: int) -> Path:
    folder.mkdir()
    (folder / "Snakefile").write_text(BARE.format(runs=runs))
    if runs == 60:
        subprocess.run(
            ["snakemake", "--cores", "4", "--quiet", "all"], cwd=folder, check=True, capture_output=True
        )
    return folder


def _measure(clone: Path, bare: dict[int, Path], *, rounds: int) -> Seconds:
    small, large = sorted(bare)
    nothing = ["snakemake", "--cores", "all", "--rerun-triggers", "software-env"]
    plan = ["snakemake", "--dry-run", "--quiet", "all", "--rerun-triggers", "software-env"]
    cases: dict[str, tuple[Sequence[str], Path]] = {
        "nothing to do, default study": (["snakemake", "--cores", "all"], clone),
        f"nothing to do, bare Snakefile of {3 * small + 3} jobs": (nothing, bare[small]),
        "snakemake -n, grid": (["snakemake", "--dry-run", "--quiet", "all", "--config", "study=grid"], clone),
        f"snakemake -n, bare Snakefile of {3 * large + 3} jobs": (plan, bare[large]),
    }
    told: Seconds = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, (command, folder) in cases.items():
            spent = _timed(command, folder)
            if number:  # the first round fills caches
                told[name].append(spent)
    return told


def _timed(command: Sequence[str], folder: Path) -> tuple[float, float]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _table(told: Seconds) -> None:
    print("| | wall s, median (most) | CPU s, median |\n|---|---|---|")
    for name, spent in told.items():
        walls, cpu = [wall for wall, _ in spent], [cpu for _, cpu in spent]
        print(
            f"| {name} | {statistics.median(walls):.2f} ({max(walls):.2f}) | {statistics.median(cpu):.2f} |"
        )


def _job_table(clone: Path, *, rounds: int) -> None:
    """Print what a job costs beside its stage's work: the process that asks for it, and all around the stage."""
    asking = [
        _timed(
            [sys.executable, "-c", "import pipeline.__main__, pipeline.core.warm, pipeline.core.processes"],
            clone,
        )[0]
        for _ in range(rounds)
    ]
    print(
        f"\nthe process that asks: {statistics.median(asking):.2f} s\n\n| job | wall s, median (most) | CPU s, median |\n|---|---|---|"
    )
    text = "from pipeline.study.grid import load_study; s = load_study(); print(*(s.artifacts[{!r}][-1].fingerprint,))"
    for stage in JOB_STAGES:
        found = subprocess.run(
            [sys.executable, "-c", text.format(stage)], cwd=clone, capture_output=True, text=True, check=True
        )
        command = [sys.executable, "-W", "ignore", "-c", JOB, stage, found.stdout.strip()]
        ours = [_numbers(command, clone) for _ in range(rounds)]
        walls, cpu = zip(*ours, strict=True)
        print(
            f"| {stage} | {statistics.median(walls):.2f} ({max(walls):.2f}) | {statistics.median(cpu):.2f} |"
        )


def _numbers(command: Sequence[str], folder: Path) -> tuple[float, float]:
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    wall, cpu = told.split()[-2:]
    return float(wall), float(cpu)


if __name__ == "__main__":
    main()
