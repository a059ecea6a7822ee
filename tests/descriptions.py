"""Study descriptions for tests of the report."""

from pathlib import Path

from pipeline.study.description import (
    ArmDescription,
    MethodDescription,
    ModelDescription,
    RunDescription,
    StudyDescription,
    TaskDescription,
)


def make_study(**fields) -> StudyDescription:
    """A study of two seeds under the protocol "strict"; its headline tables show all its protocols."""
    defaults = {
        "name": "small",
        "title": "A small study",
        "description": "d",
        "seeds": [0, 1],
        "protocols": ["strict"],
        "protocol_cards": {},
        "audits": [],
    }
    fields = defaults | fields
    return StudyDescription(**{"headline": fields["protocols"], **fields})


def make_arm(
    name: str, training_set: str, tasks: dict[str, str], *, audit: Path = Path("audit.json")
) -> ArmDescription:
    """An arm whose tasks, name -> title, are evaluated under the protocol "strict"."""
    described = [TaskDescription(task, title, "number", ["strict"], {}) for task, title in tasks.items()]
    return ArmDescription(name, training_set, audit, described)


def make_model(name: str, title: str) -> ModelDescription:
    """A base model."""
    return ModelDescription(name, title)


def make_method(name: str, title: str, *, card: str = "", as_card: bool = True) -> MethodDescription:
    """A method; by default its card has the same name and is unchanged."""
    return MethodDescription(name, title, card or name, as_card)


def make_run(model: str, method: str, seed: int | None, *, answers: Path, scores: Path, **fields):
    """A run; by default a bare base, without training set, arm and adapter."""
    adapter_fields = {"training_set": None, "arm": None, "adapter": None, "fingerprint": f"f{method}{seed}"}
    return RunDescription(
        model=model, method=method, seed=seed, answers=answers, scores=scores, **adapter_fields | fields
    )
