"""The files, inodes, rows and objects of a study, counted in a finished one and multiplied."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

SIZES = (10, 1_000, 100_000)
# of a training: its adapter, its answers, its scores, and their records
FOLDERS = (
    "adapters",
    "answers",
    "scores",
    "records/train",
    "records/generate",
    "records/score",
)
TABLES = ("metrics", "latest_metrics", "params", "tags", "inputs")
# the jobs of a training, and the log and the benchmark file of each
STAGES = 3
LOG_FILES = 2


class Counts(NamedTuple):
    """What one training adds to a study.

    Attributes:
        jobs: of Snakemake.
        files: results, records and logs.
        inodes: these, and their folders.
        megabytes: of results, without the base.
        mlflow_rows: in the database.
        dvc_objects: in the cache and in the remote.
    """

    jobs: float
    files: float
    inodes: float
    megabytes: float
    mlflow_rows: float
    dvc_objects: float


def print_counts(checkout: Path, *, figure: Path | None, plan_seconds: tuple[float, float]) -> None:
    """Print what a study has at each number of training jobs; draw it into ``figure``."""
    counts = count_per_training(checkout)
    print(
        "| training jobs | "
        + " | ".join(name.replace("_", " ") for name in Counts._fields)
        + " | plan, CPU-s |"
    )
    print("|---" * (len(Counts._fields) + 2) + "|")
    for size in SIZES:
        seconds = plan_seconds[0] + plan_seconds[1] * counts.jobs * size
        cells = [f"{value * size:,.0f}" for value in counts]
        print(f"| {size:,} | " + " | ".join(cells) + f" | {seconds:,.0f} |")
    if figure:
        _draw_curves(counts, figure, plan_seconds)


def count_per_training(checkout: Path) -> Counts:
    """Return what a training adds, on average, in a finished study with an ``mlflow.db``."""
    results = checkout / "results"
    trainings = sum(1 for _ in (results / "adapters").rglob("adapter_config.json"))
    entries = [path for folder in FOLDERS for path in (results / folder).rglob("*")]
    files = [path for path in entries if path.is_file() and not path.name.startswith(".")]
    logs = STAGES * LOG_FILES * trainings
    # bare bases have answers too; they are part of the average
    with closing(sqlite3.connect(f"file:{checkout / 'mlflow.db'}?mode=ro", uri=True)) as database:
        rows = sum(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in TABLES)
    return Counts(
        jobs=STAGES,
        files=(len(files) + logs) / trainings,
        inodes=(len(entries) + logs) / trainings,
        megabytes=sum(path.stat().st_size for path in files) / 1e6 / trainings,
        mlflow_rows=rows / trainings,
        dvc_objects=len(files) / trainings,
    )


def _draw_curves(counts: Counts, figure: Path, plan_seconds: Sequence[float]) -> None:
    # only for the figure
    from matplotlib.figure import Figure

    sizes = [10**power for power in range(1, 6)]
    picture = Figure(figsize=(7, 4), layout="constrained")
    axes = picture.add_subplot(
        xscale="log", yscale="log", xlabel="training jobs", ylabel="number, or CPU-seconds"
    )
    for name in ("jobs", "files", "mlflow_rows", "dvc_objects"):
        values = [getattr(counts, name) * size for size in sizes]
        axes.plot(sizes, values, marker="o", label=name.replace("_", " "))
    seconds = [plan_seconds[0] + plan_seconds[1] * counts.jobs * size for size in sizes]
    axes.plot(sizes, seconds, linestyle="--", color="black", label="plan (CPU-s)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    picture.savefig(figure, dpi=110)
