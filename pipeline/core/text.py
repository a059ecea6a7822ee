"""Percentages and numbers in texts; tables and JSON on standard output."""

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # rich is imported where it is used: most jobs print no table, and each pays for what it imports.
    from rich.console import Console

# no line of a table is longer than this
PIPE_WIDTH = 10_000


def format_percent(share: float) -> str:
    """Format a share as percent with one decimal."""
    # an average of 0.8375 may be computed as 0.8374999: without its last digits, as metrics.json has it, it is 83.8 everywhere
    return f"{100 * round(share, 6):.1f}"


def format_points(difference: float) -> str:
    """Format a difference between two shares in percentage points, with its sign and one decimal."""
    return f"{100 * round(difference, 6):+.1f}"


def format_value(value: object) -> str:
    """Format a value as text, a whole number without decimals: 3.0 is "3"."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def open_console() -> "Console":
    """Return a console for tables: they fit the terminal, and in a pipe every row is one line."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()
) -> None:
    """Print rows under their columns, with two spaces or more between two cells.

    Args:
        columns: their heads.
        rows: one cell for each column.
        right: the columns that are aligned on the right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 1))
    for column in columns:
        # The first column holds names, which people copy into commands: it never wraps.
        table.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column == columns[0],
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = open_console()
    with console.capture() as capture:
        console.print(table)
    # rich fills up the last column with spaces
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
