"""Checks of a study's card that involve several of its fields, or other cards."""

from collections.abc import Iterable, Sequence

from pipeline.core.errors import UserError
from pipeline.params.models import check_chat_template
from pipeline.params.reading import read_card
from pipeline.params.resolve import check_architecture
from pipeline.params.studies import StudyCard


def check_study_card(card: StudyCard, *, where: str) -> None:
    """Refuse a study with repeated names, with references to nothing, or with cards that do not go together.

    Raises:
        UserError: in one line with file, key, value and choices.
    """
    _refuse_repetition("methods", [entry.name for entry in card.methods], where=where)
    _refuse_repetition("models", card.models, where=where)
    _refuse_repetition("seeds", card.seeds, where=where)
    _refuse_repetition("protocols", card.protocols, where=where)
    for protocol in card.headline:
        if protocol not in card.protocols:
            choices = ", ".join(card.protocols)
            raise UserError(
                f"{where}: headline: '{protocol}' is not a protocol of the study (choices: {choices})"
            )
    for arm in card.arms:
        key = f"arms.{arm.name}: training_by_model"
        _refuse_other_models(arm.training_by_model, card.models, where=f"{where}: {key}")
    for entry in card.methods:
        key = f"methods.{entry.name}: models"
        _refuse_repetition(key, entry.models or [], where=where)
        _refuse_other_models(entry.models or [], card.models, where=f"{where}: {key}")
    for model in card.models:
        if not card.bare and not card.methods_of(model):
            raise UserError(f"{where}: models: '{model}' has no method, and bare bases are not evaluated")
    for model in card.models:
        check_architecture(read_card("models", model).architecture, where=f"params/models/{model}.yaml")
    templates = {f"protocol {name}": read_card("protocols", name).template for name in card.protocols}
    templates["training"] = card.template
    check_chat_template({name: read_card("models", name) for name in card.models}, templates, where=where)


def _refuse_other_models(names: Iterable[str], models: Sequence[str], *, where: str) -> None:
    for name in names:
        if name not in models:
            choices = ", ".join(models)
            raise UserError(f"{where}: '{name}' is not a model of the study (choices: {choices})")


def _refuse_repetition(key: str, values: Sequence[str | int], *, where: str) -> None:
    # results lie in folders of these names, and some file systems ignore case
    folded = [str(value).casefold() for value in values]
    for value in values:
        if folded.count(str(value).casefold()) > 1:
            raise UserError(f"{where}: {key}: '{value}' is repeated (a method used twice needs a label)")
