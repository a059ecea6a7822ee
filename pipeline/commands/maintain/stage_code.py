"""The command `stage-code`: what a change of a stage's code means for its results."""

from typing import Annotated

import typer

from pipeline.core.errors import UserError


def stage_code_command(
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", metavar="STAGE...", help="Stages whose results stay the same, byte for byte, or `all`."
        ),
    ] = None,
    raised: Annotated[
        list[str] | None,
        typer.Option(
            "--raise", metavar="STAGE...", help="Stages whose results change and get new names, or `all`."
        ),
    ] = None,
) -> None:
    """State whether a change to the code of stages changes their results."""
    from pipeline.study import stage_code

    stage_code.raise_version(raised or [])
    stage_code.keep(keep or [])
    undecided = stage_code.changed_stages()
    if undecided:
        print(stage_code.decisions_needed(undecided))
        raise UserError(f"undecided: {', '.join(undecided)}")
    print("every stage's code is as recorded")
