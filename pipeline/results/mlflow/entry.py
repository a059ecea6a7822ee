"""What MLflow records of a run, as plain values: importing this module does not load mlflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunHeader:
    """What MLflow shows of a run from its start.

    Attributes:
        experiment: the study's name.
        run_name: as the UI shows it.
        fingerprint: of the adapter, of a bare base's answers, or of a pretrained base; the tag "fingerprint".
        params: resolved and nested; MLflow gets them flat.
        tags: model, method, seed and so on.
    """

    experiment: str
    run_name: str
    fingerprint: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]


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
        run_info: environment and cost.
        history: rows of metrics by step.
        timing: rows of speed and memory by step.
        scores: the score file, for the metrics of each task.
        answers: the folder of the answers that were scored.
        attachments: folders that MLflow stores as artifacts of the run.
    """

    run_info: Path
    history: Path | None = None
    timing: Path | None = None
    scores: Path | None = None
    answers: Path | None = None
    attachments: tuple[Path, ...] = ()
