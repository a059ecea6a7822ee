"""Cells and captions whose text Markdown or LaTeX would read as its own."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from pipeline import report
from pipeline.core.text import format_percent, format_points
from pipeline.report.comparisons import format_p_value
from pipeline.report.tables import Table, escape_latex, write_table
from tests.finished_study import make_small_study

# every character that tables of the report have, and what users may put into titles and questions
CELLS = [
    "89.6 [78.5, 93.4]*",
    "≤ 0.0001",
    "48.0 − 50.0 = -2.0 ✓",
    "48.0 − 60.0 = -12.0 ✗",
    "AddSub ‡ SVAMP § BoolQ †",
    "a | b || c",
    "two\nlines\r\nand a third",
    r"\frac{1}{2} ^ ~ # $5 & 5 % _x_ {y}",
    "What is 2 → 3 … ≥ × <b>?",
    "[1] starts a row",
    "* starts a row",
    '"quoted" `code`',
]


def test_a_share_has_the_same_digits_however_it_was_computed():
    # metrics.json and the terminal have the rounded one
    assert format_percent(0.83749999999999991) == format_percent(0.8375) == "83.8"
    assert format_points(-0.83749999999999991) == format_points(-0.8375) == "-83.8"


@pytest.fixture
def files(tmp_path):
    rows = [{"Model | x": cell, "p_value": cell} for cell in CELLS]
    write_table(Table("A caption\nof two lines, 95 %.", pd.DataFrame(rows)), tmp_path / "tables" / "t")
    return tmp_path / "tables"


def split_cells(line: str) -> list[str]:
    """Return the cells of a Markdown row, as GitHub splits it."""
    return [cell.strip() for cell in line.replace(r"\|", "\0").strip("|").split("|")]


def test_markdown_rows_stay_whole(files):
    lines = [line for line in (files / "t.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(CELLS)
    assert all(len(split_cells(line)) == 2 for line in lines)
    assert split_cells(lines[0])[0] == "Model \0 x"
    assert split_cells(lines[2 + CELLS.index("a | b || c")])[0] == "a \0 b \0\0 c"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (r"a\b", r"a\textbackslash{}b"),
        ("50 % & $5 #1 x_y {z}", r"50 \% \& \$5 \#1 x\_y \{z\}"),
        ("~^|", r"\textasciitilde{}\textasciicircum{}\textbar{}"),
        ("≤ − ✓ †", r"$\leq$ $-$ $\surd$ \dag{}"),
        ("[a]", "{}[a]"),
        ("a\nb", "a b"),
    ],
)
def test_latex_shows_the_text_of_a_cell(text, latex):
    assert escape_latex(text) == latex


def find_latex() -> list[str]:
    """Return the command that compiles a document here; the test is skipped where there is none."""
    for name, options in (("tectonic", []), ("pdflatex", ["-interaction=nonstopmode", "-halt-on-error"])):
        if path := shutil.which(name):
            return [path, *options]
    pytest.skip("skipped: neither tectonic nor pdflatex (texlive) is on PATH")


def compile_tables(command: list[str], tables: Path, folder: Path) -> str:
    """Compile a document that shows every table; return the end of LaTeX's output if it fails, else ""."""
    paths = sorted(tables.glob("*.tex"))
    assert paths
    inputs = "\n\n".join(f"\\input{{{path}}}\n\\clearpage" for path in paths)
    document = folder / "all.tex"
    preamble = "\\documentclass{article}\n\\usepackage{booktabs}\n"
    document.write_text(f"{preamble}\\begin{{document}}\n{inputs}\n\\end{{document}}\n")
    result = subprocess.run(
        [*command, document.name], cwd=folder, capture_output=True, text=True, check=False
    )
    return (result.stdout + result.stderr)[-2000:] if result.returncode else ""


def test_latex_compiles_a_table_of_any_characters(files, tmp_path):
    assert compile_tables(find_latex(), files, tmp_path) == ""


def test_latex_compiles_every_table_of_a_report(tmp_path):
    command = find_latex()
    report.build(make_small_study(tmp_path), output=tmp_path / "report", fingerprint="abc")
    assert compile_tables(command, tmp_path / "report/tables", tmp_path) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5000"), (1 / 10_001, "≤ 0.0001"), (3.2e-7, "3.2e-07"), (0.0, "≤ 1e-12"), (1e-30, "≤ 1e-12")],
)
def test_a_p_value_below_the_resolution_is_a_bound(value, text):
    assert format_p_value(value) == text
