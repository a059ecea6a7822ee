"""The command `check-remote`: damaged and missing objects in a DVC remote."""

from typing import Annotated

import typer


def check_remote_command(
    remote: Annotated[
        str | None, typer.Argument(help="Name of the remote (default: the default remote).")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the damaged objects; the next push sends them again.")
    ] = False,
) -> None:
    """Find damaged objects in a DVC remote."""
    from pipeline.results.dvc.remotes import check_remote, print_remote_status

    print_remote_status(check_remote(remote, remove=remove), removed=remove)
