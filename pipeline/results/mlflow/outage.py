"""A server that does not respond, or too slowly: every job of a study learns it from the first, and what was not recorded is listed.

Without this each job would wait for the server again. Both files are the checkout's, so jobs on other nodes see them too.
Importing this module does not load mlflow.
"""

import json
import time
from pathlib import Path

from pipeline.core.errors import mask_secrets
from pipeline.core.io import atomic_file

OUTAGE = Path(".mlflow.outage")
# how long no job tries the server again
OUTAGE_S = 600
# below logs/: a file for each study, with a line for each run that is not recorded
UNRECORDED = Path("logs/mlflow")
# A job gives up when a run has taken this long. It may take longer by a second for each RATE bytes of its files.
JOB_LIMIT_S = 60
RATE = 2**20


class Pace:
    """The time that recording a run may take; ``limit_s`` None: any."""

    def __init__(self, limit_s: float | None, *, size: int = 0) -> None:
        self._started = time.monotonic()
        self._limit_s = None if limit_s is None else limit_s + size / RATE

    def allow(self, seconds: float) -> None:
        """Let it take longer."""
        if self._limit_s is not None:
            self._limit_s += seconds

    def check(self) -> None:
        """Raise SlowServer if the time is over."""
        if self._limit_s is not None and time.monotonic() - self._started > self._limit_s:
            raise SlowServer(f"it is slow: one run took more than {self._limit_s:.0f} s")


class SlowServer(Exception):
    """A run took too long."""


def report_outage(address: str, cause: str) -> None:
    """Let all jobs of this checkout leave a server alone for OUTAGE_S."""
    content = {"address": mask_secrets(address), "cause": cause, "until": time.time() + OUTAGE_S}
    with atomic_file(OUTAGE) as path:
        path.write_text(json.dumps(content))


def find_outage(address: str) -> str | None:
    """Return why a server is left alone and until when, or None."""
    try:
        content = json.loads(OUTAGE.read_text())
    except (OSError, ValueError):
        return None
    remaining = content["until"] - time.time()
    # a clock that was set back must not make it longer
    if content["address"] != mask_secrets(address) or not 0 < remaining <= OUTAGE_S:
        return None
    until = time.strftime("%H:%M", time.localtime(content["until"]))
    return f"{content['cause']}; not tried again before {until}"


def end_outage() -> None:
    """Let the next job try the server."""
    OUTAGE.unlink(missing_ok=True)


def add_unrecorded(study: str, run: str, cause: str) -> None:
    """List a run of a study that could not be recorded."""
    UNRECORDED.mkdir(parents=True, exist_ok=True)
    # appended in one write, since other jobs append too
    with (UNRECORDED / f"{study}.txt").open("a") as file:
        file.write(f"{run}: {cause}\n")


def clear_unrecorded(study: str) -> None:
    """Forget the runs of a study that were not recorded: all are now."""
    (UNRECORDED / f"{study}.txt").unlink(missing_ok=True)


def describe_unrecorded(study: str, *, root: Path = Path()) -> str | None:
    """Return in a line how many runs of a study were not recorded and the last cause, or None if all were."""
    try:
        lines = (root / UNRECORDED / f"{study}.txt").read_text().splitlines()
    except OSError:
        return None
    causes = dict(line.partition(": ")[::2] for line in lines)
    if not causes:
        return None
    noun = "run is" if len(causes) == 1 else "runs are"
    return f"{len(causes)} {noun} not recorded in MLflow ({[*causes.values()][-1]})"
