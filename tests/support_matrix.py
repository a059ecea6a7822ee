"""Write docs/support-matrix.md from the results of the test matrix: ``python -m tests.support_matrix``.

Runs tests/integration/test_matrix.py and writes its results as the table; no entry is written by hand.
"""

import sys
from pathlib import Path

import peft
import pytest
import transformers

from pipeline.core.io import atomic_file
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.reading import read_card
from tests.integration import test_matrix as matrix

PAGE = Path(__file__).resolve().parents[1] / "docs/support-matrix.md"


class Results:
    """The outcome of each cell: "passed", or the kind of its failure."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a cell's call, or a failure of its setup."""
        if "test_cell[" not in report.nodeid or (report.when != "call" and report.passed):
            return
        name = report.nodeid.partition("[")[2].removesuffix("]")
        self.outcomes[cells_by_id()[name]] = report.outcome


def cells_by_id() -> dict[str, tuple[str, str, str]]:
    """Return the cells by their ids in pytest."""
    return {"-".join(cell): cell for cell in matrix.list_cells()}


def title(method: str) -> str:
    """Return a method's name as its row shows it."""
    return f"{read_card('methods', method).name} (`{method}`)"


def page(results: dict[tuple[str, str, str], str]) -> str:
    """Return the page for these results."""
    notes: list[str] = []
    lines = [
        *introduction(),
        "| method | " + " | ".join(LINEAR_MODULES) + " |",
        "|---" * (len(LINEAR_MODULES) + 1) + "|",
    ]
    for method in matrix.METHODS:
        row_cells = [cell(method, architecture, results, notes) for architecture in LINEAR_MODULES]
        lines.append(f"| {title(method)}{note_marks(method, notes)} | " + " | ".join(row_cells) + " |")
    lines += ["", *(f"{note_number}. {note}" for note_number, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def introduction() -> list[str]:
    """Return the text above the table."""
    checks = [f"- {line}" for line in matrix.CHECKS]
    return [
        "# Support matrix",
        "",
        "This page shows which method works with which architecture.",
        "",
        "Written by `python -m tests.support_matrix` from the results of tests/integration/test_matrix.py, with "
        f"peft {peft.__version__} and transformers {transformers.__version__}, on small random models of the real classes.",
        "",
        f"A cell is the number of places that work: {', '.join(matrix.PLACES)} (the card's own modules, then all linear modules "
        "there); methods without target modules have only the first. A place works if:",
        "",
        *checks,
        "",
    ]


def cell(method: str, architecture: str, results: dict[tuple[str, str, str], str], notes: list[str]) -> str:
    """Return a cell: how many places work and which failed, or the number of the note with the reason that none can."""
    outcomes = {place: results.get((method, architecture, place)) for place in matrix.list_places(method)}
    failed = [place for place, outcome in outcomes.items() if outcome != "passed"]
    if (method, architecture) in matrix.IMPOSSIBLE and not failed:
        reason = f"Not possible: {matrix.IMPOSSIBLE[method, architecture][0]}. A test checks this."
        return f"no [{note_number(reason, notes)}]"
    works = f"{len(outcomes) - len(failed)}/{len(outcomes)}"
    return f"{works}, not {', '.join(failed)}" if failed else works


def note_marks(method: str, notes: list[str]) -> str:
    """Return the numbers of a row's notes, as links to them."""
    reasons_by_kind = [
        (matrix.ROUNDED, "After saving and loading, logits are equal up to rounding (1e-5), not bit by bit"),
        (matrix.STAYS_ON, "Cannot be disabled"),
    ]
    row_notes = [f"{kind}: {reasons[method]}." for reasons, kind in reasons_by_kind if method in reasons]
    return "".join(f" [{note_number(note, notes)}]" for note in row_notes)


def note_number(note: str, notes: list[str]) -> int:
    """Return a note's number; add the note if it is new."""
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def main() -> int:
    """Run the matrix and write the page; return pytest's exit code."""
    results = Results()
    code = pytest.main(
        ["-q", "-p", "no:warnings", "-p", "no:cacheprovider", "-k", "test_cell", matrix.__file__],
        plugins=[results],
    )
    missing = len(cells_by_id()) - len(results.outcomes)
    if missing:
        print(f"{missing} cells have no result; nothing is written", file=sys.stderr)
        return 1
    with atomic_file(PAGE) as temporary:
        temporary.write_text(page(results.outcomes), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
