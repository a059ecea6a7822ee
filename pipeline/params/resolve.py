"""Settings of a run, resolved from several cards."""

from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.architectures import LINEAR_MODULES, check_method, select_for_architecture
from pipeline.params.base import AnswerForm
from pipeline.params.datasets import Dataset
from pipeline.params.methods import Method
from pipeline.params.reading import check, read_card
from pipeline.params.studies import Entry, Training


def resolve_training(*layers: tuple[str, dict[str, Any]]) -> Training:
    """Return the training settings of defaults overlaid by ``layers``, each (where it is from, its keys).

    A layer that sets ``max_steps`` without ``epochs`` (or the reverse) switches to that way of counting.
    """
    merged: dict[str, Any] = {}
    for where, layer in layers:
        if layer.get("max_steps") is not None and "epochs" not in layer:
            layer = {**layer, "epochs": None}
        elif layer.get("epochs") is not None and "max_steps" not in layer:
            layer = {**layer, "max_steps": None}
        merged |= layer
        training: Training = check(Training, merged, where=f"{where}: training")
    return training


def resolve_method(entry: Entry, *, architecture: str, where: str) -> dict[str, Any]:
    """Return a method's fields as its study has them, for one architecture; without name, training and source.

    Raises:
        UserError: a field that the method does not have, or modules that the architecture does not have.
    """
    card, own = read_card("methods", entry.method), entry.model_extra or {}
    study, file = f"{where}: methods.{entry.label or entry.method}", f"params/methods/{entry.method}.yaml"
    resolved = check(Method, {**card.model_dump(exclude_unset=True), **own}, where=study).model_dump()
    settings = {
        key: select_for_architecture(
            value, architecture=architecture, field=f"{study if key in own else file}: {key}"
        )
        for key, value in resolved.items()
        if key not in ("name", "training", "source")
    }
    try:
        check_method(settings, architecture=architecture)
    except UserError as error:
        placed = {"placement", "target_modules"} & set(own)
        raise UserError(f"{study if placed else file}: {error}") from None
    return settings


def answer_form_of(task: str) -> AnswerForm:
    """Return the answer form that a task's dataset card states.

    Raises:
        UserError: unknown task, or a dataset that is no task.
    """
    card: Dataset = read_card("datasets", task)
    if card.answer_form is None:
        raise UserError(f"params/datasets/{task}.yaml: answer_form is missing, so '{task}' is no task")
    return card.answer_form


def check_architecture(name: str, *, where: str) -> None:
    """Refuse an architecture that no adapter is known for."""
    if name not in LINEAR_MODULES:
        raise UserError(f"{where}: architecture: unknown '{name}' (choices: {', '.join(LINEAR_MODULES)})")
