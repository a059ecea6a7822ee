"""Distilled training sets as plain values and paths, for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.params.datasets import Dataset
from pipeline.params.reading import read_card
from pipeline.study.artifacts import Artifact


@dataclass(frozen=True)
class DistilledDescription:
    """A training set that a teacher wrote, with its folder.

    Attributes:
        name: of its card.
        teacher: in words.
        prompt: the template of the prompts to the teacher.
        sampling: in words.
        filter: which answers remain.
        sources: titles by name, in their order.
        answers: fingerprints of the teacher's answers; sets with the same ones differ in what remains of them.
        folder: with the rows and yield.json.
    """

    name: str
    teacher: str
    prompt: str
    sampling: str
    filter: Literal["right", "all"]
    sources: Mapping[str, str]
    answers: Sequence[str]
    folder: Path


def describe_distilled(name: str, distilled: Artifact, *, methods: Mapping[str, str]) -> DistilledDescription:
    """Return what the report reads of a distilled set; ``methods`` are the titles of the study's methods."""
    card: Dataset = read_card("datasets", name)
    settings = card.distilled
    assert settings
    teacher = read_card("models", settings.teacher.model).name
    if settings.teacher.arm:
        teacher += f" with {methods[str(settings.teacher.method)]}, trained in the arm {settings.teacher.arm}"
    drawn = f"temperature {settings.temperature:g}" if settings.temperature else "greedy"
    drawn += f", top_p {settings.top_p:g}" if settings.top_p is not None else ""
    answers = [distilled.inputs[f"answers to {source.dataset}"] for source in settings.sources]
    return DistilledDescription(
        name=name,
        teacher=teacher,
        prompt=settings.prompt,
        sampling=f"{drawn}, {settings.samples} answers to a question, seed {settings.seed}",
        filter=settings.filter,
        sources={source.dataset: read_card("datasets", source.dataset).title for source in settings.sources},
        answers=[artifact.fingerprint for artifact in answers],
        folder=distilled.path,
    )
