"""The command `methods`: every method card of params/methods/."""

from collections.abc import Mapping
from typing import Any, TypedDict

from pipeline.commands.options import JsonOption
from pipeline.core.text import print_json, print_table
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.reading import read_card
from pipeline.study.find import list_cards


class MethodRow(TypedDict):
    """A method card as it is listed; ``architectures`` is None where the method fits any."""

    name: str
    title: str
    type: str
    architectures: list[str] | None
    settings: dict[str, Any]
    training: dict[str, Any]
    source: str


def methods_command(as_json: JsonOption = False) -> None:
    """List the method cards in params/methods/."""
    rows = method_rows()
    if as_json:
        print_json(rows)
        return
    columns = ("NAME", "METHOD", "TYPE", "ARCHITECTURES", "SETTINGS", "SOURCE")
    cells = [
        (
            row["name"],
            row["title"],
            row["type"],
            format_architectures(row["architectures"]),
            ", ".join(f"{key}={_format_setting(key, value)}" for key, value in row["settings"].items()),
            row["source"],
        )
        for row in rows
    ]
    print_table(columns, cells)


def method_rows() -> list[MethodRow]:
    """Return every method card as a row."""
    rows: list[MethodRow] = []
    for name in list_cards("methods"):
        # What the card sets and no defaults, so that a reader sees in what the methods differ.
        settings = read_card("methods", name).model_dump(exclude_unset=True)
        title, kind = settings.pop("name", None), settings.pop("kind", None)
        tuner_type = settings.pop("peft_type", None) or kind
        training, source = settings.pop("training", None) or {}, settings.pop("source", None)
        rows.append(
            {
                "name": name,
                "title": title,
                "type": tuner_type,
                "architectures": supported_architectures(settings),
                "settings": settings,
                "training": training,
                "source": source,
            }
        )
    return rows


def supported_architectures(settings: Mapping[str, Any]) -> list[str] | None:
    """Return the architectures that every setting by architecture covers; None if no setting depends on it."""
    covered = [set(value) for value in settings.values() if _is_by_architecture(value)]
    return [name for name in LINEAR_MODULES if all(name in names for names in covered)] if covered else None


def format_architectures(architectures: list[str] | None) -> str:
    """Return the supported architectures as a cell of the table."""
    if architectures is None:
        return "any"
    return "all known" if len(architectures) == len(LINEAR_MODULES) else ", ".join(architectures)


def _is_by_architecture(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= set(LINEAR_MODULES)


def _format_setting(key: str, value: Any) -> str:
    """Return a setting as text; a setting by architecture is too long for a cell, except the placements."""
    if not _is_by_architecture(value):
        return "+".join(map(str, value)) if isinstance(value, list) else str(value)
    if key != "placement":
        return "by architecture"
    groups = [part.values() if isinstance(part, Mapping) else [part] for part in value.values()]
    return "+".join(dict.fromkeys(str(placement) for placements in groups for placement in placements))
