"""The commands `methods` and `models`."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.text import text_table
from pipeline.models.hub import revision
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.models import Tokens
from pipeline.params.reading import read_card
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from pipeline.study.find import list_cards

TOKEN_RULES = {name: field.description for name, field in Tokens.model_fields.items()}


Row = dict[str, Any]


def methods() -> list[Row]:
    """Return every method card: name, title, type (of the tuner), architectures (None: any), settings, training, source."""
    rows = []
    for name in list_cards("methods"):
        card = read_card("methods", name).model_dump(exclude_unset=True)
        told = {key: card.pop(key, None) for key in ("name", "kind", "peft_type", "training", "source")}
        rows.append(
            {
                "name": name,
                "title": told["name"],
                "type": told["peft_type"] or told["kind"],
                "architectures": _architectures(card),
                "settings": card,
                "training": told["training"] or {},
                "source": told["source"],
            }
        )
    return rows


def models() -> list[Row]:
    """Return every model card: name, title, architecture, repo_id, revision, licence, gated, tokens, target_modules, source.

    Where a card states no revision, it is the commit that the lock file has of the first download. ``target_modules``
    has, for each method card, the modules that it adapts on the architecture: a map to placements for bottleneck adapters,
    None where a method has no modules or peft chooses them.
    """
    rows = []
    for name in list_cards("models"):
        card = read_card("models", name)
        hub = card.kind == "hub"
        rows.append(
            {
                "name": name,
                "title": card.name,
                "architecture": card.architecture,
                "repo_id": card.repo_id if hub else None,
                "revision": revision(card) if hub else None,
                "licence": card.licence if hub else None,
                "gated": card.gated if hub else None,
                "tokens": (card.tokens if hub else Tokens()).model_dump(),
                "target_modules": {
                    method: _targets(method, card.architecture) for method in list_cards("methods")
                },
                "source": card.source,
            }
        )
    return rows


def _targets(method: str, architecture: str) -> Any:
    try:
        settings = resolve_method(Entry(method=method), architecture=architecture, where="")
    except UserError:  # a card of the user's own that leaves this architecture out
        return None
    if settings["kind"] == "bottleneck" and isinstance(settings["placement"], Mapping):
        return dict(settings["placement"])
    return settings.get("target_modules")


def show_methods(*, as_json: bool) -> None:
    """Print the methods as a table, or as JSON."""
    rows = methods()
    if as_json:
        _print_json(rows)
        return
    columns = ("NAME", "METHOD", "TYPE", "ARCHITECTURES", "SETTINGS", "SOURCE")
    cells = [
        (
            row["name"],
            row["title"],
            row["type"],
            _covered(row["architectures"]),
            ", ".join(f"{key}={_brief(key, value)}" for key, value in row["settings"].items()),
            row["source"],
        )
        for row in rows
    ]
    print(text_table(columns, cells, wrapped=("ARCHITECTURES", "SETTINGS", "SOURCE")))


def show_models(name: str | None, *, as_json: bool) -> None:
    """Print the models as a table, or as JSON; or one of them, with the modules that each method adapts.

    Raises:
        UserError: there is no model of that name.
    """
    if name is not None:
        read_card("models", name)
    rows = [row for row in models() if name in (None, row["name"])]
    if as_json:
        _print_json(rows)
        return
    if name is not None:
        print(_model_page(rows[0]))
        return
    columns = ("NAME", "MODEL", "ARCHITECTURE", "FROM", "COMMIT", "LICENCE", "GATED", "TOKENS", "SOURCE")
    cells = [
        (
            row["name"],
            row["title"],
            row["architecture"],
            row["repo_id"] or "pretrained by the study",
            "-" if row["repo_id"] is None else (row["revision"] or "at first download")[:17],
            row["licence"] or "-",
            {None: "-", True: "yes", False: "no"}[row["gated"]],
            _set_tokens(row),
            row["source"],
        )
        for row in rows
    ]
    print(text_table(columns, cells, wrapped=("LICENCE", "SOURCE")))


def _set_tokens(row: Row) -> str:
    """Return what a model's card sets otherwise than its tokenizer has it."""
    own = Tokens().model_dump()
    told = [f"{key}={value}" for key, value in row["tokens"].items() if value != own[key]]
    return ", ".join(told) or "its tokenizer's"


def _model_page(row: Row) -> str:
    """Return one model: its card, and the modules that each method adapts by default."""
    shown = {key: value for key, value in row.items() if key not in ("name", "tokens", "target_modules")}
    lines = [f"{key}: {value}" for key, value in shown.items() if value is not None]
    lines += [f"tokens.{key}: {value}  [{TOKEN_RULES[key]}]" for key, value in row["tokens"].items()]
    cells = [(method, _brief_targets(targets)) for method, targets in row["target_modules"].items()]
    return (
        "\n".join(lines)
        + "\n\n"
        + text_table(("METHOD", "TARGET MODULES"), cells, wrapped=("TARGET MODULES",))
    )


def _brief_targets(targets: Any) -> str:
    if isinstance(targets, Mapping):
        return ", ".join(f"{place} {module}" for module, place in targets.items())
    return ", ".join(targets) if isinstance(targets, list) else targets or "-"


def _architectures(settings: Mapping[str, Any]) -> list[str] | None:
    """Return the architectures that every field of a card that is a map by architecture is given for."""
    given = [set(value) for value in settings.values() if _by_architecture(value)]
    return [name for name in LINEAR_MODULES if all(name in names for names in given)] if given else None


def _covered(architectures: list[str] | None) -> str:
    if architectures is None:
        return "any"
    return "all known" if len(architectures) == len(LINEAR_MODULES) else ", ".join(architectures)


def _by_architecture(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= set(LINEAR_MODULES)


def _brief(key: str, value: Any) -> str:
    """Return a setting for a table; of a placement by architecture the places, of other such maps that they are."""
    if not _by_architecture(value):
        return str(value) if not isinstance(value, list) else "+".join(map(str, value))
    if key != "placement":
        return "by architecture"
    places = [part.values() if isinstance(part, Mapping) else [part] for part in value.values()]
    return "+".join(dict.fromkeys(str(place) for some in places for place in some))


def _print_json(rows: list[Row]) -> None:
    print(json.dumps(rows, indent=1, ensure_ascii=False))
