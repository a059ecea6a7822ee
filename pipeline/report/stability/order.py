"""The partial order of a model's methods: which the paired tests separate, and which cannot be told apart."""

from collections.abc import Iterable
from typing import NamedTuple

import matplotlib.pyplot as plt
import networkx as nx
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from pipeline.core.text import format_percent
from pipeline.report.comparisons import MAX_METHODS_FOR_ALL_PAIRS, SIGNIFICANT
from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.figures import Drawing, render_svg
from pipeline.report.summary.ranking import correct_p_values, order_methods

# of a panel for each method side by side, of a layer, and the smallest panel
_COLUMN, _LAYER, _WIDTH, _HEIGHT = 1.25, 0.75, 2.6, 1.4


class Node(NamedTuple):
    """A method in the figure; layers count from 0, the top, and positions are centred on 0."""

    method: str
    layer: int
    position: float


def draw_orders(data: ReportData) -> dict[str, Drawing]:
    """Draw the partial order of each section, by file name.

    Returns:
        No figure where each adapter has one seed, or where a report does not test all pairs of methods.
    """
    counts = [len(data.methods_of(model.name)) for model in data.study.models]
    if data.has_one_seed or max(counts) > MAX_METHODS_FOR_ALL_PAIRS or max(counts) < 2:
        return {}
    return {
        f"order-{section.name}": Drawing(
            f"Who is ahead of whom, {section.arm.name}, protocol {section.protocol}. A line leads from a method down to each that "
            f"it is ahead of (macro average, p < {SIGNIFICANT} after Holm's correction, over examples and seeds); lines that "
            "follow from others are left out. Methods that no downward path joins cannot be told apart, however their "
            "numbers (accuracy in percent) differ.",
            _draw_section(data, section),
        )
        for section in data.sections
    }


def place_methods(
    order: Iterable[str], separated: Iterable[frozenset[str]]
) -> tuple[list[Node], list[tuple[str, str]]]:
    """Return where each method stands, and the lines between them.

    Args:
        order: the methods, the highest accuracy first.
        separated: the pairs that a test separates; the earlier in ``order`` is ahead.

    Returns:
        The nodes: a method's layer is one below the lowest that is ahead of it. The lines (upper, lower), without those
        that follow from others.
    """
    methods = list(order)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(methods)
    graph.add_edges_from(sorted(pair, key=methods.index) for pair in separated)
    nodes = []
    for layer, members in enumerate(nx.topological_generations(graph)):
        row = sorted(members, key=methods.index)
        nodes += [Node(name, layer, number - (len(row) - 1) / 2) for number, name in enumerate(row)]
    lines = sorted(
        nx.transitive_reduction(graph).edges, key=lambda line: [methods.index(name) for name in line]
    )
    return nodes, lines


def _draw_section(data: ReportData, section: Section) -> str:
    p_values = correct_p_values(data, section)
    panels = []
    for model in data.study.models:
        order = order_methods(data, section, model.name)
        pairs = [pair for pair, p_value in p_values[model.name].items() if p_value < SIGNIFICANT]
        panels.append((model, *place_methods(order, pairs)))
    widths = [max(_WIDTH, _COLUMN * (1 + 2 * max(node.position for node in nodes))) for _, nodes, _ in panels]
    layers = max(node.layer for _, nodes, _ in panels for node in nodes)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(sum(widths), _HEIGHT + _LAYER * layers),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    for (model, nodes, lines), panel, width in zip(panels, axes[0], widths, strict=True):
        labels = {}
        for method, title in data.method_titles(model.name).items():
            if data.find_runs(model.name, method, section.arm.name):
                accuracy = data.average_accuracy(Cell(model.name, method, section.arm.name), section.keys)
                labels[method] = f"{title}\n{format_percent(accuracy['estimate'])}"
        _draw_panel(panel, nodes, lines, labels)
        panel.set_title(model.title)
        panel.set_xlim(-width / _COLUMN / 2, width / _COLUMN / 2)
        panel.set_ylim(-layers - 0.5, 0.5)
    return render_svg(figure)


def _draw_panel(axes: Axes, nodes: list[Node], lines: list[tuple[str, str]], labels: dict[str, str]) -> None:
    places = {node.method: (node.position, -node.layer) for node in nodes}
    for upper, lower in lines:
        (first_x, first_y), (second_x, second_y) = places[upper], places[lower]
        # a straight line over several layers would pass behind the methods between: it bends outwards
        bend = 0 if first_y - second_y == 1 else -0.4 if first_x > second_x else 0.4
        line = FancyArrowPatch(
            places[upper],
            places[lower],
            arrowstyle="-",
            connectionstyle=f"arc3,rad={bend}",
            color="0.5",
            zorder=1,
        )
        axes.add_patch(line)
    for method, (x, y) in places.items():
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
        axes.text(x, y, labels[method], ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    axes.set_axis_off()
