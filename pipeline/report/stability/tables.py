"""The table of reversals: how far the order of a study's methods depends on its conditions."""

import pandas as pd

from pipeline.core.text import format_percent
from pipeline.report.data import ReportData
from pipeline.report.stability.reversals import Axis, AxisChanges, count_lasting_orders, list_axis_changes
from pipeline.report.tables import Table

AXIS_TITLES: dict[Axis, str] = {
    "seed": "another seed",
    "protocol": "another protocol, same adapters",
    "arm": "another training, same tasks",
}
NOT_SEPARATED = "Reversed, not separated"
SEPARATED = "Reversed, separated"

_CAPTION = (
    "Does the order of the methods hold? A change: the macro averages of two methods of a model, single adapters, under two "
    "conditions that differ in one respect. It is a reversal if the method that was behind is ahead. Separated: the paired "
    "test over all seeds separates the two methods under either condition (p < 0.05 after Holm's correction). One order: "
    "pairs of methods of which one is never behind, under all conditions of the study. The changes share adapters and "
    "examples, so their shares have no interval."
)


def build_stability_tables(data: ReportData) -> dict[str, Table]:
    """Build the table of reversals, by file name; none for a study in which no two methods have two conditions."""
    rows = []
    lasting = {model.name: count_lasting_orders(data, model) for model in data.study.models}
    for entry in list_axis_changes(data):
        if entry.changes:
            orders, pairs = lasting[entry.model.name]
            rows.append(
                _format_row(entry, has_tests=not data.has_one_seed) | {"One order": f"{orders} of {pairs}"}
            )
    return {"stability": Table(_CAPTION, pd.DataFrame(rows))} if rows else {}


def _format_row(entry: AxisChanges, *, has_tests: bool) -> dict[str, str]:
    return {
        "Model": entry.model.title,
        "What changes": AXIS_TITLES[entry.axis],
        "Changes": str(len(entry.changes)),
        NOT_SEPARATED: _format_share(*entry.count(separated=False)),
        **({SEPARATED: _format_share(*entry.count(separated=True))} if has_tests else {}),
    }


def _format_share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({format_percent(part / whole)} %)" if whole else "none"
