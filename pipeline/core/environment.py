"""What a run was: environment and cost, kept apart from results so that equal runs leave equal result files."""

import contextlib
import hashlib
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "safetensors"),
    *("pandas", "pyarrow", "scipy", "statsmodels", "matplotlib", "pydantic", "snakemake"),
)
CODE = ("Snakefile", "workflow", "pipeline", "params")  # new files here may change results
MAX_DIFF = 64 * 1024  # characters of a difference to the commit that a record keeps word for word


def git(*arguments: str, at: Path | None = None, fine: tuple[int, ...] = (0,)) -> bytes | None:
    """Return what git prints in the folder ``at`` (None: this code's); None where it fails, by its status, or is not there."""
    command = ["git", "-C", str(at or Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode in fine else None


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Return the checkout's commit (40 hex digits) and whether tracked files differ from it; None outside git."""
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return commit.decode().strip() if commit else None, None if status is None else bool(status.strip())


def git_difference(project: Path | None = None) -> bytes | None:
    """Return how the files differ from the commit, as a patch that ``git apply`` takes; None outside git.

    New files count where they could change results (``CODE``); dvc.lock, which only records them, does not count.
    """
    project = project or Path(__file__).parents[2]
    found = git("rev-parse", "--show-toplevel", at=project)
    if found is None:
        return None
    top = Path(found.decode().strip())
    plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    patch = git("diff", *plain, "HEAD", "--", ":/", ":(top,exclude,glob)**/dvc.lock", at=top) or b""
    new = (
        git("ls-files", "-z", "--full-name", "--others", "--exclude-standard", "--", *CODE, at=project) or b""
    )
    for name in filter(None, new.decode().split("\0")):
        patch += git("diff", *plain, "--no-index", "--", "/dev/null", name, at=top, fine=(0, 1)) or b""
    return patch


def code_state() -> dict[str, Any]:
    """Return the commit, and the difference to it: its sha256 and, if it is text of a moderate length, its words."""
    patch = git_difference()
    state: dict[str, Any] = {"commit": git_state()[0], "diff_sha256": None, "diff": None}
    if patch:
        state["diff_sha256"] = hashlib.sha256(patch).hexdigest()
        with contextlib.suppress(UnicodeDecodeError):
            state["diff"] = patch.decode() if len(patch) <= MAX_DIFF else None
    return state


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
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "git_commit": commit,
        "git_dirty": dirty,
        **extra,
    }
