"""The page: all tables and figures in one HTML file that opens offline, and the files of answers beside it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline.core.text import format_percent
from pipeline.evaluate.scoring.metrics import METRICS
from pipeline.report.data import ReportData
from pipeline.report.figures import Drawing
from pipeline.report.outcomes import list_task_outcomes
from pipeline.report.page.drawings import prefix_ids
from pipeline.report.page.layout import TableView, lay_out_table
from pipeline.report.page.play import list_choices, write_play_data
from pipeline.report.summary import Summary
from pipeline.report.tables import Table

# columns of the list of runs whose cells are paths: the file in the folder that the cell links to
_LINKED_FILES = {"Run": "manifest.json", "Answers": ""}
# in the order in which they run; docs/report.md has the source, version and licence of the first
_SCRIPTS = (
    "assets/plotly-basic.min.js",
    "assets/tables.js",
    "assets/pareto.js",
    "assets/outcomes.js",
    "assets/answers.js",
)


def render_page(
    data: ReportData,
    summary: Summary | None,
    tables: Mapping[str, Table],
    drawings: Mapping[str, Drawing],
) -> str:
    """Return the report as HTML with inline style, figures and scripts, which loads nothing from a network.

    Args:
        data: of the study.
        summary: its first screen, and the lines of the provenance section; None: the study evaluates no model.
        tables: by file name.
        drawings: the figures, by file name.
    """
    folder = Path(__file__).parent
    loader = jinja2.FileSystemLoader(folder)
    # autoescape: models may answer in HTML
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    choices = list_choices(data)
    titles = {model.name: model.title for model in data.study.models}
    for model in data.study.models:
        titles |= data.method_titles(model.name)

    def lay_out(name: str) -> TableView:
        # the list of runs has the names that stand in paths
        return lay_out_table(tables[name], tasks=choices["task"], titles=titles if name == "runs" else None)

    def link_files(cell: str, column: str, row: int) -> str | Markup:
        return (
            _link_files(cell, column, data.study.runs[row].fingerprint) if column in _LINKED_FILES else cell
        )

    environment.filters |= {"lay_out": lay_out, "link_files": link_files, "percent": format_percent}
    return environment.get_template("page.html.j2").render(
        study=data.study,
        notes=data.notes,
        summary=summary,
        sections=data.sections,
        outcomes=list_task_outcomes(data),
        metrics=METRICS,
        one_seed=data.has_one_seed,
        tables=tables,
        transfers=[name for name in tables if name.startswith("transfer-")],
        figures={
            name: replace(drawing, svg=Markup(prefix_ids(drawing.svg, name)))
            for name, drawing in drawings.items()
        },
        choices=choices,
        play_data=write_play_data(data),
        scripts=[Markup((folder / name).read_text(encoding="utf-8")) for name in _SCRIPTS],
    )


def _link_files(cell: str, column: str, fingerprint: str) -> Markup:
    """Link a cell of the list of runs to its files, and its answers also to the list of answers."""
    # the page is in reports/STUDY/, paths are relative to the project
    target = f"../../{cell}/{_LINKED_FILES[column]}".rstrip("/")
    link = Markup('<a href="{}">{}</a>').format(target, Path(cell).name)
    if column == "Answers":
        link = Markup('<a href="#answers/{}">show</a> {}').format(fingerprint, link)
    return link
