"""What `check`, `status` and a starting run say about the needs of real models."""

from pipeline.core.hardware import devices
from pipeline.params.reading import read_card
from pipeline.study.costs.estimate import ModelEstimate, count_parameters, estimate_study, smallest_card
from pipeline.study.distillation.teacher import list_base_models
from pipeline.study.grid import Study

GIB = 2**30
# parameters from which a CPU takes days
LARGE = 1e9
PAGE = "docs/gpu.md"


def describe_needs(study: Study) -> list[str]:
    """Return lines on download, memory and hours of a study's hub models; none if it has no such model."""
    estimates, uncounted = estimate_study(study)
    lines = []
    if estimates:
        lines = [_describe_memory(estimates), _describe_hours(estimates)]
    if uncounted:
        lines.append(f"estimate: no figures for {', '.join(uncounted)} ({PAGE})")
    return lines


def warn_of_large_models(study: Study, *, device: str = "auto") -> str | None:
    """Return a warning if the study has a hub model of over a billion parameters and runs on a CPU; None: no reason.

    Args:
        study: whose models are meant.
        device: that the jobs are to use: one of ``pipeline.core.hardware.devices.DEVICES``.
    """
    cards = [(name, read_card("models", name)) for name in list_base_models(study)]
    sizes = [(count_parameters(card) or 0, name) for name, card in cards if card.kind == "hub"]
    parameters, name = max(sizes, default=(0, ""))
    # asked last, since the question imports torch
    if parameters <= LARGE or devices.find_gpus(device)[0] != "cpu":
        return None
    place = "on the CPU" if device == "cpu" else "on this machine, which has no GPU,"
    return f"warning: {name} has {parameters / 1e9:.1f} billion parameters; {place} its jobs take days or weeks ({PAGE})"


def _describe_memory(estimates: list[ModelEstimate]) -> str:
    largest = max(estimates, key=lambda estimate: estimate.memory)
    text = f"{largest.memory / GIB:.1f} GiB of GPU memory for {largest.model} with {largest.method}"
    if card := smallest_card(largest.memory):
        text += f" (a GPU of {card} GB)"
    least = max(estimates, key=lambda estimate: estimate.memory_with_checkpointing)
    text += f", or {least.memory_with_checkpointing / GIB:.1f} GiB with gradient_checkpointing=true"
    return f"estimate: {sum(estimate.download for estimate in estimates) / 1e9:.0f} GB to download; {text}"


def _describe_hours(estimates: list[ModelEstimate]) -> str:
    training, generation = (
        add_hours([getattr(estimate, field) for estimate in estimates])
        for field in ("training_hours", "generation_hours")
    )
    names = dict.fromkeys(estimate.device for estimate in estimates if estimate.device)
    return (
        f"estimate: training {say_hours(training)}, generation {say_hours(generation)}, all runs together, on "
        f"{' or '.join(names) or 'one GPU'}; see {PAGE}"
    )


def add_hours(parts: list[float | None]) -> float | None:
    """Return the sum of hours; None: one of them is unknown."""
    return None if None in parts else sum(part for part in parts if part is not None)


def say_hours(hours: float | None) -> str:
    """Return hours in words: an estimate."""
    return "unknown" if hours is None else f"about {hours:,.0f} h" if hours >= 1 else "less than 1 h"
