"""Binds: the study's artifacts to the names that the rules use."""

import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pipeline.core import devices, io, processes, warm
from pipeline.core.errors import UserError
from pipeline.results import status, store
from pipeline.results.dvc import lock, workarounds
from pipeline.study import load_groups, load_study
from pipeline.study.stages import HEAVY, STAGES

if workflow.is_main_process:
    processes.exit_with_caller()
    processes.register_as_caller()
previous_run = processes.last_run(Path(workflow.basedir))
try:
    devices.check_config_options(config)
    study = load_study(config.get("study"))
    store.restore_study(study)
    if workflow.is_main_process:
        lock.warn_of_invalid_lock(Path(workflow.basedir))
        workarounds.delete_invalid_rwlock(Path(workflow.basedir))
except UserError as error:
    sys.exit(f"error: {error}")

PIPELINE = f"{shlex.quote(sys.executable)} -m pipeline"
STUDY = f"--study {shlex.quote(study.name)}"
DATA_ROOT = f"--data-root {shlex.quote(str(config.get('data_root') or os.environ.get('PIPELINE_DATA_ROOT', '')))}"
MACHINE = f"--device {config.get('device', 'auto')}"
PROCESSES = int(config.get("processes", 1))
LOAD_GROUPS = load_groups.group_answers(
    study, config.get("adapters_per_load", 1), root=Path(workflow.basedir)
)
GROUP_DONE = "logs/ask/{load}.done"


def begin():
    """Acquire the run lock of this checkout and start the warm server; exit if another run is active."""
    stages = [job.rule.name for job in workflow.dag.needrun_jobs()]
    try:
        processes.acquire_run_lock(Path(workflow.basedir), previous_run)
        for stage in STAGES.keys() & set(stages):
            io.check_writable(Path(STAGES[stage].folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    warm.start_server(sum(name == "ask" or name in HEAVY for name in stages))


wildcard_constraints:
    fingerprint="[0-9a-f]{12}",
    load="[0-9a-f]{12}",


def made_from(stage):
    """Input function: the paths that an artifact of the stage is made from."""

    def paths(wildcards):
        return study.input_paths(stage, wildcards.fingerprint)

    return paths


def group_before(wildcards):
    """Input function: the mark of the job that generates these answers in a group, if there is such a job."""
    group = load_groups.find_group(LOAD_GROUPS, wildcards.fingerprint)
    return [GROUP_DONE.format(load=group)] if group else []


def group_inputs(wildcards):
    """Input function: the paths that the job of a group reads."""
    return load_groups.group_inputs(LOAD_GROUPS[wildcards.load])


def group_fingerprints(wildcards):
    """Params function: the fingerprints of the answers that a group generates."""
    return [answers.fingerprint for answers in LOAD_GROUPS[wildcards.load]]
