"""Pages of which one section is generated, between two lines that mark it; their tables and links."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.core.errors import UserError


def replace_section(page: Path, begin: str, end: str, section: str) -> str:
    """Return a page's text with ``section`` between its marking lines ``begin`` and ``end``.

    Raises:
        UserError: the page lacks one of the two lines.
    """
    before, first, rest = page.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise UserError(
            f"{page}: the line '{end if first else begin}' is missing; it marks the generated part"
        )
    return f"{before}{begin}\n\n{section}\n{end}{after}"


def draw_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; a bar in a cell is escaped."""
    lines = [" | ".join(cell.replace("|", r"\|") for cell in cells) for cells in (head, *rows)]
    rule = "|---" * len(head) + "|"
    return "\n".join([f"| {lines[0]} |", rule, *(f"| {line} |" for line in lines[1:])])


def link_source(address: str) -> str:
    """Return a link in Markdown, named by the end of its address: a file with its line, or an issue with its number."""
    parts = address.split("/")
    title = parts[-1] if "/blob/" in address else "/".join(parts[-2:])
    return f"[{title}]({address})"
