"""Plain-text tables for the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console

# characters of the narrowest column that wraps
NARROWEST = 24
# no line of a table is longer than this
PIPE_WIDTH = 10_000
# two spaces between columns
GAP = 2


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, wrapped: Sequence[str]) -> str:
    """Return rows as a table with a header; on a terminal the columns in ``wrapped`` share the remaining width."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    if sys.stdout.isatty():
        _fit_to_terminal(widths, elastic=[columns.index(name) for name in wrapped])
    return "\n".join(text for line in lines for text in _wrap_row(line, widths))


def _fit_to_terminal(widths: list[int], *, elastic: Sequence[int]) -> None:
    """Narrow the elastic columns in place, so that all columns fit the terminal."""
    available = shutil.get_terminal_size().columns - GAP * (len(widths) - 1)
    available -= sum(width for column, width in enumerate(widths) if column not in elastic)
    # the narrowest first: what they do not need is left for the wider ones
    for count, column in enumerate(sorted(elastic, key=lambda column: widths[column])):
        widths[column] = min(widths[column], max(NARROWEST, available // (len(elastic) - count)))
        available -= widths[column]


def _wrap_row(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, cells))):
        parts = [cell[number] if number < len(cell) else "" for cell in cells]
        padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
        lines.append((" " * GAP).join(padded).rstrip())
    return lines


def open_console() -> Console:
    """Return a console for tables: they fit the terminal, and in a pipe every row is one line."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
