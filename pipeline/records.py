"""What a run was: environment and cost, kept apart from results so that equal runs leave equal result files."""

import os
import platform
import resource
import socket
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "safetensors")


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Return the checkout's commit (40 hex digits) and whether tracked files differ from it; None outside git."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no")
    return commit, None if status is None else bool(status)


def peak_memory_gib() -> float:
    """Return the largest resident size of this process so far, in GiB."""
    unit = 1 if platform.system() == "Darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def run_info(*, started: float, device: str, **extra: Any) -> dict[str, Any]:
    """Describe a finished job: when, how long (``started`` is ``time.time()`` at its start), where, with what.

    ``extra`` adds to the record or replaces parts of it (a GPU's peak memory, say).
    """
    ended = time.time()
    commit, dirty = git_state()
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
        "seconds": round(ended - started, 3),
        "peak_memory_gib": round(peak_memory_gib(), 4),
        "device": device,
        "host": socket.gethostname(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "git_commit": commit,
        "git_dirty": dirty,
        **extra,
    }
