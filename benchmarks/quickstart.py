"""Where the time of a study's cold run goes: pretraining, training, generation, report, start-up and imports.

Runs the study in a clone of this checkout (committed files only), samples the memory of the whole process tree, then
reads the timing that each job recorded. For comparison: the cost of imports if every job did them.

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
# the stages whose run.json has the seconds of their own work, and its folder
RESULTS = {"base": "results/bases", "train": "results/adapters", "generate": "results/answers"}
ROOT = Path(__file__).parents[1]
# the stages whose jobs need the heavy imports
IMPORTING_STAGES = STAGES[STAGES.index("base") :]
IMPORT_SCRIPT = """
import importlib
from pipeline.core.warm import PRELOADED
for name in PRELOADED: importlib.import_module(name)
"""
MEMORY_INTERVAL_S = 2


def main() -> None:
    """Run a study cold and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument(
        "--rebuild-bases", action="store_true", help="pretrain, where shipped bases would be copied"
    )
    parser.add_argument("--data-root", type=Path, default=None, help="folder of local dataset files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        import_s = _measure_import_seconds(clone)
        wall_s, memory_gib = _run_study(clone, arguments)
        processor = platform.processor() or platform.machine()
        print(f"{processor}, {os.cpu_count()} cores, {arguments.cores} used")
        print(f"study {arguments.study}: {wall_s:.0f} s, peak memory of all processes {memory_gib:.2f} GiB\n")
        _print_table(clone, import_s=import_s, capacity_s=wall_s * arguments.cores)


def _measure_import_seconds(clone: Path) -> float:
    """Return the CPU seconds of a process that imports what the jobs need."""
    cpu_s = 0.0
    # the first run loads the files into the page cache
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", IMPORT_SCRIPT], cwd=clone, check=True, env=_environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s


def _environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def _run_study(clone: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return wall seconds, and the peak proportional memory (GiB) of snakemake and all of its descendants."""
    config = [f"study={arguments.study}"]
    if arguments.data_root:
        config.append(f"data_root={arguments.data_root.resolve()}")
    command = [sys.executable, "-m", "snakemake", "--cores", str(arguments.cores), "--config", *config]
    variables = {"PIPELINE_REBUILD_BASES": "1"} if arguments.rebuild_bases else {}
    start, peak = time.monotonic(), 0
    with (clone / "run.log").open("w") as log:
        snakemake = subprocess.Popen(
            command, cwd=clone, env=_environment(**variables), stdout=log, stderr=log
        )
        root = psutil.Process(snakemake.pid)
        while snakemake.poll() is None:
            peak = max(peak, sum(map(_measure_memory, [root, *_list_descendants(root)])))
            time.sleep(MEMORY_INTERVAL_S)
    if snakemake.returncode:
        sys.exit((clone / "run.log").read_text()[-3000:])
    return time.monotonic() - start, peak / 2**30


def _list_descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _measure_memory(process: psutil.Process) -> int:
    """Return the bytes of a process, those of shared pages divided by the number of processes that share them."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _print_table(clone: Path, *, import_s: float, capacity_s: float) -> None:
    """Print for each stage its jobs, their seconds as snakemake measured them, and the seconds of their own work."""
    total_jobs, total_s, total_work_s = 0, 0.0, 0.0
    print("| stage | jobs | seconds (sum over jobs) | of which its own work | share of cores x wall |")
    print("|---|---|---|---|---|")
    for stage in STAGES:
        logs = _list_benchmark_logs(clone, stage)
        stage_s = work_s = sum(float(log.read_text().splitlines()[1].split("\t")[0]) for log in logs)
        if stage in RESULTS:
            run_files = clone.glob(f"{RESULTS[stage]}/**/run.json")
            work_s = sum(json.loads(file.read_text())["seconds"] for file in run_files)
        share = 100 * stage_s / capacity_s
        print(f"| {stage} | {len(logs)} | {stage_s:.1f} | {work_s:.1f} | {share:.1f} % |")
        total_jobs, total_s, total_work_s = total_jobs + len(logs), total_s + stage_s, total_work_s + work_s
    share = 100 * total_s / capacity_s
    print(f"| all | {total_jobs} | {total_s:.1f} | {total_work_s:.1f} | {share:.1f} % |")
    importing_jobs = sum(len(_list_benchmark_logs(clone, stage)) for stage in IMPORTING_STAGES)
    total_import_s = importing_jobs * import_s
    print(
        f"\nImports: {import_s:.1f} CPU-s, or {total_import_s:.0f} CPU-s if each of {importing_jobs} jobs did them,"
    )
    print(f"{total_import_s / max(total_work_s, 1e-9):.2f} times the work of all jobs.")


def _list_benchmark_logs(clone: Path, stage: str) -> list[Path]:
    return list((clone / "logs" / stage).rglob("*.tsv"))


if __name__ == "__main__":
    main()
