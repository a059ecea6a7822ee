"""What a job of a study asks Slurm for: memory and time, up to the site's limits."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.commands.run.slurm.site import Site
from pipeline.commands.run.slurm.work import Work
from pipeline.study.costs.footprints import RESERVED

# Slurm sends SIGTERM this long before the time limit, so that a training can write a checkpoint (pipeline.core.stopping). At
# a short limit it sends it after three quarters of the time: earlier, a job would be stopped before its first step.
SIGNAL_SECONDS = 180
# Of Python, torch and CUDA in the host's memory, with the data of a job
HOST_MB = 6000
# Of the base's files, loading to a GPU holds as much in the host's memory: all of them, and a shard in the job's dtype.
WEIGHTS_FACTOR = 1.5
# On a CPU, where the loaded weights count as such, it is a shard in the file's dtype.
SHARD_FACTOR = 0.5
# a checkpoint that is read has the weights and two moments beside those of the training, without the gradients
CHECKPOINT_SHARE = 0.75
# Start-up, loading and the checks of inputs; then the estimate, which is only good to a factor.
START_MINUTES = 30
SAFETY = 3
# FLOP/s. The slowest rows of docs/estimates.md: a 7B base in nf4 on an RTX 3090 trains 980 tokens/s at 6 FLOP for each weight,
# and generates 1,100 tokens/s at 2.
GPU_TRAINING = 4e13
GPU_GENERATION = 1.5e13
# Float32 on a GPU takes this times as long: an A100 has 19.5 TFLOP/s in float32 and 312 in bfloat16, an RTX 3090 35.6 and 71
# (the vendor's data sheets), of which small matrices reach a smaller share in bfloat16.
FLOAT32_FACTOR = 4
# one thread of a CPU, in float32
CPU = 1e10
# The same in torch.linalg.svd. One thread reached 5e10 with matrices of 4096 x 4096 (docs/combining.md).
CPU_SVD = 3e10
# a GPU holds whole layers, so of several the fullest has more than its share
UNEVEN = 1.1
# rules whose jobs compute on the CPU alone
WITHOUT_GPU = ("base", "combine")

# Takes the wildcards, the input and the attempt of a job. Snakemake passes what a parameter's name says.
ResourceFunction = Callable[[Any, Any, int], int]
Resource = str | int | ResourceFunction


def request_memory(work: Work, site: Site, attempt: int, *, gpus: int) -> int:
    """Return the host memory of a job in MB; each attempt asks for twice as much, up to the site's cap.

    On a CPU, the weights, what is trained and a pass lie in the host's memory too.
    """
    size = work.trained_bytes
    if gpus:
        size += WEIGHTS_FACTOR * work.base_bytes + (work.weights_bytes if work.is_sharded else 0)
    else:
        size += CHECKPOINT_SHARE * work.trained_bytes + SHARD_FACTOR * work.base_bytes
        size += work.weights_bytes + work.pass_bytes
    return min(site.memory_mb, math.ceil(HOST_MB + size / 1e6) << (attempt - 1))


def request_minutes(work: Work, site: Site, attempt: int, *, speed: float, gpus: int) -> int:
    """Return the time of a job; each attempt asks for twice as much, up to the site's cap.

    Args:
        work: of the job.
        site: with the cap.
        attempt: from 1 on.
        speed: FLOP/s of all devices of the job.
        gpus: of the job; 0: it computes on the CPU, whose speed is that in float32.
    """
    factor = FLOAT32_FACTOR if gpus and work.is_float32 else 1
    minutes = START_MINUTES + SAFETY * factor * work.flop / speed / 60
    return min(site.minutes, math.ceil(minutes) << (attempt - 1))


def request_gpus(work: Work, site: Site, *, least: int) -> int:
    """Return the GPUs over which a job splits its base: as few as hold its model, up to the site's cap.

    Args:
        work: of the job.
        site: with the memory of a GPU.
        least: what the user wants for each job, also if it is more; 1 in a study with a method that needs one GPU.
    """
    assert site.gpu_memory_gb
    needed = work.weights_bytes + work.trained_bytes + work.least_pass_bytes
    free = site.gpu_memory_gb * 1e9 - RESERVED
    if work.needs_one_gpu or free >= needed:
        return least
    return max(least, min(site.gpus, math.ceil(UNEVEN * needed / max(free, 1e9))))


class Devices(NamedTuple):
    """What the jobs of a run compute on.

    Attributes:
        gpus: of a job that loads a base; 0: it computes on the CPU.
        processes: of a training.
        threads: of each process on a CPU.
    """

    gpus: int
    processes: int
    threads: int

    def speed(self, on_gpu: float, processes: int = 1) -> float:
        """Return the FLOP/s of a job, of which each GPU has ``on_gpu``; GPUs that share a base work in turns."""
        return processes * (on_gpu if self.gpus else CPU * self.threads)


def list_resources(
    site: Site, rule: str, work_of: Callable[[Any], Work], devices: Devices
) -> dict[str, Resource]:
    """Return the resources of a rule's jobs under the names of snakemake-executor-plugin-slurm.

    Args:
        site: where they run.
        rule: "base", "train", "combine", "distill", "generate" or "generate_group".
        work_of: takes the wildcards of a job, returns what it computes.
        devices: what the jobs compute on.
    """
    gpus = 0 if rule in WITHOUT_GPU else devices.gpus
    processes, nodes = (devices.processes, site.nodes) if rule == "train" else (1, 1)
    if rule == "combine":
        # the rule requests a single thread
        speed = CPU_SVD
    else:
        speed = devices.speed(GPU_TRAINING if rule == "train" else GPU_GENERATION, processes)

    def mem_mb(wildcards: Any, input: Any, attempt: int) -> int:
        # Slurm counts the memory of a job by node, and so does the cap; processes of one node share it
        memory = request_memory(work_of(wildcards), site, attempt, gpus=gpus) * processes // nodes
        return min(site.memory_mb, memory)

    def runtime(wildcards: Any, input: Any, attempt: int) -> int:
        return request_minutes(work_of(wildcards), site, attempt, speed=speed, gpus=gpus)

    texts = {
        "slurm_partition": (site.gpu_partition or site.partition) if gpus else site.partition,
        "slurm_account": site.account,
        "qos": site.qos,
        "tmpdir": site.scratch,
        "constraint": site.constraint if gpus else None,
        "gpu_model": site.gpu_model if gpus else None,
    }
    resources: dict[str, Resource] = {key: value for key, value in texts.items() if value is not None}
    return resources | {
        **list_gpus(site, rule, devices, work_of),
        "mem_mb": mem_mb,
        "runtime": runtime,
        "nodes": nodes,
        "slurm_extra": _signal_option(site),
        **(_list_node_resources(site, devices, gpus=gpus) if nodes > 1 else {}),
    }


def list_gpus(
    site: Site | None, rule: str, devices: Devices, work_of: Callable[[Any], Work] | None = None
) -> dict[str, Resource]:
    """Return the resource ``gpu`` of a rule's jobs; none of a rule without a GPU.

    Args:
        site: where they run, if it is on Slurm. If it states the memory of its GPUs, each job requests what its model needs.
        rule: as for ``list_resources``.
        devices: what the jobs compute on.
        work_of: as for ``list_resources``; needed with a site.
    """
    if rule in WITHOUT_GPU:
        return {}
    processes = devices.processes if rule == "train" else 1
    # several processes hold a base each, and cannot split it
    if not (site and work_of and site.gpu_memory_gb and devices.gpus) or processes > 1:
        return {"gpu": processes * devices.gpus}

    def gpu(wildcards: Any, input: Any, attempt: int) -> int:
        return request_gpus(work_of(wildcards), site, least=devices.gpus)

    return {"gpu": gpu}


def _signal_option(site: Site) -> str:
    # the steps of the job get it, not its shell
    return f"--signal=TERM@{min(SIGNAL_SECONDS, site.minutes * 60 // 4)}"


def _list_node_resources(site: Site, devices: Devices, *, gpus: int) -> dict[str, Resource]:
    """Return what a training on several nodes asks for besides: a task for each node, which starts the node's processes."""
    share = devices.processes // site.nodes
    values: dict[str, Resource] = {
        # The plugin then starts the job's command on the first node without srun, which the command calls itself.
        "mpi": "srun",
        "tasks": site.nodes,
        "cpus_per_task": devices.threads * share,
    }
    if gpus:
        model = f"{site.gpu_model}:" if site.gpu_model else ""
        # The plugin asks for the GPUs of all nodes together, and else for as many tasks of each GPU as there are nodes.
        values |= {
            "tasks_per_gpu": 0,
            "slurm_extra": f"{_signal_option(site)} --gpus-per-node={model}{share}",
        }
    return values
