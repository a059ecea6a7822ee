"""The table of docs/gpu.md: what each study of real models needs, from the estimates."""

from pathlib import Path

from pipeline.commands.maintain.sections import replace_section
from pipeline.params.reading import ROOT
from pipeline.study import load_study
from pipeline.study.costs.estimate import ModelEstimate, estimate_study, smallest_card
from pipeline.study.costs.messages import GIB
from pipeline.study.find import list_cards

PAGE = "docs/gpu.md"
BEGIN = "<!-- needs: written by `python -m pipeline regenerate` -->"
END = "<!-- end of needs -->"


def gpu_page(root: Path = ROOT) -> str:
    """Return docs/gpu.md with the table of the present studies."""
    rows = [
        _row(name, estimate)
        for name in list_cards("study")
        for estimate in estimate_study(load_study(name))[0]
    ]
    head = (
        "| study | model | download (GB) | memory (GiB) | least GPU (GB) | memory with checkpointing (GiB) | least GPU with it (GB) | "
        "training (h) | generation (h) | hours on |"
    )
    return replace_section(
        root / PAGE, BEGIN, END, "\n".join([head, "|---" * 2 + "|---:" * 7 + "|---|", *rows, ""])
    )


def _row(study: str, estimate: ModelEstimate) -> str:
    cells = [f"`{study}`", f"`{estimate.model}`", f"{estimate.download / 1e9:.0f}"]
    for memory in (estimate.memory, estimate.memory_with_checkpointing):
        cells += [f"{memory / GIB:.1f}", str(smallest_card(memory) or "none")]
    for hours in (estimate.training_hours, estimate.generation_hours):
        cells.append("unknown" if hours is None else f"{hours:,.0f}")
    return f"| {' | '.join([*cells, estimate.device or 'none'])} |"
