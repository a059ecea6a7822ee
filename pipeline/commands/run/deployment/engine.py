"""What a run takes from Snakemake's own settings."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.run.deployment import software, storage
from pipeline.core.errors import UserError


@dataclass(frozen=True)
class Engine:
    """How Snakemake was called.

    Attributes:
        is_main_process: False in a process that Snakemake starts for one job.
        methods: "conda" and "apptainer", where Snakemake deploys the jobs' software by them.
        has_storage: whether results are in a storage of Snakemake, because the jobs' machines share no file system.
    """

    is_main_process: bool = False
    methods: frozenset[str] = frozenset()
    has_storage: bool = False


def read_engine(workflow: Any, root: Path) -> Engine:
    """Return how Snakemake was called, and fit it to this project; exit with one line on a mistake.

    Args:
        workflow: of Snakemake.
        root: of the checkout.
    """
    software.ignore_environment_changes(workflow)
    try:
        has_storage = storage.link_storage(workflow, root)
    except UserError as error:
        sys.exit(f"error: {error}")
    return Engine(workflow.is_main_process, software.deployment_methods(workflow), has_storage)
