"""The headline: a small table of macro averages, methods by models and sections, as values for the page and as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.core.text import format_percent
from pipeline.evaluate.stats import Estimate
from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.summary.ranking import Ranking, Verdict
from pipeline.report.tables import escape_latex, escape_markdown, format_interval, wrap_latex
from pipeline.study.run import BARE

# stands behind each of the methods that tie
TIE_MARK = "="


class RankedSection(NamedTuple):
    """A section of the report with the ranking of its methods, by model."""

    section: Section
    rankings: dict[str, Ranking]


@dataclass(frozen=True)
class HeadlineColumn:
    """A model in a section of the report; ``section`` is the arm, with the protocol where the study has several."""

    model: str
    section: str


@dataclass(frozen=True)
class HeadlineCell:
    """A method's macro average in [0, 1] with its interval.

    Attributes:
        accuracy: the average over tasks.
        verdict: what the paired tests say of it.
        anchor: the id on the page of the run that it comes from.
    """

    accuracy: Estimate
    verdict: Verdict
    anchor: str


@dataclass(frozen=True)
class HeadlineRow:
    """A method, with a cell for each column; None where the column's model is not trained with it."""

    method: str
    cells: Sequence[HeadlineCell | None]


@dataclass(frozen=True)
class Headline:
    """The headline table.

    Attributes:
        caption: what the numbers and marks are.
        columns: sections in their order, and in each the models.
        rows: the bare base first, if it is evaluated.
    """

    caption: str
    columns: Sequence[HeadlineColumn]
    rows: Sequence[HeadlineRow]

    @property
    def spans(self) -> dict[str, int]:
        """The number of columns of each section, in their order."""
        sections = [column.section for column in self.columns]
        return {section: sections.count(section) for section in dict.fromkeys(sections)}


def build_headline(data: ReportData, ranked: Sequence[RankedSection]) -> Headline:
    """Build the headline of a report from its sections with their rankings."""
    positions = [(part, model) for part in ranked for model in data.study.models]
    columns = [HeadlineColumn(model.title, describe_section(data, part.section)) for part, model in positions]
    bare = {BARE: "no adapter"} if data.has_bare else {}
    rows = []
    for method, title in (bare | {method.name: method.title for method in data.study.methods}).items():
        cells = [_build_cell(data, part, model.name, method) for part, model in positions]
        rows.append(HeadlineRow(title, cells))
    return Headline(_write_caption(data, ranked), columns, rows)


def describe_section(data: ReportData, section: Section) -> str:
    """Return the arm of a section, with its protocol where the report has several."""
    protocols = {other.protocol for other in data.sections}
    return f"{section.arm.name}, {section.protocol}" if len(protocols) > 1 else section.arm.name


def _build_cell(data: ReportData, part: RankedSection, model: str, method: str) -> HeadlineCell | None:
    cell = Cell(model, method, part.section.arm.name)
    if not data.find_runs(*cell):
        return None
    accuracy = data.average_accuracy(cell, part.section.keys)
    return HeadlineCell(accuracy, part.rankings[model].judge(method), cell.anchor)


def _write_caption(data: ReportData, ranked: Sequence[RankedSection]) -> str:
    note = data.notes.get("models", "")
    models = f" All models: {note}." if note else ""
    seeds = ", ".join(map(str, data.study.seeds))
    if data.trains_nothing:
        return f"Macro average of the accuracy in percent, one run of each model, with its 95 % interval over examples.{models}"
    if data.has_one_seed:
        return (
            f"Macro average of the accuracy in percent, seed {seeds}, with its 95 % interval over examples. With one seed, "
            f"the numbers are about these runs alone, and none is marked as the best.{models}"
        )
    rankings = [ranking for part in ranked for ranking in part.rankings.values()]
    others = "every other method"
    if all(ranking.has_single_method for ranking in rankings):
        others = "the other row"
    return (
        f"Macro average of the accuracy in percent, mean over seeds {seeds}, with its 95 % interval over examples and seeds. "
        f"Bold: significantly better than {others} of its column (paired tests, p < 0.05, corrected). {TIE_MARK}: the "
        f"highest average and those that do not differ significantly from it.{models}"
    )


def write_headline(headline: Headline, folder: Path, *, study: str) -> None:
    """Write headline.md and headline.tex.

    Args:
        headline: the table.
        folder: where the files are written.
        study: name of the study, which the label of the LaTeX table ends with.
    """
    (folder / "headline.md").write_text(_format_markdown(headline), encoding="utf-8")
    (folder / "headline.tex").write_text(_format_latex(headline, study), encoding="utf-8")


def _format_markdown(headline: Headline) -> str:
    columns = ["Method", *(f"{column.model}, {column.section}" for column in headline.columns)]
    rows = [[row.method, *map(_format_markdown_cell, row.cells)] for row in headline.rows]
    # numbers on the right
    rules = ["---", *["---:"] * len(headline.columns)]
    lines = [f"| {' | '.join(row)} |" for row in (map(escape_markdown, columns), rules, *rows)]
    return "\n".join([headline.caption, "", *lines]) + "\n"


def _format_markdown_cell(cell: HeadlineCell | None) -> str:
    if cell is None:
        return ""
    value, _, interval = format_interval(cell.accuracy).partition(" ")
    value = f"**{value}**" if cell.verdict == "best" else value
    return f"{value} {interval}" + (f" {TIE_MARK}" if cell.verdict == "tie" else "")


def _format_latex(headline: Headline, study: str) -> str:
    """Return the table in a column's width: models side by side, sections below each other, ends of intervals as indices."""
    models = list(dict.fromkeys(column.model for column in headline.columns))
    lines = [f"Method & {' & '.join(map(escape_latex, models))} \\\\"]
    for section in headline.spans:
        shown = [number for number, column in enumerate(headline.columns) if column.section == section]
        lines += [
            r"\midrule",
            rf"\multicolumn{{{len(models) + 1}}}{{l}}{{\emph{{{escape_latex(section)}}}}} \\",
        ]
        for row in headline.rows:
            cells = [_format_latex_cell(row.cells[number]) for number in shown]
            lines.append(f"{escape_latex(row.method)} & {' & '.join(cells)} \\\\")
    body = [
        rf"\begin{{tabular}}{{l{'r' * len(models)}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return wrap_latex(
        "\n".join(body),
        caption=f"{headline.caption} Indices: the ends of the interval.",
        label=f"headline-{study}",
        style="\\footnotesize\n\\setlength{\\tabcolsep}{4pt}",
    )


def _format_latex_cell(cell: HeadlineCell | None) -> str:
    if cell is None:
        return ""
    value = format_percent(cell.accuracy["estimate"])
    value = rf"\textbf{{{value}}}" if cell.verdict == "best" else value
    low, high = format_percent(cell.accuracy["low"]), format_percent(cell.accuracy["high"])
    mark = rf"\,{TIE_MARK}" if cell.verdict == "tie" else ""
    return f"{value}$_{{{low}}}^{{{high}}}${mark}"
