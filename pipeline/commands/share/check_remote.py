"""The command `check-remote`: damaged and missing objects in a DVC remote."""

from typing import Annotated

import typer

from pipeline.core.errors import UserError

PUSH_AGAIN = "python -m pipeline push, in a checkout that has them"


def check_remote_command(
    remote: Annotated[
        str | None, typer.Argument(help="Name of the remote (default: the default remote).")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete damaged objects there; push then sends them again.")
    ] = False,
) -> None:
    """Find damaged objects in a DVC remote."""
    from pipeline.results.dvc import remotes

    result = remotes.check_remote(remote, remove=remove)
    removed = ", removed" if remove else ""
    for name in result.damaged:
        print(f"damaged{removed}: {name}")
    for name in result.lacking:
        print(f"incomplete folder{removed}: {name}")
    for name in result.absent:
        print(f"missing: {name}")
    print(f"{result.count} objects, {len(result.damaged)} damaged, {len(result.lacking)} incomplete folders")
    print(f"{len(result.absent)} results of dvc.lock are missing")
    is_damaged = bool(result.damaged or result.lacking)
    if is_damaged and not remove:
        raise UserError(
            f"check-remote: damaged; repair it: check-remote --remove, then {PUSH_AGAIN} (docs/dvc.md)"
        )
    if result.absent and not remove:
        raise UserError(f"check-remote: incomplete; send what is missing: {PUSH_AGAIN}")
    if is_damaged or result.absent:
        print(f"now send them again: {PUSH_AGAIN}")
