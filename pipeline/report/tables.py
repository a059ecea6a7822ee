"""A table of the report: its finished cells, and its files as CSV, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipeline.core.text import format_percent
from pipeline.evaluate.stats import Estimate

MACRO = "Macro average"
MICRO = "Micro average"


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        caption: what the numbers are, with n and the kind of interval.
        frame: the cells, all of them formatted text; its CSV is the printed table, and results.csv the one of numbers.
        anchors: for each row the id of the run on the page that its numbers come from, "" for a row without a run;
            empty for a table without links.
        hints: for each row the single seeds behind its numbers, by column; empty for a table without them.
    """

    caption: str
    frame: pd.DataFrame
    anchors: Sequence[str] = field(default=())
    hints: Sequence[Mapping[str, str]] = field(default=())


def format_interval(estimate: Estimate) -> str:
    """Format an estimate with its interval as percent."""
    low, high = format_percent(estimate["low"]), format_percent(estimate["high"])
    return f"{format_percent(estimate['estimate'])} [{low}, {high}]"


def truncate_text(text: str, width: int) -> str:
    """Cut a text after ``width`` characters."""
    return text if len(text) <= width else f"{text[:width]} …"


def write_table(table: Table, path: Path) -> None:
    """Write a table to ``path`` with the suffixes .csv, .md and .tex."""
    path.parent.mkdir(exist_ok=True)
    # not with_suffix, which would cut a name such as accuracy-v1.5
    table.frame.to_csv(f"{path}.csv", index=False)
    Path(f"{path}.md").write_text(_format_markdown(table), encoding="utf-8")
    Path(f"{path}.tex").write_text(_format_latex(table, path.name), encoding="utf-8")


def _format_markdown(table: Table) -> str:
    # DataFrame.to_markdown pads every cell to the widest of its column, which a table of questions is too wide for
    columns = list(table.frame.columns)
    rows = (columns, ["---"] * len(columns), *table.frame.itertuples(index=False, name=None))
    lines = [f"| {' | '.join(map(escape_markdown, row))} |" for row in rows]
    return "\n".join([table.caption, "", *lines]) + "\n"


def escape_markdown(cell: object) -> str:
    """Return the text of a cell as Markdown shows it, in one line."""
    # a bar or a line break would end the cell; GitHub reads a backslash before a bar even in code
    return " ".join(str(cell).splitlines()).replace("|", "\\|")


def _format_latex(table: Table, label: str) -> str:
    style = table.frame.style.hide(axis="index").format(escape_latex).format_index(escape_latex, axis=1)
    body = style.to_latex(column_format="l" * len(table.frame.columns), hrules=True)
    return wrap_latex(body, caption=table.caption, label=label)


def wrap_latex(body: str, *, caption: str, label: str, style: str = "") -> str:
    """Return a tabular as a float of a LaTeX document with the package booktabs.

    Args:
        body: the tabular.
        caption: plain text.
        label: behind "tab:".
        style: commands before the body.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{tab:{label}}}",
        *([style] if style else []),
        body.rstrip("\n"),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


# What LaTeX reads as a command, and the characters of captions and cells that its 8-bit fonts lack. All of them are in
# LaTeX's kernel, so a table needs booktabs alone.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": r"$-$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "✓": r"$\surd$",
    "✗": r"$\times$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "…": r"\dots{}",
}


def escape_latex(cell: object) -> str:
    """Return the text of a cell as LaTeX shows it, in one line."""
    # one pass: the backslashes and braces of a replacement are no text
    text = "".join(_LATEX.get(character, character) for character in " ".join(str(cell).splitlines()))
    # behind the end of a row, a bracket or a star would be an argument of it
    return f"{{}}{text}" if text.startswith(("[", "*")) else text
