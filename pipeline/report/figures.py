"""The figures of a report as SVG; equal data give equal bytes."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline.core.io import read_json
from pipeline.core.text import format_percent
from pipeline.evaluate.stats import Estimate
from pipeline.report.accuracy import list_settings
from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.runs import list_losses
from pipeline.study.description import FigureDescription
from pipeline.study.run import BARE

# a fixed salt instead of random ids, and text as paths, which needs no font where the page is read
plt.rcParams.update(
    {"svg.hashsalt": "report", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False}
)

_PANEL_INCHES = 3.2
# a longer legend stands beside the panels instead of below them
MAX_LABELS_BELOW = 8

Color = str | tuple[float, ...]


@dataclass(frozen=True)
class Drawing:
    """A finished figure."""

    caption: str
    svg: str


class Panel(NamedTuple):
    """One of the plots that stand side by side in a figure."""

    title: str
    draw: Callable[[Axes], None]


def draw_figures(data: ReportData) -> dict[str, Drawing]:
    """Draw all figures of the report, by file name."""
    drawings = {}
    for section in data.sections:
        subject = f"{section.arm.name}, protocol {section.protocol}; lines: {describe_interval(data)}."
        drawings[f"accuracy-{section.name}"] = Drawing(
            f"Macro average accuracy, {subject}", _draw_accuracy(data, section)
        )
        drawings[f"parameters-{section.name}"] = Drawing(
            f"Macro average accuracy against trainable parameters, {subject}",
            _draw_accuracy_against_cost(data, section, "parameters"),
        )
        drawings[f"time-{section.name}"] = Drawing(
            f"Macro average accuracy against training time, {subject}",
            _draw_accuracy_against_cost(data, section, "seconds"),
        )
    mean = "" if data.has_one_seed else ", mean over seeds"
    drawings["learning-curves"] = Drawing(f"Training loss by step{mean}.", _draw_losses(data))
    if data.study.figure:
        drawings |= _draw_settings(data, data.study.figure)
    return drawings


def describe_interval(data: ReportData) -> str:
    """Return what the lines and dots of a figure of accuracies are."""
    if data.has_one_seed:
        return "95 % interval over examples; a number from one seed is about this run alone"
    return "95 % interval over examples and seeds; dots: single seeds"


def _draw_accuracy(data: ReportData, section: Section) -> str:
    """Draw a bar for each method, the bare base first; a panel for each model."""
    colors = choose_colors(data)

    def draw_bars(axes: Axes, model: str) -> None:
        titles = data.method_titles(model)
        for x, method in enumerate(titles):
            cell = Cell(model, method, section.arm.name)
            accuracy = data.average_accuracy(cell, section.keys)
            axes.bar(x, 100 * accuracy["estimate"], color=colors[method])
            draw_interval(axes, x, accuracy, "0.2")
            # beside the interval, which would cover them
            draw_seeds(axes, x + 0.22, data.list_seed_accuracies(cell, section.keys))
        rotation = 30 if len(titles) <= 10 else 60
        axes.set_xticks(range(len(titles)), list(titles.values()), rotation=rotation, ha="right")

    panels = [Panel(model.title, partial(draw_bars, model=model.name)) for model in data.study.models]
    bars = max(len(data.method_titles(model.name)) for model in data.study.models)
    return draw_panels(panels, "accuracy (%)", panel_width=0.32 * max(10, bars))


def _draw_accuracy_against_cost(
    data: ReportData, section: Section, cost: Literal["parameters", "seconds"]
) -> str:
    """Draw a point for each method; a panel for each model."""
    colors = choose_colors(data)

    def draw_points(axes: Axes, model: str) -> None:
        for method in data.methods_of(model):
            cell = Cell(model, method.name, section.arm.name)
            adapters = [run.adapter for run in data.find_runs(*cell) if run.adapter]
            if cost == "seconds" and data.is_combined(adapters[0]):
                # nothing was trained
                continue
            if cost == "parameters":
                x = float(read_json(adapters[0] / "manifest.json")["trainable_parameters"])
            else:
                x = float(np.mean([data.costs[adapter]["seconds"] for adapter in adapters]))
            accuracy = data.average_accuracy(cell, section.keys)
            color = colors[method.name]
            axes.plot([x], [100 * accuracy["estimate"]], "o", color=color, label=method.title)
            draw_interval(axes, x, accuracy, color)
            draw_seeds(axes, x, data.list_seed_accuracies(cell, section.keys))
        _scale_cost_axis(axes)
        axes.set_xlabel("trainable parameters" if cost == "parameters" else "training time (s)")

    panels = [Panel(model.title, partial(draw_points, model=model.name)) for model in data.study.models]
    return draw_panels(panels, "accuracy (%)")


def _scale_cost_axis(axes: Axes) -> None:
    low, high = axes.get_xlim()
    # over less than a decade a log axis has no room for its labels
    if low > 0 and high > 10 * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.05 * high)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_losses(data: ReportData) -> str:
    """Draw the training loss of each method; a panel for each model and arm."""
    losses, colors = list_losses(data), choose_colors(data)

    def draw_curves(axes: Axes, model: str, arm: str) -> None:
        panel_losses = losses[(losses.model == model) & (losses.arm == arm)]
        for method in data.methods_of(model):
            mean = panel_losses[panel_losses.method == method.name].groupby("step").loss.mean()
            if mean.empty:
                # a combination has no steps
                continue
            axes.plot(mean.index, mean.values, label=method.title, linewidth=1, color=colors[method.name])
        axes.set_yscale("log")
        axes.set_xlabel("optimizer step")

    panels = [
        Panel(
            f"{model.title}, {arm.name}",
            partial(draw_curves, model=model.name, arm=arm.name),
        )
        for model in data.study.models
        for arm in data.study.arms
    ]
    return draw_panels(panels, "loss")


def _draw_settings(data: ReportData, figure: FigureDescription) -> dict[str, Drawing]:
    """Draw accuracy against the settings that a study varies: a figure for each section, by file name."""
    rows, drawings = list_settings(data, figure), {}
    seeds = list(data.study.seeds)
    mean = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over seeds {seeds}"
    for section in data.sections:
        caption = (
            f"Accuracy against the setting, {section.arm.name}, protocol {section.protocol}, macro average of "
            f"{len(section.tasks)} tasks, {mean}, {describe_interval(data)}; "
            f"points with the same setting are drawn side by side. {_describe_bare_bases(data, section)}Numbers: plots/settings.csv."
        )
        section_rows = rows[(rows.arm == section.arm.name) & (rows.protocol == section.protocol)]
        if "published" in rows and section_rows.published.notna().any():
            caption += " Hollow diamonds: published averages, in the table below."
        svg = _draw_section_settings(data, figure, section_rows, section.keys)
        drawings[f"settings-{section.name}"] = Drawing(caption, svg)
    return drawings


def _describe_bare_bases(data: ReportData, section: Section) -> str:
    # in words, not as a line: the axis would have to reach so far down that the lines of a setting run into each other
    if not data.has_bare:
        return ""
    accuracies = []
    for model in data.study.models:
        accuracy = data.average_accuracy(Cell(model.name, BARE, section.arm.name), section.keys)
        accuracies.append(f"{model.title} {format_percent(accuracy['estimate'])} %")
    return f"Without adapter: {', '.join(accuracies)}. "


def _draw_section_settings(
    data: ReportData, figure: FigureDescription, rows: pd.DataFrame, keys: Sequence[str]
) -> str:
    """Draw a line for each method card; a panel for each model and setting."""
    colors = _choose_line_colors(figure)

    def draw_lines(axes: Axes, model: str, field: str) -> None:
        panel_rows = rows[(rows.model == model) & (rows.field == field)]
        positions = place_settings(list(panel_rows.setting))
        # lines are shifted sideways, so that their intervals do not cover each other
        shift = 0.025 * (max(positions.values()) - min(positions.values()))
        lines = list(panel_rows.groupby("line", sort=False))
        for number, (line, line_rows) in enumerate(lines):
            x = [positions[value] + shift * (number - (len(lines) - 1) / 2) for value in line_rows.setting]
            color = colors[str(line)]
            axes.plot(x, 100 * line_rows.estimate, "o-", color=color, label=line, linewidth=1)
            axes.vlines(x, 100 * line_rows.low, 100 * line_rows.high, color=color, linewidth=1.5)
            for position, row in zip(x, line_rows.itertuples(), strict=True):
                cell = Cell(model, str(row.method), str(row.arm))
                draw_seeds(axes, position, data.list_seed_accuracies(cell, keys))
            if "published" in line_rows and line_rows.published.notna().any():
                published = 100 * line_rows.published.astype(float)
                axes.plot(x, published, "D:", color=color, markerfacecolor="none")
                # one label for all lines, which differ in color
                axes.plot([], [], "D", color="0.3", markerfacecolor="none", label="published")
        axes.set_xticks(list(positions.values()), [str(value) for value in positions])
        axes.minorticks_off()
        axes.set_xlabel(figure.x[field])

    panels = [
        Panel(model.title, partial(draw_lines, model=model.name, field=field))
        for model in data.study.models
        for field in figure.x
        if any(rows.field == field)
    ]
    return draw_panels(panels, "accuracy (%)")


def place_settings(settings: Sequence[float | str]) -> dict[float | str, float]:
    """Return the position of each setting on an axis.

    Words keep their order. Numbers are placed by value, or by magnitude where the largest is at least 8 times the smallest.
    """
    numbers = sorted({value for value in settings if not isinstance(value, str)})
    if any(isinstance(value, str) for value in settings):
        return {value: float(position) for position, value in enumerate(dict.fromkeys(settings))}
    if numbers[0] > 0 and numbers[-1] >= 8 * numbers[0]:
        return {value: math.log2(value) for value in numbers}
    return {value: float(value) for value in numbers}


def choose_colors(data: ReportData) -> dict[str, Color]:
    """Return the color of each method in all figures; where a setting varies, the methods of a line are its shades."""
    colors: dict[str, Color] = {BARE: "0.6"}
    figure = data.study.figure
    if not figure:
        return colors | {method.name: f"C{number}" for number, method in enumerate(data.study.methods)}
    for line, color in _choose_line_colors(figure).items():
        methods = [point.method for point in figure.points if point.line == line]
        for position, method in enumerate(methods, start=1):
            white = 0.65 * (1 - position / len(methods))
            colors[method] = tuple(white + (1 - white) * channel for channel in to_rgb(color))
    return colors


def _choose_line_colors(figure: FigureDescription) -> dict[str, str]:
    lines = dict.fromkeys(point.line for point in figure.points)
    return {line: f"C{number}" for number, line in enumerate(lines)}


def draw_interval(axes: Axes, x: float, accuracy: Estimate, color: Color) -> None:
    """Draw the line of an interval in percent."""
    # not as an error bar: the interval need not contain the estimate if all answers are right or all are wrong
    axes.vlines(x, 100 * accuracy["low"], 100 * accuracy["high"], color=color, linewidth=1.5, zorder=3)


def draw_seeds(axes: Axes, x: float, accuracies: Mapping[int | None, float], *, size: float = 3.5) -> None:
    """Draw a dot for each single seed of several, ``size`` points wide."""
    if len(accuracies) > 1:
        values = [100 * value for value in accuracies.values()]
        edge = min(1, size / 3)
        axes.plot(
            [x] * len(values),
            values,
            "o",
            color="white",
            markeredgecolor="0.1",
            markeredgewidth=edge,
            markersize=size,
            zorder=4,
        )


def draw_panels(panels: Sequence[Panel], ylabel: str, *, panel_width: float = _PANEL_INCHES) -> str:
    """Draw panels side by side with a common y axis and one legend; return them as SVG."""
    width = panel_width * len(panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, _PANEL_INCHES), sharey=True, squeeze=False, layout="constrained"
    )
    handles: dict[str, Artist] = {}
    for panel, panel_axes in zip(panels, axes[0], strict=True):
        panel.draw(panel_axes)
        panel_axes.set_title(panel.title)
        panel_axes.grid(alpha=0.3)
        for handle, label in zip(*panel_axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    axes[0][0].set_ylabel(ylabel)
    if handles:
        _draw_legend(figure, handles, width)
    return render_svg(figure)


def _draw_legend(figure: Figure, handles: Mapping[str, Artist], width: float) -> None:
    column_width = _estimate_legend_width(handles)
    if len(handles) > MAX_LABELS_BELOW:
        figure.set_size_inches(width + column_width, _PANEL_INCHES)
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    else:
        columns = max(1, min(len(handles), int(width / column_width)))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False
        )


def _estimate_legend_width(labels: Iterable[str]) -> float:
    """Return the width in inches of a legend's column: a line, a gap and the longest label."""
    return 0.45 + 0.07 * max(map(len, labels))


def render_svg(figure: Figure) -> str:
    """Return a figure as SVG text, and close it."""
    buffer = io.StringIO()
    # a date would change the bytes
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
    text = buffer.getvalue()
    # without the XML declaration, which has no place inside of HTML
    return text[text.index("<svg") :]
