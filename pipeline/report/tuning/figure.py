"""The figure of tuning: the expected best validation score against the number of trials."""

import math
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.data import ReportData
from pipeline.report.figures import Drawing, Panel, choose_colors, draw_panels
from pipeline.report.tuning.tables import list_tuning, name_score


def draw_best_of(data: ReportData) -> dict[str, Drawing]:
    """Draw a line for each method and a panel for each model and arm, by file name; none for a study that tunes nothing."""
    tuning, cells, colors = data.study.tuning, list_tuning(data), choose_colors(data)
    if tuning is None or not cells:
        return {}

    def draw_lines(axes: Axes, model: str, arm: str) -> None:
        for cell in cells:
            if (cell.cell.model, cell.cell.arm) != (model, arm):
                continue
            points = [(number, cell.best_of(number)) for number in range(1, tuning.trials + 1)]
            # a draw of trials that may all have diverged has no place on the axis
            points = [point for point in points if math.isfinite(point[1])]
            x, y = zip(*points, strict=True)
            scale = 1 if tuning.rule == "loss" else 100
            color = colors[cell.cell.method]
            axes.plot(x, [scale * value for value in y], "o-", color=color, label=cell.method, linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trials")

    panels = [
        Panel(f"{model.title}, {arm.name}", partial(draw_lines, model=model.name, arm=arm.name))
        for model in data.study.models
        for arm in data.study.arms
    ]
    caption = (
        f"Expected best {name_score(tuning).lower()} against the number of trials, drawn at random from the {tuning.trials} that "
        "were run: where lines cross, a smaller budget ranks the methods in another order. Numbers: plots/best_of.csv."
    )
    return {"best-of": Drawing(caption, draw_panels(panels, name_score(tuning).lower()))}
