"""The study as plain values and paths, as the report reads it."""

from typing import Any

from pipeline.params.reading import read_card
from pipeline.params.studies import Entry
from pipeline.study import Study


def described_study(study: Study) -> dict[str, Any]:
    """The study as plain values and paths, as the report reads it."""
    card = study.card
    runs = [
        {
            "model": run.model,
            "method": run.method,
            "training_set": run.arms[0].training_set if run.adapter else None,
            "arm": run.arms[0].name if run.adapter else None,
            "seed": run.seed,
            "fingerprint": (run.adapter or study.answers(run)).fingerprint,
            "adapter": run.adapter.path if run.adapter else None,
            "answers": study.answers(run).path,
            "scores": study.scores(run).path,
        }
        for run in study.runs
    ]
    arms = [
        {
            "name": arm.name,
            "training_set": arm.training_set,
            "audit": study.audit(arm).path,
            "tasks": [_described_task(study, task) for task in arm.tasks],
        }
        for arm in card.arms
    ]
    methods = [_described_method(entry) for entry in card.methods]
    return {
        "name": study.name,
        "title": card.title,
        "description": card.description,
        "settings": card.model_dump(),
        "arms": arms,
        "models": [{"name": name, "title": read_card("models", name).name} for name in card.models],
        "methods": methods,
        "seeds": card.seeds,
        "protocols": card.protocols,
        "headline": study.headline,
        "protocol_cards": {name: read_card("protocols", name).model_dump() for name in card.protocols},
        "runs": runs,
        "figure": _described_figure(study),
        "audits": [artifact.path for artifact in study.artifacts["audit"]],
        "published": study.report.params.get("published"),
    }


def _described_method(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.label or entry.method,
        "title": entry.label or read_card("methods", entry.method).name,
        "card": entry.method,
        "as_card": not entry.model_extra and not entry.training,
    }


def _described_figure(study: Study) -> dict[str, Any] | None:
    if study.card.figure is None:
        return None
    lines = [{**point, "line": read_card("methods", point["card"]).name} for point in study.points]
    return {**study.card.figure.model_dump(), "points": lines}


def _described_task(study: Study, name: str) -> dict[str, Any]:
    card = read_card("datasets", name)
    asked = study.protocols_of(name)
    prompts = {protocol: study.task_prompts(name, protocol).path for protocol in asked}
    told = {"name": name, "title": card.title, "answer_form": card.answer_form}
    return {**told, "protocols": asked, "prompts": prompts}
