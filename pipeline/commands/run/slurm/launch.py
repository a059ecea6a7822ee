"""One training on several nodes of a Slurm job: srun starts torchrun on each node, and torchrun the processes of its node."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from pipeline.commands.run.slurm.site import query_slurm
from pipeline.core.errors import UserError


def launch_on_nodes(argv: Sequence[str], processes: int, *, nodes: int, threads: int) -> None:
    """Run ``python ARGV`` in processes on the nodes of this Slurm job, connected by torch.distributed.

    Each process uses a GPU that Slurm granted to the job, if there are any. So no GPU is claimed as on a machine that
    jobs of several runs share.

    Args:
        argv: the arguments of python, from ``-m`` on.
        processes: of all nodes together, a multiple of ``nodes``.
        nodes: of the job, of which this process runs on the first.
        threads: of each process.

    Raises:
        UserError: this is no Slurm job of so many nodes, or a process failed, which has printed its own message before.
    """
    job, share = _require_job(nodes), processes // nodes
    command = [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"),
        # srun does not take it from the job since Slurm 22.05
        f"--cpus-per-task={threads * share}",
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={nodes}", f"--nproc-per-node={share}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}"),
        f"--rdzv-id={job}",
        *argv,
    ]
    # processes forked by the warm server (pipeline.core.warm) would be outside of the job's steps
    environment = {name: value for name, value in os.environ.items() if name != "PIPELINE_WARM"}
    status = subprocess.run(command, env=environment, check=False).returncode
    if status:
        raise UserError(f"a process on {nodes} nodes failed (srun: exit {status}); see its message above")


def _require_job(nodes: int) -> str:
    """Return the id of this Slurm job, which must have so many nodes.

    Slurm itself is asked for their number: of the variables that describe a job, snakemake-executor-plugin-slurm-jobstep
    leaves the command hardly more than the job's id.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    lines = query_slurm("squeue", "--noheader", f"--jobs={job}", "--format=%D") if job else ["0"]
    granted = int(lines[0]) if lines else 0
    if granted != nodes:
        raise UserError(
            f"--nodes {nodes}: this is not a job of Slurm on {nodes} nodes (but on {granted}); submit it by "
            "snakemake --profile workflow/profiles/slurm"
        )
    return job


def _free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
