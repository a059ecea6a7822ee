"""The command `compare-data`: a rebuilt dataset against the published one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DataRootOption, SplitOption, data_root_folder
from pipeline.data.rows import SourceRow

FILE_SUFFIXES = (".json", ".jsonl", ".gz")


def compare_data_command(
    context: typer.Context,
    published: Annotated[
        str,
        typer.Argument(
            help="The published dataset: a card in params/datasets/, or a .json or .jsonl file (.gz too)."
        ),
    ],
    rebuilt: Annotated[
        list[str], typer.Argument(help="The rebuilt dataset, in the same form; several are joined in order.")
    ],
    split: SplitOption = None,
    data_root: DataRootOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the numbers of all rows.")
    ] = False,
) -> None:
    """Compare a rebuilt dataset with the published one, row by row."""
    from pipeline.data.compare import compare_rows, format_data_comparison

    folder = data_root_folder(context, data_root)
    rebuilt_rows = [
        row for name in rebuilt for row in _load_rows(name, context.obj, split=split, data_root=folder)
    ]
    published_rows = _load_rows(published, context.obj, split=split, data_root=folder)
    comparison = compare_rows(rebuilt_rows, published_rows)
    print(json.dumps(comparison) if as_json else format_data_comparison(comparison))


def _load_rows(
    name: str, caller_folder: Path, *, split: str | None, data_root: Path | None
) -> list[SourceRow]:
    """Return the rows of a dataset card or of a file, in the instruction format."""
    from pipeline.commands.look.examples import raw_files
    from pipeline.data.compare import read_file_rows, read_raw_rows

    if name.endswith(FILE_SUFFIXES):
        return read_file_rows(caller_folder / name)
    return read_raw_rows(raw_files(name, split, data_root=data_root))
