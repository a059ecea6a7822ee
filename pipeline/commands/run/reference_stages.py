"""The stages of answers made elsewhere: fetch their rows, tie them to our examples, score them. None loads a model."""

from pathlib import Path
from typing import Any

from pipeline.core.first_download import LOCK
from pipeline.params.published.references import Reference
from pipeline.params.reading import read_card
from pipeline.study.artifacts import Artifact
from pipeline.study.references import STORED, STORED_VERSION, ReferenceRun


def fetch_reference(artifact: Artifact, data_root: Path | None) -> None:
    """Fetch the answers of a reference to one task."""
    from pipeline.data.fetch import fetch_split

    name, task = artifact.params["reference"], artifact.params["task"]
    card: Reference = read_card("references", name)
    file = card.answers[task]
    pinned = all(source.git_blob or getattr(source, "sha256", None) for source in file.sources)
    split: Any = file.model_dump()
    fetch_split(
        name,
        task,
        split,
        output=artifact.path,
        data_root=data_root,
        # the first download of a file without a checksum is recorded, as that of a dataset is
        lock=None if pinned else LOCK,
        kind="reference",
    )


def tie_reference(reference: ReferenceRun) -> None:
    """Tie the answers of a reference to the study's examples."""
    from pipeline.evaluate.references.tie import SourceTask, tie_answers

    forms = {task.task: task.answer_form for task in reference.tasks}
    tasks = [
        SourceTask(
            task=name,
            answer_form=forms[name],
            rows=rows.path,
            prompts=reference.answers.inputs[name].path,
            known_malformed=reference.card.answers[name].known_malformed,
        )
        for name, rows in reference.raw.items()
    ]
    tie_answers(
        f"params/references/{reference.name}.yaml",
        tasks,
        format=reference.card.format,
        output=reference.answers.path,
        manifest=reference.answers.manifest,
    )


def score_reference(reference: ReferenceRun) -> None:
    """Score the answers of a reference."""
    from pipeline.evaluate.references.score import score_references
    from pipeline.evaluate.scoring.rows import ScoringTask

    tasks = [
        ScoringTask.under(
            task.protocol,
            name=task.name,
            task=task.task,
            answer_form=task.answer_form,
            prompts=task.prompts.path,
        )
        for task in reference.tasks
    ]
    stored = [
        ScoringTask(
            name=f"{name}-{STORED}",
            task=name,
            answer_form=next(task.answer_form for task in reference.tasks if task.task == name),
            prompts=reference.answers.inputs[name].path,
            protocol=STORED,
            protocol_version=STORED_VERSION,
            # the authors' own parser has been at work
            parser="strict",
        )
        for name in (reference.raw if reference.card.format.has_stored_reading else {})
    ]
    score_references(
        reference.answers.path,
        tasks=tasks,
        stored=stored,
        output=reference.scores.path,
        manifest={
            "model": reference.name,
            "method": "reference",
            "training_set": None,
            "seed": None,
            **reference.scores.manifest,
        },
    )
