"""The command `compare`: a run beside another run or a reference, task by task, and the answers that differ."""

import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline.commands.compare.pairs import ComparisonRow, RunComparison, Side, compare_sides
from pipeline.commands.compare.published import (
    PublishedComparison,
    PublishedDifference,
    compare_published,
)
from pipeline.commands.compare.references import (
    compare_reference,
    find_first_run,
    find_reference,
    find_second_run,
)
from pipeline.commands.options import AnyStudyOption, JsonOption
from pipeline.core.io import read_json, read_jsonl
from pipeline.core.text import format_percent, format_points, format_value, print_json, print_table
from pipeline.evaluate import stats
from pipeline.evaluate.scoring.rows import ScoreFile
from pipeline.evaluate.scoring.sides import SideAnswer
from pipeline.study import Study
from pipeline.study.find import require_results
from pipeline.study.followups.rows import RowReference
from pipeline.study.run import Run

StudyRun = tuple[Study, Run]
# characters in a line of a note
WIDTH = 120


def compare_command(
    first: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint, or the path of a result.",
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="RUN|REFERENCE",
            help="Another run, or a reference of the study: a card in params/references/, or a row of a publication, "
            "CARD/MODEL or CARD/MODEL/METHOD.",
        ),
    ],
    study: AnyStudyOption = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="How many examples with different answers to print.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """Compare a run with another run or a reference on the same examples."""
    run = find_first_run(first, second, study)
    reference = find_reference(second, run[0])
    if isinstance(reference, RowReference):
        published = compare_published(*run, reference, task=task, protocol=protocol)
        if as_json:
            print_json(published)
        else:
            print_published(published)
        return
    if reference is None:
        other = find_second_run(second, study, run[0])
        comparison = compare_runs(run, other, task=task, protocol=protocol)
    else:
        comparison = compare_reference(read_side(*run), *run, reference, task=task, protocol=protocol)
    if as_json:
        print_json({**comparison, "changes": comparison["changes"][:limit]})
    else:
        print_comparison(comparison, limit=limit)


def compare_runs(
    first: StudyRun, second: StudyRun, *, task: str | None = None, protocol: str | None = None
) -> RunComparison:
    """Return how two runs differ on the tasks and protocols that both were evaluated on.

    Args:
        first: a study and a run of it.
        second: the other.
        task: only this task; None: all.
        protocol: only this protocol; None: all.

    Raises:
        UserError: a run is not scored yet, or the two have no task in common, or not the same examples.
    """
    # it loads the rules that compare questions, which other commands do not need
    from pipeline.results.scores.clusters import find_clusters

    sides = read_side(*first), read_side(*second)
    return compare_sides(*sides, clusters=find_clusters(*first), task=task, protocol=protocol)


def read_side(study: Study, run: Run) -> Side:
    """Return a run as a side of a comparison.

    Raises:
        UserError: the run is not scored yet.
    """
    scores: ScoreFile = read_json(require_results(study, run).scores)

    def read_rows(name: str) -> dict[str, dict[str, object]]:
        items = scores["tasks"][name]["items"]
        rows = read_jsonl(study.results(run).answers_file(name))
        return {item["id"]: row for item, row in zip(items, rows, strict=True)}

    return Side(run.name, scores["tasks"], read_rows)


def print_comparison(comparison: RunComparison, *, limit: int) -> None:
    """Print a comparison: the table, then the first ``limit`` examples whose answers differ."""
    print(f"first:  {comparison['first']}\nsecond: {comparison['second']}\n")
    columns = ("TASK", "PROTOCOL", "N", "FIRST", "SECOND", "DIFFERENCE", "95 %", "P", "HOLM", "DETECTABLE")
    print_table(columns, [_comparison_cells(row) for row in comparison["comparisons"]])
    print()
    print_notes(
        [
            "In percent and percentage points, paired on examples. P: McNemar's exact test for a task, the paired bootstrap for an "
            "average and where examples are drawn in clusters (N has their number in brackets). HOLM: P corrected over this table; the "
            "95 % intervals are not corrected. DETECTABLE: the smallest difference that four of five such comparisons would find; "
            "empty where HOLM < 0.05. All of it is about these two runs alone, not about their methods: another seed may reverse a "
            "difference. The report compares methods over their seeds.",
            *comparison["notes"],
        ]
    )
    changes = comparison["changes"]
    print(f"answers that differ: {len(changes)}; shown: {min(limit, len(changes))} (--limit)")
    for change in changes[:limit]:
        print(
            f"\n{change['id']}  {change['protocol']}  gold {change['gold']}\n{indent_text(change['question'], 2)}"
        )
        for side, answer in (("first", change["first"]), ("second", change["second"])):
            print(f"  {side}: {format_answer(answer)}")
            if answer["text"] is not None:
                print(indent_text(answer["text"], 4))


def print_notes(notes: Sequence[str]) -> None:
    """Print sentences, each as a paragraph."""
    for note in notes:
        print(f"{textwrap.fill(note, WIDTH)}\n")


def print_published(comparison: PublishedComparison) -> None:
    """Print a run beside published figures, and what they can be compared with."""
    print(f"run:       {comparison['first']}\npublished: {comparison['second']}\n")
    columns = ("TASK", "PROTOCOL", "N", "RUN", "95 %", "PUBLISHED", "DIFFERENCE")
    print_table(columns, [_published_cells(row) for row in comparison["comparisons"]])
    print()
    print_notes(comparison["notes"])


def _published_cells(row: PublishedDifference) -> list[str]:
    return [
        row["task"],
        row["protocol"],
        str(row["n"]),
        format_percent(row["first"]),
        f"[{format_percent(row['low'])}, {format_percent(row['high'])}]",
        format_percent(row["second"]),
        format_points(row["difference"]),
    ]


def _comparison_cells(row: ComparisonRow) -> list[str]:
    return [
        row["task"],
        row["protocol"],
        str(row["n"]) if row["clusters"] is None else f"{row['n']} ({row['clusters']})",
        format_percent(row["first"]),
        format_percent(row["second"]),
        format_points(row["difference"]),
        f"[{format_points(row['low'])}, {format_points(row['high'])}]",
        f"{row['p_value']:.4f}",
        f"{row['holm']:.4f}",
        # where a difference was found, what else could have been found says nothing
        "" if row["holm"] < 1 - stats.LEVEL else format_percent(row["detectable"]),
    ]


def format_answer(answer: SideAnswer) -> str:
    """Return the parsed answer, and whether it is right."""
    if answer["parsed"] is None:
        return "unparsed"
    return f"{format_value(answer['parsed'])} ({'right' if answer['correct'] else 'wrong'})"


def indent_text(text: str, spaces: int) -> str:
    """Return a text with each line behind a number of spaces."""
    return "\n".join(" " * spaces + line for line in text.strip().splitlines())
