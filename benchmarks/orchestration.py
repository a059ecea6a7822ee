"""What orchestration costs: a run with nothing to do, a plan of 2,000 jobs, and the overhead of a job.

Works in a clone of this checkout (committed files only) with the results of a finished default study. For comparison: a
bare Snakefile with as many jobs in the same chains, without params, fingerprints or anything else of ours.

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
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ("data/raw", "data/prompts", "results", "reports", "dvc.lock")
# with quickstart's 3 models, 4 methods and 2 arms: 1,982 jobs
GRID_SEEDS = 27
# runs of the bare Snakefile that has as many jobs as the default study
SMALL_RUNS = 60
JOB_STAGES = ("prompts", "audit", "train", "generate", "score")
BARE_SNAKEFILE = """
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
# A stage that does nothing, in a process that has everything loaded: the time that remains is overhead.
EMPTY_JOB = """
import importlib, sys, time
from pipeline.commands.app import run_command
from pipeline.commands.run.jobs import STAGE_FUNCTIONS
from pipeline.core import warm
for name in warm.PRELOADED: importlib.import_module(name)
stage = sys.argv[1]
STAGE_FUNCTIONS[stage] = lambda study, artifact, options: None
wall, cpu = time.perf_counter(), time.process_time()
assert run_command(sys.argv[1:]) == 0
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


class Seconds(NamedTuple):
    """Time of a command."""

    wall: float
    cpu: float


def main() -> None:
    """Measure all commands in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--finished", type=Path, required=True, help="checkout with the default study's results"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        _copy_results(arguments.finished, clone)
        jobs = _add_grid_study(clone)
        bare = {
            runs: _write_bare_project(Path(folder) / f"bare-{runs}", runs) for runs in (SMALL_RUNS, jobs // 3)
        }
        load = os.getloadavg()[0]
        seconds = _measure_calls(clone, bare, rounds=arguments.rounds)
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average {load:.1f}, "
            f"{arguments.rounds} rounds; the grid has {jobs} jobs\n"
        )
        _print_calls(seconds)
        _print_jobs(clone, rounds=arguments.rounds)


def _copy_results(finished: Path, clone: Path) -> None:
    for name in RESULTS:
        source, target = finished / name, clone / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)


def _add_grid_study(clone: Path) -> int:
    """Add a study with quickstart's grid and many seeds; return its number of jobs."""
    card = (clone / "params/study/quickstart.yaml").read_text()
    lines = [
        f"seeds: {list(range(GRID_SEEDS))}" if line.startswith("seeds:") else line
        for line in card.splitlines()
    ]
    (clone / "params/study/grid.yaml").write_text("\n".join(lines) + "\n")
    script = "from pipeline.study import load_study; print(len(load_study('grid').named()))"
    return int(_capture_output([sys.executable, "-c", script], clone))


def _write_bare_project(folder: Path, runs: int) -> Path:
    """Write a project with the bare Snakefile; run it if it is to be measured with nothing to do."""
    folder.mkdir()
    (folder / "Snakefile").write_text(BARE_SNAKEFILE.format(runs=runs))
    if runs == SMALL_RUNS:
        subprocess.run(
            ["snakemake", "--cores", "4", "--quiet", "all"], cwd=folder, check=True, capture_output=True
        )
    return folder


def _measure_calls(clone: Path, bare: dict[int, Path], *, rounds: int) -> dict[str, list[Seconds]]:
    """Return the times of each call in every round."""
    small, large = sorted(bare)
    run = ["snakemake", "--cores", "all"]
    plan = ["snakemake", "--dry-run", "--quiet", "all"]
    # as in our profile
    triggers = ["--rerun-triggers", "software-env"]
    calls: dict[str, tuple[Sequence[str], Path]] = {
        "nothing to do, default study": (run, clone),
        f"nothing to do, bare Snakefile of {3 * small + 3} jobs": ([*run, *triggers], bare[small]),
        "snakemake -n, grid": ([*plan, "--config", "study=grid"], clone),
        f"snakemake -n, bare Snakefile of {3 * large + 3} jobs": ([*plan, *triggers], bare[large]),
    }
    seconds: dict[str, list[Seconds]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, (command, folder) in calls.items():
            call_seconds = _time_command(command, folder)
            # the first round only fills caches
            if number:
                seconds[name].append(call_seconds)
    return seconds


def _time_command(command: Sequence[str], folder: Path) -> Seconds:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _capture_output(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def _print_calls(seconds: dict[str, list[Seconds]]) -> None:
    print("| | wall s, median (most) | CPU s, median |\n|---|---|---|")
    for name, rounds in seconds.items():
        _print_row(name, rounds)


def _print_row(name: str, rounds: Sequence[Seconds]) -> None:
    walls, cpu = [seconds.wall for seconds in rounds], [seconds.cpu for seconds in rounds]
    wall_text = f"{statistics.median(walls):.2f} ({max(walls):.2f})"
    print(f"| {name} | {wall_text} | {statistics.median(cpu):.2f} |")


def _print_jobs(clone: Path, *, rounds: int) -> None:
    """Print the overhead of a job: of the process that requests it, and of everything around its stage."""
    imports = "import pipeline.__main__, pipeline.core.warm, pipeline.core.processes"
    requests = [_time_command([sys.executable, "-c", imports], clone).wall for _ in range(rounds)]
    print(f"\nthe process that requests a job: {statistics.median(requests):.2f} s\n")
    print("| job | wall s, median (most) | CPU s, median |\n|---|---|---|")
    for stage in JOB_STAGES:
        script = (
            f"from pipeline.study import load_study; print(load_study().artifacts[{stage!r}][-1].fingerprint)"
        )
        fingerprint = _capture_output([sys.executable, "-c", script], clone).strip()
        command = [sys.executable, "-W", "ignore", "-c", EMPTY_JOB, stage, fingerprint]
        _print_row(stage, [_time_empty_job(command, clone) for _ in range(rounds)])


def _time_empty_job(command: Sequence[str], folder: Path) -> Seconds:
    wall, cpu = _capture_output(command, folder).split()[-2:]
    return Seconds(float(wall), float(cpu))


if __name__ == "__main__":
    main()
