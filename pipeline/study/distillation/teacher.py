"""The teachers of a study: bare models, or adapters that the study trains itself."""

from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.params.datasets import Dataset
from pipeline.params.reading import read_card
from pipeline.study.artifacts import Artifact
from pipeline.study.combination.resolve import is_combined
from pipeline.study.datasets import TRAIN, list_distilled
from pipeline.study.distillation.resolve import ANSWERS, TeacherModel
from pipeline.study.run import BARE, is_endpoint

if TYPE_CHECKING:
    from pipeline.study.grid import Study


def resolve_teacher(study: "Study", dataset: str) -> TeacherModel:
    """Return the teacher of a distilled set: a bare model, or an adapter of the study with the first of its seeds.

    Raises:
        UserError: the study has no such adapter, or it is trained on a distilled set itself.
    """
    card: Dataset = read_card("datasets", dataset)
    where = f"params/datasets/{dataset}.yaml: distilled.teacher"
    assert card.distilled
    teacher = card.distilled.teacher
    try:
        base = study.base(teacher.model)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if teacher.arm is None:
        return TeacherModel(f"{teacher.model}/{BARE}", base, None)
    arm = next((arm for arm in study.card.arms if arm.name == teacher.arm), None)
    if arm is None:
        arms = ", ".join(arm.name for arm in study.card.arms)
        raise UserError(f"{where}: arm: '{teacher.arm}' is not an arm of {study.where} (choices: {arms})")
    entries = study.card.methods_of(teacher.model) if teacher.model in study.card.models else []
    entry = next((entry for entry in entries if entry.name == teacher.method), None)
    if entry is None:
        methods = (
            ", ".join(entry.name for entry in entries) or f"none, as '{teacher.model}' is no model of it"
        )
        raise UserError(
            f"{where}: method: {study.where} does not train '{teacher.method}' on '{teacher.model}' (choices: {methods})"
        )
    if list_distilled(arm.training_set):
        raise UserError(
            f"{where}: arm: '{arm.name}' is trained on a distilled set itself; choose another arm"
        )
    if is_combined(entry):
        raise UserError(f"{where}: method: '{entry.name}' is a combination; choose one of its members")
    run = study.resolve_adapter(teacher.model, base, entry, arm, study.card.seeds[0])
    assert run.adapter
    return TeacherModel(run.adapter.label.rstrip("/"), base, run.adapter)


def list_distilled_sets(study: "Study") -> dict[str, Artifact]:
    """Return the distilled sets that a study trains on, each with its artifact."""
    # a study without models, or without methods, trains on nothing
    arms = [arm for arm in study.card.arms if arm.training_set and study.card.models]
    names = dict.fromkeys(name for arm in arms for name in list_distilled(arm.training_set))
    return {name: study.raw(name, TRAIN) for name in names}


def list_base_models(study: "Study") -> list[str]:
    """Return the cards of all models whose base a study needs: its own, and those of its teachers."""
    cards: list[Dataset] = [read_card("datasets", name) for name in list_distilled_sets(study)]
    teachers = [card.distilled.teacher.model for card in cards if card.distilled]
    return list(dict.fromkeys([*study.card.models, *teachers]))


def model_of_teacher(answers: Artifact) -> str:
    """Return the card of the model that gives a teacher's answers."""
    return answers.inputs["base"].path.parent.name


def list_bought_answers(study: "Study") -> list[Artifact]:
    """Return the answers of a study's teachers that are behind an endpoint, an artifact for each source."""
    return [
        artifact
        for artifact in study.artifacts["distill"]
        if artifact.label.startswith(f"{ANSWERS}/") and is_endpoint(model_of_teacher(artifact))
    ]
