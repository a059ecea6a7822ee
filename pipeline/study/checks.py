"""What a study's card must be that no single field of it can tell."""

from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.models import check_chat
from pipeline.params.reading import read_card
from pipeline.params.resolve import check_architecture
from pipeline.params.studies import StudyCard


def check(card: StudyCard, *, where: str) -> None:
    """Refuse a study that names something twice, or cards that do not go together.

    Raises:
        UserError: in one line that names file, key, value and choices.
    """
    labels = [entry.label or entry.method for entry in card.methods]
    repeated: list[tuple[list[Any], str]] = [
        (labels, "methods"),
        (card.models, "models"),
        (card.seeds, "seeds"),
        (card.protocols, "protocols"),
    ]
    for values, key in repeated:
        folded = [str(value).casefold() for value in values]  # results lie in folders of these names
        twice = next((value for value in values if folded.count(str(value).casefold()) > 1), None)
        if twice is not None:
            raise UserError(f"{where}: {key}: '{twice}' is given twice (a method used twice needs a label)")
    stray = next((name for name in card.headline if name not in card.protocols), None)
    if stray:
        raise UserError(
            f"{where}: headline: '{stray}' is none of its protocols ({', '.join(card.protocols)})"
        )
    for arm in card.arms:
        stray = next((name for name in arm.training_by_model if name not in card.models), None)
        if stray:
            raise UserError(
                f"{where}: arms.{arm.name}: training_by_model: '{stray}' is none of its models ({', '.join(card.models)})"
            )
    for model in card.models:
        check_architecture(read_card("models", model).architecture, where=f"params/models/{model}.yaml")
    templates = {f"protocol {name}": read_card("protocols", name).template for name in card.protocols}
    templates["training"] = card.template
    check_chat({name: read_card("models", name) for name in card.models}, templates, where=where)
