"""Write docs/support-matrix.md from what the test matrix finds: ``python -m tests.support_matrix``.

Runs tests/integration/test_matrix.py and turns its results into the table; nothing in the table is typed.
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
    """What came of each cell: "passed", or the kind of its failure."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a cell's call, or of what failed ahead of it."""
        if "test_cell[" not in report.nodeid or (report.when != "call" and report.passed):
            return
        name = report.nodeid.partition("[")[2].removesuffix("]")
        self.of[by_id()[name]] = report.outcome


def by_id() -> dict[str, tuple[str, str, str]]:
    """Return the cells by what pytest calls them."""
    return {"-".join(cell): cell for cell in matrix.cells()}


def title(method: str) -> str:
    """A method's name, as its row has it."""
    return f"{read_card('methods', method).name} (`{method}`)"


def page(results: dict[tuple[str, str, str], str]) -> str:
    """Return the page of these results."""
    notes: list[str] = []
    lines = [
        *head(),
        "| method | " + " | ".join(LINEAR_MODULES) + " |",
        "|---" * (len(LINEAR_MODULES) + 1) + "|",
    ]
    for method in matrix.METHODS:
        shown = [cell(method, architecture, results, notes) for architecture in LINEAR_MODULES]
        lines.append(f"| {title(method)}{marks(method, notes)} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def head() -> list[str]:
    """The page's text above the table."""
    checks = [f"- {line}" for line in matrix.CHECKS]
    return [
        "# Support matrix",
        "",
        "Written by `python -m tests.support_matrix` from the results of tests/integration/test_matrix.py, with "
        f"peft {peft.__version__} and transformers {transformers.__version__}, on small random models of the real classes.",
        "",
        f"A cell counts the places that work: {', '.join(matrix.PLACES)} (the card's own modules, then all linear modules "
        "there); methods without target modules have one. Works means:",
        "",
        *checks,
        "",
    ]


def cell(method: str, architecture: str, results: dict[tuple[str, str, str], str], notes: list[str]) -> str:
    """Return one cell: how many places work, which failed, or the number of the note that says why none can."""
    found = {place: results.get((method, architecture, place)) for place in matrix.places(method)}
    failed = [place for place, outcome in found.items() if outcome != "passed"]
    if (method, architecture) in matrix.CANNOT and not failed:
        reason = f"Cannot be: {matrix.CANNOT[method, architecture][0]}. A test holds this true."
        return f"no [{number(reason, notes)}]"
    works = f"{len(found) - len(failed)}/{len(found)}"
    return f"{works}, not {', '.join(failed)}" if failed else works


def marks(method: str, notes: list[str]) -> str:
    """Return the numbers of a row's notes."""
    told = [
        (matrix.ROUNDED, "Loaded again it gives the same logits up to rounding (1e-5), not the same bits"),
        (matrix.STAYS_ON, "Cannot be disabled"),
    ]
    found = [f"{what}: {reasons[method]}." for reasons, what in told if method in reasons]
    return "".join(f" [{number(note, notes)}]" for note in found)


def number(note: str, notes: list[str]) -> int:
    """Return a note's number; a new note is added."""
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
    missing = len(by_id()) - len(results.of)
    if missing:
        print(f"{missing} cells have no result; nothing is written", file=sys.stderr)
        return 1
    with atomic_file(PAGE) as temporary:
        temporary.write_text(page(results.of), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
