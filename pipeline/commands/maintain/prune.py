"""The command `prune`: stale results into the store; the store and abandoned work freed."""

from typing import Annotated

import typer

from pipeline.commands.options import SeedsOption, StudyOption
from pipeline.core.errors import UserError
from pipeline.study import load_study


def prune_command(
    stages: Annotated[list[str] | None, typer.Argument(help="Only these stages.")] = None,
    study: StudyOption = None,
    seeds: SeedsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be moved.")] = False,
    store: Annotated[
        bool,
        typer.Option("--store", help="List the content of the store, and ask whether to free it."),
    ] = False,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="List the files of killed jobs, and free those that no planned job would resume.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --store or --unfinished: free without asking.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            show_default=False,
            help="With --store or --unfinished: only results that were moved or last written at least this long ago (default: 0).",
        ),
    ] = 0.0,
    free_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="With --store: also results that a study refers to. With --unfinished: also work that its jobs would resume.",
        ),
    ] = False,
) -> None:
    """Move results that the params no longer refer to into the store."""
    from pipeline.results.disk.free_store import free_store
    from pipeline.results.disk.unfinished import free_unfinished, remind_of_unfinished
    from pipeline.results.store import prune_results

    # A mistake in the params is reported before anything is freed.
    loaded_study = load_study(study, seeds=seeds)
    if store and unfinished:
        raise UserError("prune: --store and --unfinished cannot be combined; use one of them")
    if store:
        free_store(older_than_days=older_than, include_referenced=free_all, confirmed=yes)
    elif unfinished:
        free_unfinished(older_than_days=older_than, include_resumable=free_all, confirmed=yes)
    elif yes or free_all or older_than:
        raise UserError(
            "prune: --yes, --all and --older-than select what to free; add --store or --unfinished"
        )
    else:
        prune_results(loaded_study, stages or [], dry_run=dry_run)
        remind_of_unfinished()
