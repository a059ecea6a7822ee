"""The hidden command `warm`: the preloaded parent of a Snakemake run's jobs."""

from typing import Annotated

import typer


def warm_command(
    address: Annotated[str, typer.Argument(help="Path of the socket to serve.")],
    parent: Annotated[int, typer.Argument(help="Process id of Snakemake; the server ends with it.")],
) -> None:
    """Serve the jobs of a running Snakemake, which starts this itself."""
    from pipeline.commands.app import run_command
    from pipeline.core import warm

    warm.serve_jobs(address, parent, run_command)
