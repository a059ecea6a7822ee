"""The command `generate-group`: answers of several models at one load of their base."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DeviceOption, MachineOption, SeedsOption, StudyOption
from pipeline.commands.run.stages import generation_request
from pipeline.core.errors import UserError
from pipeline.core.hardware.processor import limit_kernels
from pipeline.core.io import check_writable
from pipeline.models.bases.local import set_models_root
from pipeline.params.machine import parse_machine_options
from pipeline.study import load_study
from pipeline.study.stages import STAGES


def generate_group_command(
    fingerprints: Annotated[
        list[str],
        typer.Argument(help="Fingerprints of their answers; `generate` then only renames each result."),
    ],
    study: StudyOption = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
    machine: MachineOption = None,
) -> None:
    """Generate the answers of several models with a single load of their base."""
    settings = parse_machine_options(machine or ())
    set_models_root(settings.models_root)
    if settings.portable:
        # before the imports below load torch
        limit_kernels("--machine")
    from pipeline.core.hardware import devices
    from pipeline.evaluate.generation.generate import generate_group

    loaded_study = load_study(study, seeds=seeds)
    answers = [loaded_study.find_artifact("generate", fingerprint) for fingerprint in fingerprints]
    bases = {artifact.inputs["base"].path for artifact in answers}
    if len(bases) > 1:
        raise UserError(
            f"generate-group: models can share a load of one base only (got {', '.join(map(str, bases))})"
        )
    # Before the base is loaded, which may take minutes.
    check_writable(Path(STAGES["generate"].folder))
    requests = [generation_request(loaded_study, artifact) for artifact in answers]
    with devices.claim_device(device, gpus=settings.gpus_per_job or 1) as claimed_device:
        loads = generate_group(bases.pop(), requests, device=claimed_device, machine=settings)
    print(f"{len(requests)} models evaluated; their base was loaded {loads} times")
