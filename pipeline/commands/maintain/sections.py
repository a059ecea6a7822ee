"""Pages of which one section is generated, between two lines that mark it."""

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
