"""Checks of cards of published figures, and of the follow-ups that a study lists."""

from collections.abc import Iterable

from pipeline.core.errors import UserError, list_choices
from pipeline.params.base import Training
from pipeline.params.methods import PEFT_FIELDS, Method, Peft
from pipeline.params.published.cards import Published, PublishedFigure, PublishedRow, PublishedTable
from pipeline.params.reading import read_card
from pipeline.params.studies import StudyCard


def check_published(name: str) -> None:
    """Refuse a card of published figures that refers to cards which do not exist, because nothing would be compared with it.

    Raises:
        UserError: in one line with file, table and value.
    """
    card: Published = read_card("published", name)
    for part in card.parts:
        where = f"params/published/{name}.yaml: {part.name}"
        entries = part.rows if isinstance(part, PublishedTable) else part.points
        references = [("datasets", dataset) for dataset in (part.training_set, *part.tasks)]
        references += [("methods", entry.method) for entry in entries if entry.method]
        if isinstance(part, PublishedFigure):
            references += [("models", point.model) for point in part.points]
        _check_references(references, where=where)
        if isinstance(part, PublishedTable):
            for row in part.rows:
                _check_settings(row, where=where)
    protocols = [("protocols", each.protocol) for each in card.measurements.values() if each.protocol]
    _check_references(protocols, where=f"params/published/{name}.yaml: measurements")


def check_followup(name: str, study: StudyCard, *, where: str) -> None:
    """Refuse a follow-up that shares no base or no training set with the study: none of its rows could be compared.

    Args:
        name: the follow-up's card.
        study: the study that lists it.
        where: the key in the study's file, for messages.

    Raises:
        UserError: in one line with place, value and fix.
    """
    try:
        card: Published = read_card("published", name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    check_published(name)
    training_sets = dict.fromkeys(arm.training_set for arm in study.arms)
    tables = [table for table in card.tables if table.training_set in training_sets]
    if not tables:
        others = ", ".join(dict.fromkeys(table.training_set for table in card.tables)) or "no table"
        raise UserError(
            f"{where}: '{name}' has figures for {others}, which no arm of the study trains on ({', '.join(training_sets)}); "
            "leave it out"
        )
    bases = list(dict.fromkeys(row.model for table in tables for row in table.rows))
    if not set(bases) & set(study.models):
        raise UserError(
            f"{where}: '{name}' has figures for {', '.join(bases)}, and none is a model of the study "
            f"({', '.join(study.models)}); add a base, or leave '{name}' out"
        )


def _check_references(references: Iterable[tuple[str, str]], *, where: str) -> None:
    for kind, name in references:
        try:
            read_card(kind, name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _check_settings(row: PublishedRow, *, where: str) -> None:
    """Refuse a setting that no run can have, since the row would silently be compared with nothing."""
    if row.method is None or not row.settings:
        return
    method: Method = read_card("methods", row.method)
    fields = [*method.model_dump(exclude={"name", "kind", "training", "source"}), *Training.model_fields]
    if isinstance(method, Peft) and method.peft_type in PEFT_FIELDS:
        fields += PEFT_FIELDS[method.peft_type].model_fields
    for key in row.settings:
        if key not in fields:
            raise UserError(
                f"{where}: {row.label or row.method} on {row.model}: settings: '{key}' is a field neither of '{row.method}' nor of "
                f"training {list_choices(key, fields)}"
            )
