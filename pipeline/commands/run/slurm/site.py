"""The site that a study runs at: the keys ``slurm_*`` of Snakemake's config, from site.yaml of the profile or ``--config``."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from pipeline.core.errors import UserError, list_choices
from pipeline.params.base import Strict
from pipeline.params.machine import PositiveInteger

PREFIX = "slurm_"
PLACE = "workflow/profiles/slurm/site.yaml"
QUERY_SECONDS = 20


def _number_as_text(value: object) -> object:
    # an account may be a number, which YAML and --config read as one
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1)]


class Site(Strict):
    """What Slurm's jobs need at one site. Each field is the key ``slurm_FIELD`` of Snakemake's config."""

    partition: Text | None = Field(None, description="of jobs without a GPU; null: the cluster's default")
    gpu_partition: Text | None = Field(None, description="of jobs with GPUs; null: `slurm_partition`")
    account: Text | None = Field(None, description="account that is charged; null: the user's default")
    qos: Text | None = Field(None, description="quality of service")
    constraint: Text | None = Field(
        None, description="features that the node of a GPU job must have, as in `sbatch -C`"
    )
    gpu_model: Text | None = Field(None, description="type of the GPUs, as in `sbatch --gpus=a100:1`")
    prelude: Text | None = Field(
        None, description="shell command before each job, such as `module load cuda`"
    )
    scratch: Text | None = Field(None, description="folder for temporary files of a job on its node")
    nodes: PositiveInteger = Field(1, description="nodes that the processes of a training share equally")
    memory_mb: PositiveInteger = Field(64000, description="most memory that a job requests, in MB")
    minutes: PositiveInteger = Field(1440, description="most time that a job requests, in minutes")
    gpu_memory_gb: PositiveInteger | None = Field(
        None,
        description="memory of a GPU, in GB; null: each job requests `gpus_per_job`, whatever its model needs",
    )
    gpus: PositiveInteger = Field(8, description="most GPUs that a job splits its base over")


def split_site(config: Mapping[str, object]) -> tuple[Site | None, dict[str, object]]:
    """Split Snakemake's config into the site, None without any of its keys, and all other keys.

    Raises:
        UserError: an unknown key or a wrong value; it names both.
    """
    keys = [key for key in config if key.startswith(PREFIX)]
    others = {key: value for key, value in config.items() if key not in keys}
    if not keys:
        return None, others
    names = [f"{PREFIX}{name}" for name in Site.model_fields]
    for key in keys:
        if key not in names:
            raise UserError(f"--config {key}: unknown {list_choices(key, names)}")
    values = {key.removeprefix(PREFIX): config[key] for key in keys if config[key] is not None}
    try:
        return Site.model_validate(values), others
    except ValidationError as error:
        details = error.errors()[0]
        key = f"{PREFIX}{details['loc'][0]}"
        numbers = [f"{PREFIX}{name}" for name in ("nodes", "memory_mb", "minutes", "gpu_memory_gb", "gpus")]
        wanted_type = "a positive integer" if key in numbers else "a text"
        raise UserError(f"--config {key}: must be {wanted_type} (got '{details['input']}')") from None


def check_nodes(
    nodes: int, *, processes: int, keys: tuple[str, str] = ("--config slurm_nodes", "processes")
) -> None:
    """Refuse a number of processes that the nodes of a training cannot share equally.

    Args:
        nodes: of the job.
        processes: of the training; 1 where the user states none.
        keys: how the user states the first and the second.

    Raises:
        UserError: one line with both numbers.
    """
    if processes % nodes:
        raise UserError(
            f"{keys[0]}: {nodes} nodes cannot share {keys[1]}={processes} equally; use a multiple, such as {keys[1]}={nodes}"
        )


def check_site(site: Site, *, gpus: int) -> None:
    """Ask Slurm whether the site's partitions, account and QOS exist, before any job is submitted.

    Args:
        site: to check.
        gpus: that the largest job needs; 0: none.

    Raises:
        UserError: one line with the key, its value, the choices and the fix.
    """
    if shutil.which("sbatch") is None:
        raise UserError("no sbatch: this machine cannot submit to Slurm; run this command on a login node")
    rows = [line.split("|") for line in query_slurm("sinfo", "--noheader", "--format=%R|%G")]
    gres: dict[str, list[str]] = {}
    for name, resources in rows:
        gres.setdefault(name, []).append(resources)
    for key, value in (("partition", site.partition), ("gpu_partition", site.gpu_partition)):
        if value is not None and value not in gres:
            raise _unknown(key, value, gres)
    partition = site.gpu_partition or site.partition
    if gpus and partition and not any("gpu" in resources for resources in gres[partition]):
        raise UserError(
            f"slurm_gpu_partition: '{partition}' has no GPU; set another partition in {PLACE}, or device=cpu"
        )
    _check_associations(site)


def cap_site(site: Site, *, gpus: int) -> Site:
    """Return the site with its caps lowered to the limits of a job's partition, where this machine can ask Slurm for them.

    Slurm accepts a job that asks for more than its partition has, and never starts it.

    Args:
        site: with the user's caps.
        gpus: of the job; 0: none.
    """
    partition = (site.gpu_partition or site.partition) if gpus else site.partition
    if shutil.which("sinfo") is None:
        return site
    try:
        rows = [line.split("|") for line in query_slurm("sinfo", "--noheader", "--format=%P|%l|%m|%G")]
    except UserError:
        # a job that runs already needs no answer, and ``check_site`` repeats the question before a submission
        return site
    # the star marks the default partition
    of_job = [
        row for row in rows if row[0].rstrip("*") == partition or (not partition and row[0].endswith("*"))
    ]
    if not of_job:
        return site
    # nodes of a partition that differ have rows of their own, and a plus after the least memory of several
    memory = max(int(row[2].rstrip("+")) for row in of_job)
    limits = [minutes for row in of_job if (minutes := count_minutes(row[1])) is not None]
    update = {"memory_mb": min(site.memory_mb, memory), "minutes": min([site.minutes, *limits])}
    if most := max(count_gpus(row[3]) for row in of_job):
        update["gpus"] = min(site.gpus, most)
    return site.model_copy(update=update)


def count_gpus(gres: str) -> int:
    """Return the GPUs of a node, as sinfo prints its generic resources: "gpu:a100:4(S:0-1)"; of several types the most."""
    return max((int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres)), default=0)


def count_minutes(limit: str) -> int | None:
    """Return the minutes of a time limit as sinfo prints it: "30:00", "1:00:00" or "2-00:00:00"; None: no limit."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    hours, minutes, _ = ([0, 0, 0] + [int(part) for part in parts])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes


def _check_associations(site: Site) -> None:
    """Refuse an account or a QOS that the accounting does not know for this user; without accounting, all are accepted."""
    if not (site.account or site.qos) or shutil.which("sacctmgr") is None:
        return
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    command = ["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos"]
    try:
        lines = query_slurm(*command)
    except UserError:
        # a site without accounting, or one whose database is slow, accepts any account or refuses the job itself
        return
    rows = [line.split("|") for line in lines if line]
    if not rows:
        return
    accounts = {row[0] for row in rows}
    levels = {level for row in rows for level in row[1].split(",") if level}
    if site.account and site.account.lower() not in accounts:
        raise _unknown("account", site.account, sorted(accounts))
    if site.qos and levels and site.qos.lower() not in levels:
        raise _unknown("qos", site.qos, sorted(levels))


def _unknown(key: str, value: str, choices: Mapping[str, object] | Sequence[str]) -> UserError:
    return UserError(f"slurm_{key}: unknown '{value}' {list_choices(value, choices)}; set it in {PLACE}")


def query_slurm(*command: str) -> list[str]:
    """Return the lines that a command of Slurm prints.

    Raises:
        UserError: it fails, or does not answer in time.
    """
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=QUERY_SECONDS, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]}: Slurm does not answer ({error}); try again") from None
    if answer.returncode:
        raise UserError(f"{command[0]}: {' '.join(answer.stderr.split())[:300]}")
    return answer.stdout.splitlines()
