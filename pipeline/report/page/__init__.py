"""The page: all tables and figures in one HTML file that opens offline."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline.evaluate.scoring.metrics import METRICS
from pipeline.report.data import ReportData
from pipeline.report.figures import Drawing
from pipeline.report.outcomes import list_task_outcomes
from pipeline.report.summary import Summary
from pipeline.report.tables import Table, format_percent

# columns of the list of runs whose cells are paths: the file in the folder that the cell links to
_LINKED_FILES = {"Run": "manifest.json", "Answers": ""}


def render_page(
    data: ReportData,
    summary: Summary | None,
    tables: Mapping[str, Table],
    drawings: Mapping[str, Drawing],
) -> str:
    """Return the report as HTML with inline style and figures, without scripts or requests.

    Args:
        data: of the study.
        summary: its first screen, and the lines of the provenance section; None: the study evaluates no model.
        tables: by file name.
        drawings: the figures, by file name.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # autoescape: models may answer in HTML
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["link_files"] = _link_files
    environment.filters["percent"] = format_percent
    return environment.get_template("templates/page.html.j2").render(
        study=data.study,
        summary=summary,
        sections=data.sections,
        outcomes=list_task_outcomes(data),
        metrics=METRICS,
        one_seed=data.has_one_seed,
        tables=tables,
        figures={name: replace(drawing, svg=Markup(drawing.svg)) for name, drawing in drawings.items()},
    )


def _link_files(cell: str, column: str) -> str | Markup:
    """Link a cell of the list of runs to its files."""
    if column not in _LINKED_FILES:
        return cell
    # the page is in reports/STUDY/, paths are relative to the project
    target = f"../../{cell}/{_LINKED_FILES[column]}".rstrip("/")
    return Markup('<a href="{}">{}</a>').format(target, Path(cell).name)
