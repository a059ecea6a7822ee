"""The figure beside the headline: its macro averages as points with their intervals."""

from functools import partial

from matplotlib.axes import Axes

from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.figures import (
    Drawing,
    Panel,
    choose_colors,
    describe_interval,
    draw_interval,
    draw_panels,
    draw_seeds,
)
from pipeline.report.summary.headline import describe_section
from pipeline.study.run import BARE

# of a panel: the least width, and what a point needs
_PANEL_INCHES, _POINT_INCHES = 2.8, 0.11
# the width of a model's points; models are 1 apart
_GROUP = 0.7


def draw_headline(data: ReportData) -> dict[str, Drawing]:
    """Draw the numbers of the headline, by file name: the methods of a model side by side, a panel for each section."""
    bare = [BARE] if data.has_bare else []
    methods = [*bare, *(method.name for method in data.study.methods)]
    models = data.study.models
    panels = [
        Panel(
            describe_section(data, section),
            partial(_draw_section, data=data, section=section, methods=methods),
        )
        for section in data.sections
    ]
    width = max(_PANEL_INCHES, _POINT_INCHES * len(models) * (len(methods) + 2))
    caption = f"The averages of the table; lines: {describe_interval(data)}."
    return {"headline": Drawing(caption, draw_panels(panels, "accuracy (%)", panel_width=width))}


def _draw_section(axes: Axes, *, data: ReportData, section: Section, methods: list[str]) -> None:
    colors, models = choose_colors(data), data.study.models
    shift = _GROUP / max(1, len(methods) - 1)
    for center, model in enumerate(models):
        titles = data.method_titles(model.name)
        for number, method in enumerate(methods):
            cell = Cell(model.name, method, section.arm.name)
            if not data.find_runs(*cell):
                continue
            x = center + shift * (number - (len(methods) - 1) / 2)
            accuracy, color = data.average_accuracy(cell, section.keys), colors[method]
            axes.plot([x], [100 * accuracy["estimate"]], "o", color=color, label=titles[method], markersize=5)
            draw_interval(axes, x, accuracy, color)
            # smaller than in the other figures: the points of a model are close together
            draw_seeds(axes, x, data.list_seed_accuracies(cell, section.keys), size=2)
    axes.set_xticks(range(len(models)), [model.title for model in models])
    axes.set_xlim(-0.5, len(models) - 0.5)
