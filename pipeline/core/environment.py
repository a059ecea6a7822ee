"""What a job ran with and what it cost. Kept apart from the results, so that equal runs write equal result files."""

import contextlib
import hashlib
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypedDict, Unpack

from pipeline.core.hardware.processor import describe_processor

# packages whose version may change a result
PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "safetensors"),
    *("pandas", "pyarrow", "scipy", "statsmodels", "matplotlib", "pydantic", "snakemake"),
)
# packages that may be missing; recorded where they are loaded
OPTIONAL_PACKAGES = ("bitsandbytes",)
# paths in which an untracked file may change results
CODE = ("Snakefile", "workflow", "pipeline", "params")
# files and folders of the project in git that only record results
RECORDED = ("dvc.lock", "results")
# longest diff, in characters, that a record stores as text
MAX_DIFF = 64 * 1024
GIT_TIMEOUT_S = 30


class RunDetails(TypedDict, total=False):
    """What some stages add to ``RunInfo``."""

    # base: whether the base was copied from data/shipped
    shipped: bool
    # base in a local folder: name of a file -> its size in bytes, and the time of its last change in ns
    stamps: Mapping[str, tuple[int, int]]
    # train, distill, generate: the settings of the machine that were chosen (pipeline.params.machine); pretrained base, combine:
    # of these, `portable`, which alone takes effect there
    machine: Mapping[str, bool | int | float | str]
    # train: the step that training resumed from, 0 for the first
    resumed_at: int
    # train, where the setting was chosen: whether the examples of a micro-batch shared one row
    packing: bool
    # train, where the setting was chosen: whether the decoder layers were compiled
    compiled: bool
    # train: tokens of a forward pass, padding included; the last value if memory was too small for the first
    micro_batch_tokens: int
    # train, in float16: steps that were skipped because a gradient overflowed
    skipped_steps: int
    # generate, of a model behind an endpoint: its address
    endpoint: str
    # generate: task -> run whose answers were reused
    taken_over: dict[str, str]
    # generate: task -> cost of its answers
    tasks: Mapping[str, Mapping[str, object]]


class RunInfo(RunDetails):
    """Content of run.json: when and where a job ran, with which software, and what it cost."""

    # ISO 8601 in UTC, to the second
    started: str
    ended: str
    seconds: float
    peak_memory_gib: float
    device: str
    host: str
    # its model and vector instructions
    processor: str
    cores: int | None
    threads: int
    python: str
    platform: str
    # name -> version
    packages: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None


class CodeState(TypedDict):
    """The code that made a result: its commit and how the checkout differed from it."""

    # 40 hex digits
    commit: str | None
    diff_sha256: str | None
    diff: str | None


def run_git(*arguments: str, folder: Path | None = None, ok_codes: tuple[int, ...] = (0,)) -> bytes | None:
    """Return the standard output of a git command, or None if it fails or git is not installed.

    Args:
        arguments: of git.
        folder: where git runs; None: the folder of this file.
        ok_codes: exit codes that count as success.
    """
    command = ["git", "-C", str(folder or Path(__file__).parent), *arguments]
    try:
        process = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode in ok_codes else None


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Return the commit (40 hex digits) and whether tracked files differ from it; None outside a git checkout."""
    return read_git_state(Path(__file__).parents[2])


def read_git_state(project: Path) -> tuple[str | None, bool | None]:
    """Return the commit of a project and whether tracked files differ from it; those that only record results do not count."""
    commit = run_git("rev-parse", "HEAD", folder=project)
    status = run_git(
        "status", "--porcelain", "--untracked-files=no", "--", ":/", *_skip_recorded(), folder=project
    )
    return commit.decode().strip() if commit else None, None if status is None else bool(status.strip())


def _skip_recorded() -> list[str]:
    # literal, and from the project on: pipeline/results is code
    return [f":(exclude,literal){path}" for path in RECORDED]


def git_diff(project: Path | None = None) -> bytes | None:
    """Return the difference between the files and the commit as input for ``git apply``; None outside a checkout.

    Untracked files count if they are in one of the ``CODE`` paths. Files that only record results do not count (``RECORDED``).
    """
    project = project or Path(__file__).parents[2]
    top_level = run_git("rev-parse", "--show-toplevel", folder=project)
    if top_level is None:
        return None
    top = Path(top_level.decode().strip())
    # independent of the user's git settings
    plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    difference = ("diff", *plain, "--no-relative", "HEAD", "--", ":/", *_skip_recorded())
    patch = run_git(*difference, folder=project) or b""
    list_untracked = ("ls-files", "-z", "--full-name", "--others", "--exclude-standard", "--", *CODE)
    untracked = run_git(*list_untracked, folder=project) or b""
    for name in filter(None, untracked.decode().split("\0")):
        # git diff --no-index exits with 1 if the files differ
        patch += (
            run_git("diff", *plain, "--no-index", "--", "/dev/null", name, folder=top, ok_codes=(0, 1)) or b""
        )
    return patch


def code_state() -> CodeState:
    """Return the commit and the sha256 of the diff to it, with its text if it is UTF-8 and not too long."""
    patch = git_diff()
    state: CodeState = {"commit": git_state()[0], "diff_sha256": None, "diff": None}
    if patch:
        state["diff_sha256"] = hashlib.sha256(patch).hexdigest()
        with contextlib.suppress(UnicodeDecodeError):
            state["diff"] = patch.decode() if len(patch) <= MAX_DIFF else None
    return state


def peak_memory_gib() -> float:
    """Return the largest resident set size of this process so far, in GiB."""
    # macOS counts bytes, Linux counts KiB
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def run_info(
    *,
    started: float,
    device: str,
    seconds: float | None = None,
    peak_gib: float | None = None,
    **details: Unpack[RunDetails],
) -> RunInfo:
    """Describe a job that ends now.

    Args:
        started: ``time.time()`` when the job started.
        device: where it computed.
        seconds: time it took; None: since ``started``. A resumed job gives the time of all its processes.
        peak_gib: peak memory; None: this process's resident set. A GPU job gives the memory of its GPU.
        details: what the stage adds.
    """
    ended = time.time()
    commit, dirty = git_state()
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
        "seconds": round(ended - started, 3) if seconds is None else round(seconds, 3),
        "peak_memory_gib": round(peak_memory_gib() if peak_gib is None else peak_gib, 4),
        "device": device,
        "host": socket.gethostname(),
        "processor": describe_processor(),
        "cores": os.cpu_count(),
        # no import of torch for this: a job that did not load it used one thread
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: metadata.version(name)
            for name in (*PACKAGES, *(name for name in OPTIONAL_PACKAGES if name in sys.modules))
        },
        "git_commit": commit,
        "git_dirty": dirty,
        **details,
    }
