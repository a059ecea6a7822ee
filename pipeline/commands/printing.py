"""Tables and JSON on standard output: laid out for a person at a terminal, plain lines for a script."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their columns.

    A terminal gets a table that fits its width; a file or pipe gets each row on one line, which scripts can split.

    Args:
        columns: the column heads.
        rows: one cell for each column.
        right: columns that are aligned on the right.
    """
    if not sys.stdout.isatty():
        print(plain_table(columns, rows, right=right))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        # Names are copied into commands, so the first column never breaks.
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column == columns[0],
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Return rows under their columns, each on one line, with two spaces or more between two cells."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
