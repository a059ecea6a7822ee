"""A study's figures as SVG text, equal bytes for equal data."""

import io
from collections.abc import Callable, Mapping

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from pipeline import stats
from pipeline.io import read_json
from pipeline.report.tables import BARE, Data, curve_rows

plt.rcParams.update(
    {"svg.hashsalt": "report", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False}
)


def all_figures(data: Data) -> dict[str, tuple[str, str]]:
    """Every figure of the report: file name -> (caption, SVG)."""
    drawn = {}
    for protocol in data.study["protocols"]:
        for arm in data.study["arms"]:
            keys = [f"{task['name']}-{protocol}" for task in arm["tasks"]]
            caption = f"Average accuracy, {arm['name']}, protocol {protocol}: 95 % interval over examples and seeds."
            drawn[f"accuracy-{arm['name']}-{protocol}"] = caption, _accuracy(data, arm["name"], keys)
            caption = f"Average accuracy against trainable parameters, {arm['name']}, protocol {protocol}."
            drawn[f"parameters-{arm['name']}-{protocol}"] = (
                caption,
                _against(data, arm["name"], keys, "parameters"),
            )
            caption = f"Average accuracy against training time, {arm['name']}, protocol {protocol}."
            drawn[f"time-{arm['name']}-{protocol}"] = caption, _against(data, arm["name"], keys, "seconds")
    drawn["learning-curves"] = "Training loss by step, mean over seeds.", _curves(data)
    return drawn


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _panels(
    data: Data, draw: Callable[[Axes, str], None], columns: list[tuple[str, str]], ylabel: str
) -> str:
    size = (3.2 * len(columns), 3.2)
    figure, axes = plt.subplots(
        1, len(columns), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, title) in zip(axes[0], columns, strict=True):
        draw(axis, name)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(ylabel)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False)
    return _svg(figure)


def _models(data: Data) -> list[tuple[str, str]]:
    return [(model["name"], model["title"]) for model in data.study["models"]]


def _interval(axis: Axes, place: float, found: Mapping[str, float], color: str) -> None:
    """Draw the interval by itself: of a table that is all right or all wrong it need not hold the estimate."""
    axis.vlines(place, 100 * found["low"], 100 * found["high"], color=color, linewidth=1.5, zorder=3)


def _accuracy(data: Data, arm: str, keys: list[str]) -> str:
    def draw(axis: Axes, model: str) -> None:
        first = (
            -1 if data.methods[0][0] == BARE else 0
        )  # a method has one colour in all figures, the bare base none
        for place, (method, _) in enumerate(data.methods):
            found = stats.mean_accuracy([data.correct(model, method, arm, key) for key in keys])
            color = "0.6" if method == BARE else f"C{place + first}"
            axis.bar(place, 100 * found["estimate"], color=color)
            _interval(axis, place, found, "0.2")
        titles = [title for _, title in data.methods]
        axis.set_xticks(range(len(titles)), titles, rotation=30, ha="right")

    return _panels(data, draw, _models(data), "accuracy (%)")


def _against(data: Data, arm: str, keys: list[str], what: str) -> str:
    def draw(axis: Axes, model: str) -> None:
        for number, method in enumerate(data.study["methods"]):
            runs = data.runs(model, method["name"], arm)
            if what == "parameters":
                cost = float(read_json(runs[0]["adapter"] / "manifest.json")["trainable_parameters"])
            else:
                cost = float(np.mean([data.costs[run["adapter"]]["seconds"] for run in runs]))
            found = stats.mean_accuracy([data.correct(model, method["name"], arm, key) for key in keys])
            axis.plot([cost], [100 * found["estimate"]], "o", color=f"C{number}", label=method["title"])
            _interval(axis, cost, found, f"C{number}")
        low, high = axis.get_xlim()
        if low > 0 and high > 10 * low:  # over less than a decade a log axis has no room for its labels
            axis.set_xscale("log")
        else:
            axis.set_xlim(0, 1.05 * high)
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("trainable parameters" if what == "parameters" else "training time (s)")

    return _panels(data, draw, _models(data), "accuracy (%)")


def _curves(data: Data) -> str:
    rows = curve_rows(data)

    def draw(axis: Axes, name: str) -> None:
        model, training_set = name.split("|")
        here = rows[(rows.model == model) & (rows.training_set == training_set)]
        for method in data.study["methods"]:
            mean = here[here.method == method["name"]].groupby("step").loss.mean()
            axis.plot(mean.index, mean.values, label=method["title"], linewidth=1)
        axis.set_yscale("log")
        axis.set_xlabel("optimizer step")

    columns = [
        (f"{model}|{arm['training_set']}", f"{title}, {arm['name']}")
        for model, title in _models(data)
        for arm in data.study["arms"]
    ]
    return _panels(data, draw, columns, "loss")
