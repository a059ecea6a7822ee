"""The commands `fetch`, `prompts`, `audit`, `base`, `train`, `combine`, `choose`, `distill`, `generate`, `score` and `report`: one job, one artifact."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DataRootOption, DeviceOption, MachineOption, SeedsOption, StudyOption
from pipeline.commands.run import stages
from pipeline.commands.run.slurm.site import check_nodes
from pipeline.commands.run.stages import JobOptions
from pipeline.core.hardware.processor import limit_kernels
from pipeline.core.io import check_writable
from pipeline.evaluate.generation.rows import is_generated
from pipeline.models.bases.local import set_models_root
from pipeline.params.machine import parse_machine_options
from pipeline.results.provenance import record_result
from pipeline.study import Study, load_study
from pipeline.study.artifacts import Artifact
from pipeline.study.run import is_computed

STAGE_FUNCTIONS: dict[str, Callable[[Study, Artifact, JobOptions], None]] = {
    "fetch": stages.run_fetch,
    "prompts": stages.run_prompts,
    "audit": stages.run_audit,
    "base": stages.run_base,
    "train": stages.run_train,
    "combine": stages.run_combine,
    "choose": stages.run_choose,
    "distill": stages.run_distill,
    "generate": stages.run_generate,
    "score": stages.run_score,
    "report": stages.run_report,
}


def stage_command(stage: str) -> Callable[..., None]:
    """Return the command of a stage; all take the same arguments."""

    def command(
        fingerprint: Annotated[
            str, typer.Argument(help="Fingerprint of the artifact: the last part of its path.")
        ],
        study: StudyOption = None,
        seeds: SeedsOption = None,
        data_root: DataRootOption = "",
        device: DeviceOption = "auto",
        processes: Annotated[int, typer.Option(min=1, help="Processes (GPUs) for one training.")] = 1,
        nodes: Annotated[
            int, typer.Option(min=1, help="Nodes of a Slurm job that share these processes equally.")
        ] = 1,
        machine: MachineOption = None,
    ) -> None:
        check_nodes(nodes, processes=processes, keys=("--nodes", "--processes"))
        # Snakemake passes an empty --data-root where none is set.
        folder = Path(data_root) if data_root else None
        run_job(
            stage,
            fingerprint,
            study_name=study,
            seeds=seeds,
            options=JobOptions(folder, device, processes, nodes, parse_machine_options(machine or ())),
        )

    # typer shows the docstring as the command's help.
    command.__doc__ = STAGE_FUNCTIONS[stage].__doc__
    return command


def run_job(
    stage: str,
    fingerprint: str,
    *,
    study_name: str | None = None,
    seeds: int | None = None,
    options: JobOptions,
) -> None:
    """Make one artifact of a study and write its provenance record.

    Raises:
        UserError: the study has no such artifact, its folder cannot be written, or the stage fails on its input.
    """
    set_models_root(options.machine.models_root)
    study = load_study(study_name, seeds=seeds)
    artifact = study.find_artifact(stage, fingerprint)
    if options.machine.portable and _needs_kernels(study, artifact):
        limit_kernels("--machine")
    run_stage = STAGE_FUNCTIONS[stage]
    # A process that `devices.launch` started for a training: its launcher writes the record.
    if "LOCAL_RANK" in os.environ:
        run_stage(study, artifact, options)
        return
    # Before any work: a read-only folder must not cost a training.
    check_writable(artifact.path.parent)
    _backdate_inputs(artifact)
    with record_result(artifact, study=study.name, command=["python", "-m", "pipeline", *sys.argv[1:]]):
        run_stage(study, artifact, options)


def _needs_kernels(study: Study, artifact: Artifact) -> bool:
    """Return whether the job of an artifact computes it on this machine; it may only rename what the job of a group left."""
    if artifact.stage == "generate" and is_computed(artifact):
        return not is_generated(stages.generation_request(study, artifact))
    return is_computed(artifact)


def _backdate_inputs(artifact: Artifact) -> None:
    """Set inputs dated in the future (a clock was set back) to now: Snakemake refuses outputs older than their inputs."""
    for source in artifact.inputs.values():
        for path in (source.path, source.path / ".snakemake_timestamp"):
            # The file is missing, or belongs to another user.
            with suppress(OSError):
                if path.stat().st_mtime > time.time():
                    os.utime(path)
