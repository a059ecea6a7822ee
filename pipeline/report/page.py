"""The page: tables and figures in one HTML file that opens offline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.report.outcomes import browsed
from pipeline.report.tables import Data, Table

LINKED = {"Run": "manifest.json", "Answers": ""}


def render(data: Data, tables: Mapping[str, Table], figures: Mapping[str, tuple[str, str]]) -> str:
    """Return the report as one HTML text: inline style and figures, no script, no request."""
    folder = Path(__file__).parent
    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    shown = {name: (caption, Markup(svg)) for name, (caption, svg) in figures.items()}
    return environment.get_template("page.html.j2").render(
        study=data.study, parts=data.parts, outcomes=browsed(data), tables=tables, figures=shown
    )


def _cell(value: Any, column: str) -> str | Markup:
    if column not in LINKED:
        return str(value)
    target = f"../../{value}/{LINKED[column]}".rstrip("/")
    return Markup('<a href="{}">{}</a>').format(target, Path(str(value)).name)
