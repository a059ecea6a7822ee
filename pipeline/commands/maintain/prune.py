"""The command `prune`: stale results into the store, and the store freed."""

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
        bool, typer.Option("--store", help="Print what the store holds, and free it after a confirmation.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --store: free without a confirmation.")] = False,
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", help="With --store: only what was moved longer ago."),
    ] = 0.0,
    free_all: Annotated[
        bool, typer.Option("--all", help="With --store: also results that another study refers to.")
    ] = False,
) -> None:
    """Move results that the params no longer refer to into the store."""
    from pipeline.results.free_store import free_store
    from pipeline.results.store import prune_results

    # A mistake in the params is reported before anything is freed.
    loaded_study = load_study(study, seeds=seeds)
    if store:
        free_store(older_than_days=older_than, include_referenced=free_all, confirmed=yes)
    elif yes or free_all or older_than:
        raise UserError(
            "prune: --yes, --all and --older-than select what to free from the store; add --store"
        )
    else:
        prune_results(loaded_study, stages or [], dry_run=dry_run)
