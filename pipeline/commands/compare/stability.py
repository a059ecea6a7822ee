"""The command `stability`: how far an order of methods depends on seeds, protocols, training settings and test examples."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import JsonOption
from pipeline.core.errors import UserError
from pipeline.core.text import format_percent, print_json, print_table
from pipeline.params import read_card
from pipeline.params.published.cards import Published
from pipeline.study import Study, load_study
from pipeline.study.description.describe import describe_study
from pipeline.study.find import make_command

if TYPE_CHECKING:
    # loads pandas and matplotlib, which a command loads only when it runs
    from pipeline.report.stability.published import PublishedOrder
    from pipeline.report.stability.reversals import AxisChanges


def stability_command(
    study: Annotated[str | None, typer.Argument(help="Study in params/study/.")] = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            metavar="CARD",
            help="Card in params/published/, such as peft-metamathqa, instead of a study.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count how often the order of two methods reverses under another seed, protocol or training setting.

    With --published: show which methods of a published table differ significantly.
    """
    if (study is None) == (published is None):
        raise UserError("stability: name either a study or --published CARD")
    if published is not None:
        orders = order_tables(published)
        if as_json:
            print_json([asdict(order) for order in orders])
        else:
            _print_orders(orders)
        return
    assert study is not None
    entries = measure_stability(load_study(study))
    if as_json:
        print_json([_list_changes(entry) for entry in entries])
    else:
        _print_entries(entries)


def order_tables(name: str) -> "list[PublishedOrder]":
    """Return the order of the methods in each table of a card of published figures.

    Raises:
        UserError: there is no such card, none of its tables has two methods of a model, or the number of examples of a
            task is not stated.
    """
    from pipeline.report.stability.published import order_published

    card: Published = read_card("published", name)
    orders = [
        order
        for table in card.tables
        for order in order_published(table, {task: _count_examples(task, name) for task in table.tasks})
    ]
    if not orders:
        raise UserError(
            f"stability: params/published/{name}.yaml has no table with two methods of a model; choose another card"
        )
    return orders


def _count_examples(task: str, published: str) -> int:
    rows = read_card("datasets", task).splits["test"].rows
    if rows is None:
        raise UserError(
            f"stability: params/published/{published}.yaml: the number of test examples of '{task}' is unknown; set "
            f"splits.test.rows in params/datasets/{task}.yaml"
        )
    return int(rows)


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
            f"{part} of {whole} ({format_percent(part / whole)} %)" if whole else "none"
            for part, whole in counts
        ]
        rows.append([entry.model.title, AXIS_TITLES[entry.axis], str(len(entry.changes)), *shares])
    print_table(("MODEL", "WHAT CHANGES", "CHANGES", "REVERSED, NOT SEPARATED", "REVERSED, SEPARATED"), rows)
    print(
        "\nA change: two methods of a model under two conditions that differ in one respect. Reversed: the method that was behind is"
        "\nahead. Separated: the paired test over all seeds separates the two (p < 0.05 after Holm's correction)."
    )


def _print_orders(orders: "list[PublishedOrder]") -> None:
    for order in orders:
        print(f"{order.table}, {order.model}")
        rows = [
            [place.method, f"{place.average:.1f}", str(place.ahead_of), str(place.behind)]
            for place in order.places
        ]
        columns = ("METHOD", "AVERAGE (%)", "AHEAD OF", "BEHIND")
        print_table(columns, rows, right=columns[1:])
        ties = (
            f"{len(order.ties)} cannot be told apart from the first"
            if order.ties
            else "the first is ahead of all others"
        )
        print(f"{order.separated} of {order.pairs} pairs are separated; {ties}\n")
    print(
        "Ahead of, behind: how many methods are significantly below and above this method (p < 0.05 after Holm's correction). The test"
        "\ntreats accuracies as independent proportions: it covers the draw of the examples, but not the effect of another seed."
    )
