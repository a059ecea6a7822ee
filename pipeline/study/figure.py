"""Where the figure of a study that varies a setting has each of its entries."""

from collections.abc import Iterable
from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.studies import Entry
from pipeline.study.artifacts import Artifact


def points(trained: Iterable[tuple[Entry, Artifact]], fields: list[str], *, at: str) -> list[dict[str, Any]]:
    """Return for each entry with its adapter: method (its name in paths), card, field and setting.

    Args:
        trained: the entries of a study, each with one of its adapters.
        fields: the figure's, by which entries are placed.
        at: the place in the study's file, for messages.

    Raises:
        UserError: an entry has none of the fields, or several, or the place of another.
    """
    found = [_point(entry, adapter, fields, at=at) for entry, adapter in trained]
    taken: dict[Any, str] = {}
    for point in found:
        place = point["card"], point["field"], point["setting"]
        other = taken.setdefault(place, point["method"])
        if other != point["method"]:
            raise UserError(f"{at}: '{point['method']}' has the place of '{other}', {place[1]} {place[2]}")
    return found


def _point(entry: Entry, adapter: Artifact, fields: list[str], *, at: str) -> dict[str, Any]:
    """Return where a figure over ``fields`` has an entry, by its adapter's resolved settings: no number is typed twice."""
    name = entry.label or entry.method
    given = {"setting": entry.setting, **adapter.params["training"], **adapter.params["method"]}
    found = {field: given[field] for field in fields if given.get(field) is not None}
    if len(found) != 1:
        has = ", ".join(found) or "none"
        raise UserError(f"{at}: '{name}' must have one of {', '.join(fields)} (it has: {has})")
    ((field, value),) = found.items()
    if not isinstance(value, int | float | str):
        raise UserError(
            f"{at}: {field} of '{name}' is neither a number nor a word; give the entries a 'setting'"
        )
    return {"method": name, "card": entry.method, "field": field, "setting": value}
