"""Which runs of a study repeat a published row: the same base, method card and stated settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.params.methods import PEFT_FIELDS
from pipeline.params.published.cards import Published, PublishedRow
from pipeline.params.reading import PARAMS, read_card
from pipeline.study.artifacts import Artifact
from pipeline.study.tuning.choice import plan_training

if TYPE_CHECKING:
    from pipeline.study.grid import Study


@dataclass(frozen=True)
class RowMatch:
    """The methods of a study that repeat a published row on its base.

    Attributes:
        table: number of the table in the publication, from 0.
        row: number of the row in the table, from 0.
        arm: of the study, with the table's training set.
        methods: names in the study.
    """

    table: int
    row: int
    arm: str
    methods: Sequence[str]


@dataclass(frozen=True)
class FollowupDescription:
    """A publication whose rows a report compares with runs.

    Attributes:
        name: of its card.
        published: the card.
        titles: of the models and methods that have cards, by card.
        matches: the rows that a run repeats.
    """

    name: str
    published: Published
    titles: Mapping[str, str]
    matches: Sequence[RowMatch]


def describe_followup(study: "Study", name: str) -> FollowupDescription:
    """Return what the report needs to know of a publication."""
    card: Published = read_card("published", name)
    rows = [row for table in card.tables for row in table.rows]
    models = {row.model for row in rows if (PARAMS / "models" / f"{row.model}.yaml").is_file()}
    titles = {model: read_card("models", model).name for model in sorted(models)}
    methods = sorted({row.method for row in rows if row.method})
    return FollowupDescription(
        name=name,
        published=card,
        titles=titles | {method: read_card("methods", method).name for method in methods},
        matches=match_rows(study, card),
    )


def match_rows(study: "Study", card: Published) -> list[RowMatch]:
    """Return the methods that repeat each published row; rows that no method repeats are left out."""
    matches = []
    for arm in study.card.arms:
        # no publication here trains on a part of a set, or combines adapters
        trained = {
            (run.model, run.method): _list_settings(run.adapter)
            for run in study.runs
            if run.adapter
            and not run.members
            and arm.limit is None
            and arm.name in [part.name for part in run.arms]
        }
        for table_number, table in enumerate(card.tables):
            if table.training_set != arm.training_set:
                continue
            for row_number, row in enumerate(table.rows):
                methods = [
                    entry.name
                    for entry in study.card.methods
                    if (row.model, entry.name) in trained
                    and entry.method == row.method
                    and _has_settings(
                        row,
                        trained[row.model, entry.name],
                        is_as_card=entry.has_card_settings and study.card.tune is None,
                    )
                ]
                if methods:
                    matches.append(RowMatch(table_number, row_number, arm.name, methods))
    return matches


def _list_settings(adapter: Artifact) -> dict[str, Any]:
    """Return the settings of a training and its method; fields of peft that the card leaves out have peft's defaults."""
    method = adapter.params["method"]
    fields = PEFT_FIELDS[method["peft_type"]].model_fields if method.get("peft_type") in PEFT_FIELDS else {}
    defaults = {name: field.default for name, field in fields.items()}
    return {**plan_training(adapter.params).model_dump(), **defaults, **method}


def _has_settings(row: PublishedRow, settings: Mapping[str, Any], *, is_as_card: bool) -> bool:
    if not row.settings:
        return is_as_card
    return all(settings.get(key) == value for key, value in row.settings.items())
