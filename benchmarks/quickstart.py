"""Where the time of a study's cold run goes: pretraining, training, generation, report, start-up and imports.

Runs the study in a clone of this checkout (committed files only), samples the memory of the whole process tree, then
reads what each job noted. The alternative in the same run: what imports would cost if every job paid them itself.

    python -m benchmarks.quickstart [--study NAME] [--cores N] [--rebuild-bases]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

STAGES = ("fetch", "prompts", "audit", "base", "train", "generate", "score", "report")
NOTED = {"base": "results/bases", "train": "results/adapters", "generate": "results/answers"}
ROOT = Path(__file__).parents[1]
IMPORTS = "import importlib\nfrom pipeline.core.warm import PRELOADED\nfor name in PRELOADED: importlib.import_module(name)"


def main() -> None:
    """Run a study cold and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument(
        "--rebuild-bases", action="store_true", help="pretrain, where shipped bases would be copied"
    )
    parser.add_argument("--data-root", type=Path, default=None, help="folder of local dataset files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        imports = _import_seconds(clone)
        wall, memory = _run(clone, given)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {given.cores} used")
        print(f"study {given.study}: {wall:.0f} s, peak memory of all processes {memory:.2f} GiB\n")
        _table(clone, imports=imports, capacity=wall * given.cores)


def _import_seconds(clone: Path) -> float:
    """CPU seconds of one process that imports what the jobs need; the second of two, so that files are in memory."""
    spent = 0.0
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", IMPORTS], cwd=clone, check=True, env=_environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def _run(clone: Path, given: argparse.Namespace) -> tuple[float, float]:
    """Return wall seconds and the largest proportional memory (GiB) of snakemake and all below it."""
    config = [f"study={given.study}"] + (
        [f"data_root={given.data_root.resolve()}"] if given.data_root else []
    )
    command = [sys.executable, "-m", "snakemake", "--cores", str(given.cores), "--config", *config]
    more = {"PIPELINE_REBUILD_BASES": "1"} if given.rebuild_bases else {}
    started, largest = time.monotonic(), 0
    with (clone / "run.log").open("w") as log:
        running = subprocess.Popen(command, cwd=clone, env=_environment(**more), stdout=log, stderr=log)
        tree = psutil.Process(running.pid)
        while running.poll() is None:
            largest = max(largest, sum(_memory(one) for one in [tree, *_below(tree)]))
            time.sleep(2)
    if running.returncode:
        sys.exit((clone / "run.log").read_text()[-3000:])
    return time.monotonic() - started, largest / 2**30


def _below(tree: psutil.Process) -> list[psutil.Process]:
    try:
        return tree.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _table(clone: Path, *, imports: float, capacity: float) -> None:
    """Print a row a stage: jobs, seconds as snakemake saw them, seconds of the stage's own work."""
    jobs, seen, worked = 0, 0.0, 0.0
    print("| stage | jobs | seconds (sum over jobs) | of which its own work | share of cores x wall |")
    print("|---|---|---|---|---|")
    for stage in STAGES:
        files = list((clone / "logs" / stage).rglob("*.tsv"))
        wall = sum(float(file.read_text().splitlines()[1].split("\t")[0]) for file in files)
        notes = clone.glob(f"{NOTED[stage]}/**/run.json") if stage in NOTED else []
        own = sum(json.loads(note.read_text())["seconds"] for note in notes) if stage in NOTED else wall
        print(f"| {stage} | {len(files)} | {wall:.1f} | {own:.1f} | {100 * wall / capacity:.1f} % |")
        jobs, seen, worked = jobs + len(files), seen + wall, worked + own
    print(f"| all | {jobs} | {seen:.1f} | {worked:.1f} | {100 * seen / capacity:.1f} % |")
    heavy = sum(len(list((clone / "logs" / stage).rglob("*.tsv"))) for stage in STAGES[3:])
    print(
        f"\nImports: {imports:.1f} CPU-s, once; in each of the {heavy} jobs that need them: {heavy * imports:.0f} CPU-s,"
    )
    print(f"{heavy * imports / max(worked, 1e-9):.2f} times the work of all jobs.")


if __name__ == "__main__":
    main()
