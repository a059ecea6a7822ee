"""The figure of benchmarks.evaluation: how generation scales with batch size and prompt length."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Cell(NamedTuple):
    """A measurement of generation.

    Attributes:
        prompt_tokens: of each row.
        rows: of the batch.
        rate: examples per CPU second (on CUDA: per second).
        peak_mib: peak memory above the model's.
    """

    prompt_tokens: int
    rows: int
    rate: float
    peak_mib: float


def draw_scaling(cells: Sequence[Cell], path: Path) -> None:
    """Draw rate and memory over batch size, with a line for each prompt length."""
    import matplotlib.pyplot as plt

    sizes = sorted({cell.rows for cell in cells})
    figure, (rates, memory) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for length in dict.fromkeys(cell.prompt_tokens for cell in cells):
        line = [cell for cell in cells if cell.prompt_tokens == length]
        rows = [cell.rows for cell in line]
        rates.plot(rows, [cell.rate for cell in line], "o-", label=f"{length} tokens")
        memory.plot(rows, [cell.peak_mib for cell in line], "o-", label=f"{length} tokens")
    for axis, title in ((rates, "examples a second"), (memory, "peak MiB above the model")):
        axis.set(xscale="log", xlabel="rows of a batch", title=title, xticks=sizes, xticklabels=sizes)
        axis.minorticks_off()
    rates.set_ylim(bottom=0)
    memory.set_yscale("log")
    rates.legend(title="prompt")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
