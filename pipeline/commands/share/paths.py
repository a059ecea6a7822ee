"""The command `paths`: the results of a stage, as arguments for dvc pull."""

from typing import Annotated

import typer

from pipeline.commands.options import SeedsOption, StudyOption
from pipeline.study import load_study
from pipeline.study.stages import STAGES


def paths_command(
    stage: Annotated[str, typer.Argument(help=f"Stage: {', '.join(STAGES)}.")],
    study: StudyOption = None,
    seeds: SeedsOption = None,
    model: Annotated[str | None, typer.Option("--model", help="Only results of this base.")] = None,
    needed: Annotated[
        bool,
        typer.Option("--needed", help="List what the jobs of the stage read, instead of what they write."),
    ] = False,
) -> None:
    """List the paths of a stage's results, or of what its jobs read, as arguments for dvc pull."""
    from pipeline.results.dvc.remotes import list_stage_paths

    loaded_study = load_study(study, seeds=seeds)
    print("\n".join(list_stage_paths(loaded_study, stage, model=model, needed=needed)))
