"""Responses of endpoints for a result that is reproduced: they are replayed, and the endpoint is not called."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.io import write_jsonl
from pipeline.evaluate.endpoints.exchanges import Exchange, ExchangeId
from pipeline.evaluate.endpoints.journal import RESPONSES, journal_path, read_stored
from pipeline.results.comparison import locate_artifact
from pipeline.study.artifacts import Artifact


def copy_responses(artifacts: Iterable[Artifact], worktree: Path, root: Path) -> list[str]:
    """Write the stored responses behind answers of endpoint models into the journals of a worktree; return a note for each model.

    Args:
        artifacts: that are reproduced, with all that they are made from.
        worktree: the project's folder in which they are reproduced.
        root: the project's root with the originals.
    """
    by_model: dict[str, dict[ExchangeId, Exchange]] = {}
    for artifact in artifacts:
        base = artifact.inputs.get("base")
        # answers to tasks, and those of a teacher
        if artifact.stage in ("generate", "distill") and base and "endpoint" in base.params:
            content = locate_artifact(artifact, root)
            files = sorted((content / RESPONSES).glob("*.jsonl")) if content else []
            by_model.setdefault(base.path.parent.name, {}).update(read_stored(files))
    for model, exchanges in by_model.items():
        write_jsonl(worktree / journal_path(model), exchanges.values())
    return [
        f"{model}: answers are replayed from {len(exchanges)} stored responses; its endpoint is not called"
        for model, exchanges in by_model.items()
    ]
