"""Plain-text tables for the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

NARROWEST = 24  # characters of a column that wraps


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, wrapped: Sequence[str]) -> str:
    """Return rows under their columns; in a terminal the columns ``wrapped`` share the width that is left."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(columns) - 1)
        elastic = [columns.index(name) for name in wrapped]
        room -= sum(width for place, width in enumerate(widths) if place not in elastic)
        for count, place in enumerate(sorted(elastic, key=lambda place: widths[place])):
            widths[place] = min(widths[place], max(NARROWEST, room // (len(elastic) - count)))
            room -= widths[place]
    text = []
    for line in lines:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(line, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            text.append(
                "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
            )
    return "\n".join(text)
