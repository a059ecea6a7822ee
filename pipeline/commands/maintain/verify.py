"""The command `verify`: every result against its provenance record."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import SeedsOption
from pipeline.study import load_study


def verify_command(
    context: typer.Context,
    path: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders of results (default: all).")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", help="Only results of this study (default: all on disk).")
    ] = None,
    seeds: SeedsOption = None,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="Write a record for each result that has none, from its files as they are now."
        ),
    ] = False,
) -> None:
    """Check every result against its provenance record."""
    from pipeline.results import verify

    is_limited = study is not None or seeds is not None
    loaded_study = load_study(study, seeds=seeds) if is_limited or adopt else None
    if loaded_study and adopt:
        verify.adopt_study(loaded_study)
    # A link, such as results/ on another disk, is not followed: only its own path names results.
    paths = [Path(os.path.relpath(context.obj / item)) for item in path or []]
    artifacts = loaded_study.named() if loaded_study and is_limited else None
    outcome = verify.verify(paths=paths, artifacts=artifacts)
    verify.print_verify_outcome(outcome)
    if not outcome.passed:
        raise typer.Exit(1)
