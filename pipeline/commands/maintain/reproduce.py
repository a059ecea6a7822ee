"""The command `reproduce`: a result made a second time at its commit, and compared."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.options import AnyStudyOption, DataRootOption, SeedsOption


def reproduce_command(
    context: typer.Context,
    result: Annotated[
        str, typer.Argument(help="A run, the path of a result, or a number: PROTOCOL/MODEL/METHOD/TASK.")
    ],
    study: AnyStudyOption = None,
    seeds: SeedsOption = None,
    from_inputs: Annotated[
        bool, typer.Option("--from-inputs", help="Reuse the recorded data, prompts and bases.")
    ] = False,
    data_root: DataRootOption = "",
    # The default is TOLERANCE of pipeline.results.reproduction.reproduce, which --help must not wait for.
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Allowed difference of accuracies computed on a GPU.")
    ] = 0.02,
    device: Annotated[
        Literal["cpu", "cuda", "mps"] | None,
        typer.Option("--device", help="Device (default: the recorded one)."),
    ] = None,
    worktree: Annotated[
        Path | None, typer.Option("--worktree", help="New folder to work in, which is kept afterwards.")
    ] = None,
) -> None:
    """Rebuild a result at its commit, and compare it with the original."""
    from pipeline.results.reproduction.reproduce import ReproduceOptions, print_reproduce_outcome, reproduce
    from pipeline.results.reproduction.request import find_request

    request = find_request(result, study, seeds=seeds)
    print(f"reproducing: {', '.join(str(target.path) for target in request.targets)}", flush=True)
    options = ReproduceOptions(
        from_inputs=from_inputs,
        data_root=data_root,
        tolerance=tolerance,
        device=device or "",
        worktree=Path(os.path.abspath(context.obj / worktree)) if worktree else None,
    )
    outcome = reproduce(request, options)
    print_reproduce_outcome(outcome)
    if outcome.differences:
        raise typer.Exit(1)
