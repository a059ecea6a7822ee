"""Jobs that an earlier run of this checkout left in Slurm's queue."""

import os
import sys
import time
from pathlib import Path

from pipeline.commands.run.slurm.site import query_slurm
from pipeline.core.errors import UserError

POLL_SECONDS = 1
# Slurm kills a job KillWait seconds (default 30) after its cancellation
END_SECONDS = 180


def list_jobs(root: Path) -> list[str]:
    """Return the ids of this user's jobs in the queue that a snakemake submitted from the folder ``root``."""
    rows = query_slurm("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%Z|%k")
    jobs = []
    for row in rows:
        job, folder, comment = row.split("|", 2)
        # the comment that snakemake-executor-plugin-slurm gives its jobs
        if comment.startswith(("rule_", "group_")) and Path(folder).resolve() == root.resolve():
            jobs.append(job)
    return jobs


def cancel_orphans(root: Path) -> None:
    """Cancel what a killed snakemake left in the queue, and wait until it has ended.

    Otherwise the same adapter would be trained twice at once. A training that is cancelled writes a checkpoint, so the next
    job resumes at the same step. Call it with the run lock: then no other snakemake works for these jobs.

    Raises:
        UserError: a job does not end, or Slurm does not answer.
    """
    jobs = list_jobs(root)
    if not jobs:
        return
    print(f"cancelling {len(jobs)} Slurm jobs of an earlier run: {', '.join(jobs)}", file=sys.stderr)
    query_slurm("scancel", *jobs)
    deadline = time.monotonic() + END_SECONDS
    while remaining := list_jobs(root):
        if time.monotonic() > deadline:
            raise UserError(
                f"Slurm jobs {', '.join(remaining)} of an earlier run did not end; cancel them: scancel {' '.join(remaining)}"
            )
        time.sleep(POLL_SECONDS)
