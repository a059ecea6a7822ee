"""The figure of benchmarks.evaluation: how generation scales."""

from collections.abc import Sequence
from pathlib import Path


def draw(cells: Sequence[tuple[int, int, float, float]], path: Path) -> None:
    """Draw examples a second and memory over rows, a line for each prompt length."""
    import matplotlib.pyplot as plt

    sizes = sorted({cell[1] for cell in cells})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for length in dict.fromkeys(cell[0] for cell in cells):
        own = [cell for cell in cells if cell[0] == length]
        for axis, place in zip(axes, (2, 3), strict=True):
            axis.plot(
                [cell[1] for cell in own], [cell[place] for cell in own], "o-", label=f"{length} tokens"
            )
    for axis, title in zip(axes, ("examples a second", "peak MiB above the model"), strict=True):
        axis.set(xscale="log", xlabel="rows of a batch", title=title, xticks=sizes, xticklabels=sizes)
        axis.minorticks_off()
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    axes[0].legend(title="prompt")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
