"""The commands `push` and `pull`: send results to a DVC remote, and get them from it."""

from typing import Annotated

import typer

from pipeline.core.errors import UserError

# Our options come first; from the first other argument on, all are DVC's.
PASS_THROUGH = {"ignore_unknown_options": True, "allow_interspersed_args": False}

SharedStudyOption = Annotated[
    str | None, typer.Option("--study", help="Only the results of this study, as dvc.lock records them.")
]
SharedModelOption = Annotated[
    str | None, typer.Option("--model", help="Only the results of this base, and what they depend on.")
]
ARGUMENTS = "DVC_ARGUMENTS"
PushArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar=ARGUMENTS,
        help="Passed on to dvc push: -r REMOTE, -j JOBS, paths and others; see dvc push --help. They come after the options below. "
        "With --model, only -r and -j.",
    ),
]
PullArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar=ARGUMENTS,
        help="Passed on to dvc pull: -r REMOTE, -j JOBS, paths and others; see dvc pull --help. They come after the options below.",
    ),
]


def push_command(
    context: typer.Context,
    arguments: PushArguments = None,
    study: SharedStudyOption = None,
    model: SharedModelOption = None,
) -> None:
    """Send results to a DVC remote, as dvc push does. It works even after a dvc command was killed."""
    from pipeline.results.dvc.remotes import transfer_results
    from pipeline.results.dvc.selection import push_study
    from pipeline.study import load_study

    _refuse_late_options("push", arguments or [])
    if study is None and model is None:
        _exit(transfer_results("push", arguments or [], folder=context.obj))
    else:
        _exit(push_study(arguments or [], load_study(study), model=model))


def pull_command(
    context: typer.Context,
    arguments: PullArguments = None,
    study: SharedStudyOption = None,
    model: SharedModelOption = None,
) -> None:
    """Get results from a DVC remote, as dvc pull does. It works even after a dvc command was killed."""
    from pipeline.results.dvc.remotes import transfer_results
    from pipeline.results.dvc.selection import pull_study
    from pipeline.study import load_study

    _refuse_late_options("pull", arguments or [])
    if study is None and model is None:
        _exit(transfer_results("pull", arguments or [], folder=context.obj))
    else:
        _exit(pull_study(arguments or [], load_study(study), model=model))


def _refuse_late_options(command: str, arguments: list[str]) -> None:
    """Refuse our options after DVC's arguments, because DVC would get them."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in ("--study", "--model"):
            raise UserError(f"{command}: write {name} before the other arguments, which are DVC's")


def _exit(status: int) -> None:
    if status:
        raise typer.Exit(status)
