"""A study's figures as SVG text, equal bytes for equal data."""

import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline.core.io import read_json
from pipeline.evaluate.stats import Estimate
from pipeline.report.tables import BARE, Data, curve_rows, percent, setting_rows
from pipeline.study.description import FigureDescription

plt.rcParams.update(
    {"svg.hashsalt": "report", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False}
)

BARS = "lines: 95 % interval over examples and seeds."
MANY = 8  # methods; from more on, a legend has a side to itself


def all_figures(data: Data) -> dict[str, tuple[str, str]]:
    """Every figure of the report: file name -> (caption, SVG)."""
    drawn = {}
    for arm, protocol in data.parts:
        keys = [f"{task.name}-{protocol}" for task in arm.tasks]
        what, name = f"{arm.name}, protocol {protocol}", f"{arm.name}-{protocol}"
        caption = f"Macro average accuracy, {what}; {BARS}"
        drawn[f"accuracy-{name}"] = caption, _accuracy(data, arm.name, keys)
        caption = f"Macro average accuracy against trainable parameters, {what}; {BARS}"
        drawn[f"parameters-{name}"] = caption, _against(data, arm.name, keys, "parameters")
        caption = f"Macro average accuracy against training time, {what}; {BARS}"
        drawn[f"time-{name}"] = caption, _against(data, arm.name, keys, "seconds")
    drawn["learning-curves"] = "Training loss by step, mean over seeds.", _curves(data)
    return drawn | (_all_settings(data, data.study.figure) if data.study.figure else {})


def _all_settings(data: Data, figure: FigureDescription) -> dict[str, tuple[str, str]]:
    """The figures of a study that varies a setting."""
    rows, drawn = setting_rows(data), {}
    for (arm, protocol), here in rows.groupby(["arm", "protocol"], sort=False):
        tasks = next(part.tasks for part, of in data.parts if (part.name, of) == (arm, protocol))
        keys = [f"{task.name}-{protocol}" for task in tasks]
        caption = (
            f"Accuracy against the setting, {arm}, protocol {protocol}, macro average of {len(tasks)} tasks, mean over seeds "
            f"{list(data.study.seeds)}, 95 % interval over examples and seeds; points of one setting stand side by "
            f"side. {_without_adapter(data, str(arm), keys)}Numbers: plots/settings.csv."
        )
        drawn[f"settings-{arm}-{protocol}"] = caption, _settings(data, figure, here)
    return drawn


def _without_adapter(data: Data, arm: str, keys: list[str]) -> str:
    """What the bare bases reach, in words: on the axis they would press the lines of a setting together."""
    if data.methods[0][0] != BARE:
        return ""
    found = [
        f"{title} {percent(data.average(model, BARE, arm, keys)['estimate'])} %"
        for model, title in _models(data)
    ]
    return f"Without adapter: {', '.join(found)}. "


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _panels(
    draw: Callable[[Axes, str], None], columns: list[tuple[str, str]], ylabel: str, *, width: float = 3.2
) -> str:
    size = (width * len(columns), 3.2)
    figure, axes = plt.subplots(
        1, len(columns), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, title) in zip(axes[0], columns, strict=True):
        draw(axis, name)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(ylabel)
    named: dict[str, Any] = {}
    for axis in axes[0]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if len(named) > MANY:
        figure.set_size_inches(size[0] + _inches(named), size[1])
        figure.legend(named.values(), named.keys(), loc="outside right upper", frameon=False)
    elif named:
        columns_of_names = max(1, min(len(named), int(size[0] / _inches(named))))
        figure.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=columns_of_names, frameon=False
        )
    return _svg(figure)


def _inches(names: Iterable[str]) -> float:
    """The width of a legend's column: a line, a gap and the longest name."""
    return 0.45 + 0.07 * max(map(len, names))


def _models(data: Data) -> list[tuple[str, str]]:
    return [(model.name, model.title) for model in data.study.models]


def _colors(data: Data) -> dict[str, Any]:
    """A method's one colour in all figures; in a study that varies a setting, the entries of a line are its shades."""
    colors: dict[str, Any] = {BARE: "0.6"}
    figure = data.study.figure
    if not figure:
        return colors | {method.name: f"C{number}" for number, method in enumerate(data.study.methods)}
    for line, color in _line_colors(figure).items():
        members = [point.method for point in figure.points if point.line == line]
        for place, method in enumerate(members, start=1):
            white = 0.65 * (1 - place / len(members))
            colors[method] = tuple(white + (1 - white) * part for part in to_rgb(color))
    return colors


def _line_colors(figure: FigureDescription) -> dict[str, str]:
    lines = dict.fromkeys(point.line for point in figure.points)
    return {line: f"C{number}" for number, line in enumerate(lines)}


def _interval(axis: Axes, place: float, found: Estimate, color: str) -> None:
    """Draw the interval by itself: of a table that is all right or all wrong it need not hold the estimate."""
    axis.vlines(place, 100 * found["low"], 100 * found["high"], color=color, linewidth=1.5, zorder=3)


def _accuracy(data: Data, arm: str, keys: list[str]) -> str:
    colors = _colors(data)

    def draw(axis: Axes, model: str) -> None:
        for place, (method, _) in enumerate(data.methods):
            found = data.average(model, method, arm, keys)
            axis.bar(place, 100 * found["estimate"], color=colors[method])
            _interval(axis, place, found, "0.2")
        titles = [title for _, title in data.methods]
        turned = 30 if len(titles) <= 10 else 60
        axis.set_xticks(range(len(titles)), titles, rotation=turned, ha="right")

    width = 0.32 * max(10, len(data.methods))
    return _panels(draw, _models(data), "accuracy (%)", width=width)


def _against(data: Data, arm: str, keys: list[str], what: str) -> str:
    colors = _colors(data)

    def draw(axis: Axes, model: str) -> None:
        for method in data.study.methods:
            color = colors[method.name]
            runs = data.runs(model, method.name, arm)
            adapters = [run.adapter for run in runs if run.adapter]
            if what == "parameters":
                cost = float(read_json(adapters[0] / "manifest.json")["trainable_parameters"])
            else:
                cost = float(np.mean([data.costs[adapter]["seconds"] for adapter in adapters]))
            found = data.average(model, method.name, arm, keys)
            axis.plot([cost], [100 * found["estimate"]], "o", color=color, label=method.title)
            _interval(axis, cost, found, color)
        low, high = axis.get_xlim()
        if low > 0 and high > 10 * low:  # over less than a decade a log axis has no room for its labels
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_xlim(0, 1.05 * high)
            axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("trainable parameters" if what == "parameters" else "training time (s)")

    return _panels(draw, _models(data), "accuracy (%)")


def _settings(data: Data, figure: FigureDescription, rows: pd.DataFrame) -> str:
    colors, axes = _line_colors(figure), figure.x

    def draw(axis: Axes, name: str) -> None:
        model, field = name.split("|")
        here = rows[(rows.model == model) & (rows.field == field)]
        at = setting_places(list(here.setting))
        step = 0.025 * (max(at.values()) - min(at.values()))  # side by side, so that intervals are seen
        lines = list(here.groupby("line", sort=False))
        for number, (line, part) in enumerate(lines):
            x = [at[value] + step * (number - (len(lines) - 1) / 2) for value in part.setting]
            axis.plot(x, 100 * part.estimate, "o-", color=colors[str(line)], label=line, linewidth=1)
            axis.vlines(x, 100 * part.low, 100 * part.high, color=colors[str(line)], linewidth=1.5)
        axis.set_xticks(list(at.values()), [str(value) for value in at])
        axis.minorticks_off()
        axis.set_xlabel(axes[field])

    columns = [
        (f"{model}|{field}", title)
        for model, title in _models(data)
        for field in axes
        if any(rows.field == field)
    ]
    return _panels(draw, columns, "accuracy (%)")


def setting_places(settings: list[Any]) -> dict[Any, float]:
    """Return where an axis has each setting: words in their order, numbers by value, by magnitude from a factor of 8 on."""
    if any(isinstance(value, str) for value in settings):
        return {value: float(place) for place, value in enumerate(dict.fromkeys(settings))}
    known = sorted(set(settings))
    if known[0] > 0 and known[-1] >= 8 * known[0]:
        return {value: math.log2(value) for value in known}
    return {value: float(value) for value in known}


def _curves(data: Data) -> str:
    rows, colors = curve_rows(data), _colors(data)

    def draw(axis: Axes, name: str) -> None:
        model, training_set = name.split("|")
        here = rows[(rows.model == model) & (rows.training_set == training_set)]
        for method in data.study.methods:
            mean = here[here.method == method.name].groupby("step").loss.mean()
            axis.plot(mean.index, mean.values, label=method.title, linewidth=1, color=colors[method.name])
        axis.set_yscale("log")
        axis.set_xlabel("optimizer step")

    columns = [
        (f"{model}|{arm.training_set}", f"{title}, {arm.name}")
        for model, title in _models(data)
        for arm in data.study.arms
    ]
    return _panels(draw, columns, "loss")
