"""The software of the jobs: this environment, or one that Snakemake deploys (``--sdm conda`` or ``--sdm apptainer``)."""

import re
import shlex
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

# `--config container=IMAGE` names another one
IMAGE = "adapter-studies.sif"
RECIPE = "containers/apptainer.def"


def deployment_methods(workflow: Any) -> frozenset[str]:
    """Return the methods of ``--sdm`` that replace Python: "conda" and "apptainer", those that Snakemake was called with."""
    methods = {method.name.lower() for method in workflow.deployment_settings.deployment_method}
    return frozenset(methods & {"conda", "apptainer"})


def pipeline_command(methods: Collection[str]) -> str:
    """Return how the shell of a job starts the pipeline: with the deployed Python, or with that of this process."""
    return f"{'python' if methods else shlex.quote(sys.executable)} -m pipeline"


def ignore_environment_changes(workflow: Any) -> None:
    """Keep the environment from being a reason to run: only a missing path is one.

    Snakemake's trigger ``software-env``, which the profiles have because it never fires in one environment, would otherwise
    run the whole study again when ``--sdm`` is added or left out. A process of a single job has no trigger at all: Snakemake
    does not pass an empty set on to it.
    """
    kind = type(workflow)

    # Snakemake sets its triggers only after it has read the Snakefile, so they are changed where it reads them.
    def rerun_triggers(self: Any) -> frozenset[Any]:
        triggers = kind.rerun_triggers.fget(self) if self.is_main_process else ()
        return frozenset(trigger for trigger in triggers if trigger.name != "SOFTWARE_ENV")

    workflow.__class__ = type(kind.__name__, (kind,), {"rerun_triggers": property(rerun_triggers)})


def check_image(methods: Collection[str], image: str) -> None:
    """Refuse a run in Apptainer without its image, and without Apptainer.

    Args:
        methods: as ``deployment_methods`` returns them.
        image: a file, or the address of an image in a registry.

    Raises:
        UserError: one line with the fix.
    """
    if "apptainer" not in methods:
        return
    if not (shutil.which("apptainer") or shutil.which("singularity")):
        raise UserError(
            "--sdm apptainer: there is no apptainer on this machine; install it, or leave --sdm out"
        )
    if not re.match(r"[a-z]+://", image) and not Path(image).exists():
        raise UserError(
            f"container: there is no image {image}; build it: apptainer build {IMAGE} {RECIPE} "
            "(--build-arg TORCH=cpu without a GPU), or name another: --config container=IMAGE"
        )
