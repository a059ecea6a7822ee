"""The time of DVC's commands on a tree of many results, whose weights are sparse files."""

import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

STAGE = """
stages:
  train:
    cmd: "true"
    outs:
      - results/adapters:
          persist: true
"""
# the files of an adapter besides its weights, and their bytes in the default study
SMALL_FILES = {
    "adapter_config.json": 1000,
    "history.jsonl": 4000,
    "manifest.json": 1500,
    "run.json": 2000,
    "timing.jsonl": 2500,
}
HASHED_MEGABYTES = 512


def measure_commands(folder: Path, results: int, megabytes: int) -> None:
    """Print the time of each command; the cache has hard links, so that the weights stay sparse.

    Args:
        folder: a new folder.
        results: number of adapters.
        megabytes: of all weights together. A push writes them out.
    """
    root = folder / "checkout"
    _write_tree(root, results, megabytes)
    files = results * (1 + len(SMALL_FILES))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; {files:,} files, {megabytes:,} MB")
    print(f"md5: {_measure_hash_speed(folder):.0f} MB in a CPU-second\n")
    print("| command | CPU-s | wall s |\n|---|---|---|")
    for settings in (
        ("remote", "add", "--default", "shared", str(folder / "remote")),
        ("remote", "modify", "shared", "verify", "true"),
        ("config", "cache.type", "hardlink,copy"),
    ):
        _run_dvc(root, *settings)
    _print_time(root, "commit, all new", "commit", "--force")
    _print_time(root, "commit, unchanged", "commit", "--force")
    _print_time(root, "status, unchanged", "status")
    changed = root / "results/adapters/model/method0/seed0/run.json"
    changed.unlink()
    changed.write_text("{}")
    _print_time(root, "commit, a small file changed", "commit", "--force")
    _print_time(root, "push, all new", "push")
    _print_time(root, "push, unchanged", "push")
    _remove_results(root)
    _print_time(root, "pull, all", "pull")
    _print_time(root, "pull, unchanged", "pull")


def _write_tree(root: Path, results: int, megabytes: int) -> None:
    for number in range(results):
        folder = root / f"results/adapters/model/method{number // 5}/seed{number % 5}"
        folder.mkdir(parents=True)
        for name, size in SMALL_FILES.items():
            (folder / name).write_text(f"{name} {number} ".ljust(size))
        with (folder / "adapter_model.safetensors").open("wb") as file:
            # each has content of its own
            file.write(number.to_bytes(8, "little"))
            file.truncate(megabytes * 1_000_000 // results)
    (root / "dvc.yaml").write_text(STAGE)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    _run_dvc(root, "init", "--quiet")


def _remove_results(root: Path) -> None:
    subprocess.run(["rm", "-rf", "results/adapters", ".dvc/cache"], cwd=root, check=True)


def _measure_hash_speed(folder: Path) -> float:
    path = folder / "hashed"
    with path.open("wb") as file:
        file.truncate(HASHED_MEGABYTES * 1_000_000)
    start = time.process_time()
    with path.open("rb") as file:
        hashlib.file_digest(file, "md5")
    path.unlink()
    return HASHED_MEGABYTES / (time.process_time() - start)


def _run_dvc(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True, env=environment
    )


def _print_time(root: Path, title: str, *arguments: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _run_dvc(root, *arguments)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| {title} | {cpu:.1f} | {wall:.1f} |", flush=True)
