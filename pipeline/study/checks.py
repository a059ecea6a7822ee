"""Checks of a study's card that involve several of its fields, or other cards."""

from collections.abc import Sequence

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
        for model in arm.training_by_model:
            if model not in card.models:
                choices = ", ".join(card.models)
                key = f"arms.{arm.name}: training_by_model"
                raise UserError(f"{where}: {key}: '{model}' is not a model of the study (choices: {choices})")
    for model in card.models:
        check_architecture(read_card("models", model).architecture, where=f"params/models/{model}.yaml")
    templates = {f"protocol {name}": read_card("protocols", name).template for name in card.protocols}
    templates["training"] = card.template
    check_chat_template({name: read_card("models", name) for name in card.models}, templates, where=where)


def _refuse_repetition(key: str, values: Sequence[str | int], *, where: str) -> None:
    # results lie in folders of these names, and some file systems ignore case
    folded = [str(value).casefold() for value in values]
    for value in values:
        if folded.count(str(value).casefold()) > 1:
            raise UserError(f"{where}: {key}: '{value}' is repeated (a method used twice needs a label)")
