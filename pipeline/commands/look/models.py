"""The command `models`: every model card of params/models/."""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import typer

from pipeline.commands.options import JsonOption
from pipeline.core.errors import UserError
from pipeline.core.text import print_json, print_table
from pipeline.models.bases.hub import pinned_revision
from pipeline.params.models import Tokens, architecture_of_modules
from pipeline.params.reading import read_card
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from pipeline.study.find import list_cards, list_trained_methods

TOKEN_RULES = {name: field.description for name, field in Tokens.model_fields.items()}


class ModelRow(TypedDict):
    """A model card as it is listed.

    Where a card states no revision, ``revision`` is the commit that params/lock.yaml has from the first download.
    ``target_modules`` has, for each method card, the modules that the method adapts on this architecture: a map to
    placements for bottleneck adapters; None where a method has no modules or peft chooses them.
    """

    name: str
    title: str
    architecture: str | None
    repo_id: str | None
    revision: str | None
    package: str | None
    path: str | None
    endpoint: str | None
    licence: str | None
    gated: bool | None
    tokens: dict[str, str]
    target_modules: dict[str, Any]
    source: str


def models_command(
    name: Annotated[
        str | None, typer.Argument(help="Show only this model, with the target modules of each method.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the model cards in params/models/, or show one of them."""
    if name is not None:
        # An unknown name is refused here, with the nearest names.
        read_card("models", name)
    rows = [row for row in model_rows() if name in (None, row["name"])]
    if as_json:
        print_json(rows)
    elif name is not None:
        _print_model(rows[0])
    else:
        _print_models(rows)


def model_rows() -> list[ModelRow]:
    """Return every model card as a row."""
    rows: list[ModelRow] = []
    for name in list_cards("models"):
        card = read_card("models", name)
        is_hub, is_pretrained = card.kind == "hub", card.kind == "pretrained"
        is_remote = card.kind == "endpoint"
        rows.append(
            {
                "name": name,
                "title": card.name,
                "architecture": None if is_remote else card.architecture,
                "repo_id": card.repo_id if is_hub else None,
                "revision": pinned_revision(card) if is_hub else None,
                "package": f"{card.package}=={card.version}" if card.kind == "package" else None,
                "path": card.path if card.kind == "local" else None,
                "endpoint": f"{card.model} at {card.base_url}" if is_remote else None,
                "licence": None if is_pretrained else card.licence,
                "gated": card.gated if is_hub else None,
                "tokens": (Tokens() if is_pretrained or is_remote else card.tokens).model_dump(),
                "target_modules": {}
                if is_remote
                else {
                    method: _target_modules(method, architecture_of_modules(card))
                    for method in list_trained_methods()
                },
                "source": card.source,
            }
        )
    return rows


def _target_modules(method: str, architecture: str) -> Any:
    try:
        settings = resolve_method(Entry(method=method), architecture=architecture, where="")
    except UserError:
        # A user's own card may leave this architecture out.
        return None
    if settings["kind"] == "bottleneck" and isinstance(settings["placement"], Mapping):
        return dict(settings["placement"])
    return settings.get("target_modules")


def _print_models(rows: list[ModelRow]) -> None:
    columns = ("NAME", "MODEL", "ARCHITECTURE", "FROM", "COMMIT", "LICENCE", "GATED", "TOKENS", "SOURCE")
    cells = [
        (
            row["name"],
            row["title"],
            row["architecture"] or "-",
            row["repo_id"] or row["package"] or row["path"] or row["endpoint"] or "pretrained by the study",
            "-" if row["repo_id"] is None else (row["revision"] or "at first download")[:17],
            row["licence"] or "-",
            {None: "-", True: "yes", False: "no"}[row["gated"]],
            _changed_tokens(row["tokens"]),
            row["source"],
        )
        for row in rows
    ]
    print_table(columns, cells)


def _changed_tokens(tokens: Mapping[str, str]) -> str:
    """Return the token rules of a card that differ from what its tokenizer does by itself."""
    defaults = Tokens().model_dump()
    changed = [f"{key}={value}" for key, value in tokens.items() if value != defaults[key]]
    return ", ".join(changed) or "its tokenizer's"


def _print_model(row: ModelRow) -> None:
    """Print one model: its card, and the modules that each method adapts by default."""
    for key, value in row.items():
        if key not in ("name", "tokens", "target_modules") and value is not None:
            print(f"{key}: {value}")
    for token, rule in row["tokens"].items():
        print(f"tokens.{token}: {rule}  [{TOKEN_RULES[token]}]")
    print()
    cells = [(method, _format_targets(targets)) for method, targets in row["target_modules"].items()]
    print_table(("METHOD", "TARGET MODULES"), cells)


def _format_targets(targets: Any) -> str:
    if isinstance(targets, Mapping):
        return ", ".join(f"{placement} {module}" for module, placement in targets.items())
    return ", ".join(targets) if isinstance(targets, list) else targets or "-"
