"""The commands `push` and `pull`: results to and from a DVC remote."""

from pathlib import Path
from typing import Annotated

import typer

# All arguments are DVC's, its options and `--help` included; an option in front would end in ours.
PASS_THROUGH = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}

DvcArguments = Annotated[list[str] | None, typer.Argument(metavar="[DVC ARGUMENTS]...")]


def push_command(context: typer.Context, arguments: DvcArguments = None) -> None:
    """Send results to a DVC remote, even after a dvc that was killed; takes the arguments of dvc push."""
    _transfer("push", arguments or [], caller_folder=context.obj)


def pull_command(context: typer.Context, arguments: DvcArguments = None) -> None:
    """Get results from a DVC remote, even after a dvc that was killed; takes the arguments of dvc pull."""
    _transfer("pull", arguments or [], caller_folder=context.obj)


def _transfer(dvc_command: str, arguments: list[str], *, caller_folder: Path) -> None:
    from pipeline.results.dvc.remotes import transfer_results

    status = transfer_results(dvc_command, arguments, folder=caller_folder)
    if status:
        raise typer.Exit(status)
