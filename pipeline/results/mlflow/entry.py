"""What MLflow records of a run, as plain values: importing this module does not load mlflow."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.study.artifacts import compute_fingerprint

# "study": the run that holds a study's report, the parent of the others; "reference": nothing that was run here
RunKind = Literal["study", "run", "base", "reference"]


@dataclass(frozen=True)
class Experiment:
    """A study as an experiment of MLflow.

    Attributes:
        name: of the study.
        note: Markdown, shown above the runs.
        averages: keys of the average accuracies, such as "average/arithmetic-strict"; the view sorts by the first.
        has_references: whether the view shows references among the runs.
    """

    name: str
    note: str
    averages: Sequence[str] = ()
    has_references: bool = False


@dataclass(frozen=True)
class RunHeader:
    """What MLflow shows of a run from its start.

    Attributes:
        experiment: the study.
        run_name: what ``compare`` and ``reproduce`` take, such as "tiny-llama/lora/world-math/seed0".
        fingerprint: of the adapter, of a bare base's answers, or of a pretrained base; the tag "fingerprint".
        params: section -> field -> value, complete; an artifact of the run.
        shown_params: keys "section.field" that MLflow's table shows; None: all.
        tags: model, method, seed and so on.
        kind: the tag "kind".
    """

    experiment: Experiment
    run_name: str
    fingerprint: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    shown_params: frozenset[str] | None = None
    kind: RunKind = "run"


@dataclass(frozen=True)
class ReferenceEntry:
    """What MLflow shows of a reference: answers made elsewhere, or a published row.

    Attributes:
        name: as ``compare`` takes it.
        tags: model, method, how it was measured and so on.
        metrics: accuracies in [0, 1], under the keys that runs have for the same thing.
        note: Markdown: the source, and how the figures were measured.
    """

    name: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    note: str

    @property
    def fingerprint(self) -> str:
        """Of everything above: a reference with another figure is another run, and the earlier one is out of date."""
        return compute_fingerprint([self.name, dict(self.tags), dict(self.metrics), self.note])


@dataclass(frozen=True)
class DatasetUse:
    """A dataset that a run used; ``context`` is "training" or "evaluation"."""

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True)
class RunFiles:
    """The files that a finished run is recorded from.

    Attributes:
        run_info: environment and cost of the training, or of a bare base's answers.
        manifest: of the adapter, for its number of parameters.
        history: rows of metrics by step.
        timing: rows of speed and memory by step.
        scores: the score file, for the metrics of each task.
        answers: the folder of the answers that were scored.
        averages: "ARM-PROTOCOL" -> the tasks of the score file that its average is over.
        clusters: task of the score file -> the cluster of each example by id; None: its examples are independent.
        attachments: folders that MLflow stores as artifacts of the run.
    """

    run_info: Path
    manifest: Path | None = None
    history: Path | None = None
    timing: Path | None = None
    scores: Path | None = None
    answers: Path | None = None
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clusters: Mapping[str, Mapping[str, Hashable] | None] = field(default_factory=dict)
    attachments: tuple[Path, ...] = ()


def flatten_params(params: Mapping[str, object]) -> dict[str, object]:
    """Return params as "section.field" -> value; a map inside a field stays whole, since its keys may be any text."""
    return {
        f"{section}.{key}" if key else section: value
        for section, fields in params.items()
        for key, value in (fields.items() if isinstance(fields, Mapping) and fields else [("", fields)])
    }
