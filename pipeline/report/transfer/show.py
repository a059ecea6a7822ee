"""The transfer matrix as a table and as a heat map."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pipeline.report.data import ReportData
from pipeline.report.figures import Drawing, render_svg
from pipeline.report.tables import Table, format_interval
from pipeline.report.transfer.matrix import TransferRow, list_groups, list_transfers

# inches of a cell, and of the labels beside and above the cells
_COLUMN, _ROW, _LEFT, _TOP = 1.3, 0.3, 2.0, 1.2


def list_transfer_protocols(data: ReportData) -> list[str]:
    """Return the headline protocols under which the study has a transfer matrix."""
    return [
        protocol for protocol in data.study.headline or data.study.protocols if list_groups(data, protocol)
    ]


def build_transfer_tables(data: ReportData) -> dict[str, Table]:
    """Build the transfer matrix of each headline protocol, by file name; none for a study without transfer."""
    tables = {}
    for protocol in list_transfer_protocols(data):
        groups = [group.name for group in list_groups(data, protocol)]
        rows = [
            {
                "Model": row.model.title,
                "Method": row.title,
                "Trained on": row.training_set,
                **{
                    group: format_interval(row.accuracies[group]) if group in row.accuracies else ""
                    for group in groups
                },
            }
            for row in list_transfers(data, protocol)
        ]
        caption = (
            f"Transfer, protocol {protocol}: macro average in percent on each group of tasks, by what the adapter was trained on, "
            f"with {_describe_interval(data)}. {_describe_groups(data, protocol)}"
        )
        tables[f"transfer-{protocol}"] = Table(caption, pd.DataFrame(rows))
    return tables


def draw_transfers(data: ReportData) -> dict[str, Drawing]:
    """Draw the gains over the bare base as a heat map for each headline protocol, by file name; none without bare bases."""
    if not data.has_bare:
        return {}
    return {
        f"transfer-{protocol}": Drawing(
            f"Transfer, protocol {protocol}: gain over the bare base in points of the macro average, by training set (rows) and "
            "group of tasks (columns).",
            _draw_matrix(data, protocol),
        )
        for protocol in list_transfer_protocols(data)
    }


def _describe_interval(data: ReportData) -> str:
    return f"95 % intervals over examples{'' if data.has_one_seed else ' and seeds'}"


def _describe_groups(data: ReportData, protocol: str) -> str:
    titles = {task.name: task.title for arm in data.study.arms for task in arm.tasks}
    groups = [
        f"{group.name}: {', '.join(title for name, title in titles.items() if name in group.tasks)}"
        for group in list_groups(data, protocol)
    ]
    return f"Groups: {'; '.join(groups)}."


def _draw_matrix(data: ReportData, protocol: str) -> str:
    groups = [group.name for group in list_groups(data, protocol)]
    rows = [row for row in list_transfers(data, protocol) if row.gains]
    models = [model for model in data.study.models if any(row.model == model for row in rows)]
    limit = max((abs(100 * gain) for row in rows for gain in row.gains.values()), default=1) or 1
    counts = [sum(row.model == model for row in rows) for model in models]
    size = (_LEFT + _COLUMN * len(groups), _TOP + _ROW * sum(counts) + 0.4 * len(models))
    figure, axes = plt.subplots(
        len(models), 1, figsize=size, height_ratios=counts, squeeze=False, layout="constrained"
    )
    for model, panel in zip(models, axes[:, 0], strict=True):
        own = [row for row in rows if row.model == model]
        gains = np.array([[100 * row.gains.get(group, np.nan) for group in groups] for row in own])
        panel.imshow(gains, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        panel.set_title(model.title)
        panel.set_xticks(range(len(groups)), groups, rotation=20, ha="right")
        panel.set_yticks(range(len(own)), [_label_row(row) for row in own])
        for (y, x), gain in np.ndenumerate(gains):
            if not np.isnan(gain):
                # white on the dark ends of the map
                color = "white" if abs(gain) > 0.6 * limit else "black"
                panel.text(x, y, f"{gain:+.1f}", ha="center", va="center", color=color, fontsize=8)
    return render_svg(figure)


def _label_row(row: TransferRow) -> str:
    return f"{row.title}, {row.training_set}"
