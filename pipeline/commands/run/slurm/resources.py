"""What a job of a study asks Slurm for: memory and time from the size of its base and the number of its tokens."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.commands.run.slurm.site import Site
from pipeline.params.protocols import rows_per_prompt
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.tuning.choice import plan_training

# Slurm sends SIGTERM this long before the time limit, so that a training can write a checkpoint (pipeline.core.stopping). At
# a short limit it sends it after three quarters of the time: earlier, a job would be stopped before its first step.
SIGNAL_SECONDS = 180
# Of Python, torch and CUDA in the host's memory, with the data of a job
HOST_MB = 6000
# loading holds a shard twice, in the file's dtype and in the job's
WEIGHTS_FACTOR = 1.5
# Start-up, loading and the checks of inputs; then the estimate, which is only good to a factor.
START_MINUTES = 30
SAFETY = 3
# FLOP/s. The slowest rows of docs/estimates.md: a 7B base in nf4 on an RTX 3090 trains 980 tokens/s at 6 FLOP for each weight,
# and generates 1,100 tokens/s at 2.
GPU_TRAINING = 4e13
GPU_GENERATION = 1.5e13
# one thread of a CPU, in float32
CPU = 1e10
# rules whose jobs compute on the CPU alone
WITHOUT_GPU = ("base", "combine")
# tokens of a prompt, on average; the longest published prompts have a few hundred
PROMPT_TOKENS = 300

# Takes the wildcards, the input and the attempt of a job. Snakemake passes what a parameter's name says.
ResourceFunction = Callable[[Any, Any, int], int]
Resource = str | int | ResourceFunction


class Work(NamedTuple):
    """What a job computes.

    Attributes:
        base_bytes: of the base's weights in its folder.
        flop: floating-point operations.
        trains_base: whether all weights of the base are trained, with their moments.
    """

    base_bytes: int
    flop: float
    trains_base: bool = False


def request_memory(work: Work, site: Site, attempt: int, *, gpus: int) -> int:
    """Return the host memory of a job in MB; each attempt asks for twice as much, up to the site's cap.

    On a CPU the weights are float32 and activations lie in the host's memory too.
    """
    copies = WEIGHTS_FACTOR if gpus else 2 * WEIGHTS_FACTOR + (6 if work.trains_base else 1)
    return min(site.memory_mb, math.ceil(HOST_MB + copies * work.base_bytes / 1e6) << (attempt - 1))


def request_minutes(work: Work, site: Site, attempt: int, *, speed: float) -> int:
    """Return the time of a job; each attempt asks for twice as much, up to the site's cap.

    Args:
        work: of the job.
        site: with the cap.
        attempt: from 1 on.
        speed: FLOP/s of all devices of the job.
    """
    minutes = START_MINUTES + SAFETY * work.flop / speed / 60
    return min(site.minutes, math.ceil(minutes) << (attempt - 1))


def training_work(adapter: Artifact) -> Work:
    """Return what the training of an adapter computes: 6 FLOP for each weight and token.

    Raises:
        FileNotFoundError: its base or its prompts are not there yet.
    """
    training = plan_training(adapter.params)
    weights, size = _count_weights(adapter.inputs["base"].path)
    examples = training.max_steps and training.max_steps * training.batch_size
    if not examples:
        examples = math.ceil(float(training.epochs or 0) * _count_rows(adapter.inputs["prompts"].path))
    flop = 6.0 * weights * examples * training.cutoff_len
    return Work(size, flop, trains_base=adapter.params["method"]["kind"] == "full")


def generation_work(study: Study, answers: Sequence[Artifact]) -> Work:
    """Return what the generation of answers computes: 2 FLOP for each weight and token, prompts and beams included.

    Raises:
        FileNotFoundError: the base or prompts are not there yet.
    """
    weights, size = _count_weights(study.run_of(answers[0].fingerprint).base.path)
    tokens = 0
    for artifact in answers:
        rows = sum(
            _count_rows(source.path) for source in artifact.inputs.values() if source.stage == "prompts"
        )
        longest = max(
            PROMPT_TOKENS + decoding.get("max_new_tokens", 0) * rows_per_prompt(decoding)
            for decoding in artifact.params.values()
        )
        tokens += rows * longest
    return Work(size, 2.0 * weights * tokens)


def teaching_work(answers: Artifact) -> Work:
    """Return what the answers of a teacher compute: 2 FLOP for each weight and token, prompts and samples included.

    Raises:
        FileNotFoundError: the base or the questions are not there yet.
    """
    weights, size = _count_weights(answers.inputs["base"].path)
    (decoding,) = answers.params.values()
    longest = PROMPT_TOKENS + decoding["max_new_tokens"] * decoding.get("samples", 1)
    return Work(size, 2.0 * weights * _count_rows(answers.inputs["questions"].path) * longest)


@functools.cache
def _count_weights(base: Path) -> tuple[int, int]:
    """Return the number of a base's weights, if they are in 16 bits, and their bytes."""
    size = sum(
        file.stat().st_size
        for file in os.scandir(str(base))
        if Path(file.name).suffix in (".safetensors", ".bin")
    )
    return size // 2, size


@functools.cache
def _count_rows(path: Path) -> int:
    # Of a text, so that the error names the file as Snakemake does: it then asks again once the file is there.
    os.stat(str(path))
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


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
    speed = devices.speed(GPU_TRAINING if rule == "train" else GPU_GENERATION, processes)

    def mem_mb(wildcards: Any, input: Any, attempt: int) -> int:
        # Slurm counts the memory of a job by node, and so does the cap; processes of one node share it
        memory = request_memory(work_of(wildcards), site, attempt, gpus=gpus) * processes // nodes
        return min(site.memory_mb, memory)

    def runtime(wildcards: Any, input: Any, attempt: int) -> int:
        return request_minutes(work_of(wildcards), site, attempt, speed=speed)

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
        "mem_mb": mem_mb,
        "runtime": runtime,
        "nodes": nodes,
        "slurm_extra": _signal_option(site),
        **(_list_node_resources(site, devices, gpus=gpus) if nodes > 1 else {}),
    }


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
