"""The command `stability`: how far the order of a study's methods depends on seeds, protocols and training settings."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import JsonOption
from pipeline.core.errors import UserError
from pipeline.core.text import print_json, print_table
from pipeline.study import Study, load_study
from pipeline.study.description import describe_study
from pipeline.study.find import make_command

if TYPE_CHECKING:
    # loads pandas and matplotlib, which a command loads only when it runs
    from pipeline.report.stability.reversals import AxisChanges


def stability_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study in params/study/.")],
    as_json: JsonOption = False,
) -> None:
    """Count how often the order of two methods reverses under another seed, protocol or training."""
    entries = measure_stability(load_study(study))
    if as_json:
        print_json([_list_changes(entry) for entry in entries])
    else:
        _print_entries(entries)


def measure_stability(study: Study) -> "list[AxisChanges]":
    """Return the changes of the methods' order along each axis that a finished study has.

    Raises:
        UserError: a run is not scored yet, or no two methods have two conditions to compare.
    """
    from pipeline.report.data import read_report_data
    from pipeline.report.stability.reversals import list_axis_changes

    missing = [run for run in study.runs if not study.scores(run).path.exists()]
    if missing:
        path = study.scores(missing[0]).path
        raise UserError(
            f"stability: {len(missing)} of {len(study.runs)} runs of '{study.name}' are not scored; run: {make_command(study, path)}"
        )
    entries = [entry for entry in list_axis_changes(read_report_data(describe_study(study))) if entry.changes]
    if not entries:
        raise UserError(
            f"stability: study '{study.name}' has no two methods under two conditions; add a second method, and a seed or a "
            f"protocol, in {study.where}"
        )
    return entries


def _list_changes(entry: "AxisChanges") -> dict[str, object]:
    return {
        "model": entry.model.name,
        "axis": entry.axis,
        "changes": [
            {
                "first": change.pair.first,
                "second": change.pair.second,
                "before": change.before,
                "after": change.after,
                "separated": change.is_separated,
                "reversed": change.is_reversed,
            }
            for change in entry.changes
        ],
    }


def _print_entries(entries: "list[AxisChanges]") -> None:
    from pipeline.report.stability.tables import AXIS_TITLES

    rows = []
    for entry in entries:
        counts = [entry.count(separated=separated) for separated in (False, True)]
        shares = [
            f"{part} of {whole} ({100 * part / whole:.1f} %)" if whole else "none" for part, whole in counts
        ]
        rows.append([entry.model.title, AXIS_TITLES[entry.axis], str(len(entry.changes)), *shares])
    print_table(("MODEL", "WHAT CHANGES", "CHANGES", "REVERSED, NOT SEPARATED", "REVERSED, SEPARATED"), rows)
    print(
        "\nA change: two methods of a model under two conditions that differ in one respect. Reversed: the method that was behind is"
        "\nahead. Separated: the paired test over all seeds separates the two (p < 0.05 after Holm's correction)."
    )
