"""The figure of accuracy against forgetting."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.figures import Color, Drawing, choose_colors, render_svg
from pipeline.report.texts.tables import average_forgetting, list_passages, measure_forgetting
from pipeline.study.run import BARE

# of a panel, and of the legend below it
_WIDTH, _HEIGHT, _LINE = 3.6, 3.2, 0.22


def draw_forgetting(data: ReportData) -> dict[str, Drawing]:
    """Draw macro average accuracy against forgetting for each section, by file name; none without passages or bases."""
    passages = list_passages(data)
    if not passages or not data.has_bare:
        return {}
    seeds = "" if data.has_one_seed else " and seeds"
    of = passages[0].title if len(passages) == 1 else f"mean of {len(passages)} texts"
    lines = f"95 % intervals over examples{seeds}"
    lines += f" and over passages{seeds}" if len(passages) == 1 else ", of accuracy only"
    return {
        f"forgetting-{section.name}": Drawing(
            f"Macro average accuracy, {section.arm.name}, protocol {section.protocol}, against forgetting ({of}): how many more "
            f"nats per token than the bare base. Up and to the left is better. Lines: {lines}.",
            _draw_section(data, section),
        )
        for section in data.sections
    }


def _draw_section(data: ReportData, section: Section) -> str:
    colors, models = choose_colors(data), data.study.models
    titles = max(len(data.method_titles(model.name)) for model in models)
    figure, axes = plt.subplots(
        1,
        len(models),
        figsize=(_WIDTH * len(models), _HEIGHT + _LINE * titles),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    # a method may be missing from a panel: not trained on its model, or diverged
    handles: dict[str, Artist] = {}
    for model, panel in zip(models, axes[0], strict=True):
        for method, title in data.method_titles(model.name).items():
            cell = Cell(model.name, method, section.arm.name)
            if data.find_runs(*cell):
                _draw_point(panel, data, section, cell, title, colors[method])
        panel.axvline(0, color="0.8", linewidth=1, zorder=0)
        panel.set_title(model.title)
        panel.set_xlabel("forgetting (nats per token)")
        panel.grid(alpha=0.3)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    axes[0][0].set_ylabel("accuracy (%)")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False)
    return render_svg(figure)


def _draw_point(axes: Axes, data: ReportData, section: Section, cell: Cell, title: str, color: Color) -> None:
    accuracy = data.average_accuracy(cell, section.keys)
    x = 0.0 if cell.method == BARE else average_forgetting(data, [cell])
    # a diverged model has no finite likelihood, so no place in the figure
    if x is None or not np.isfinite(x):
        return
    y = 100 * accuracy["estimate"]
    axes.plot([x], [y], "o", color=color, label=title)
    axes.vlines(x, 100 * accuracy["low"], 100 * accuracy["high"], color=color, linewidth=1.5)
    passages = list_passages(data)
    interval = measure_forgetting(data, cell, passages[0]) if len(passages) == 1 else None
    if interval:
        axes.hlines(y, interval["low"], interval["high"], color=color, linewidth=1.5)
