"""Read the cards of params/ and check them, before a job is planned.

The card types of this package declare each key once, with type, unit, bounds and default; the YAML files contain what
differs. An error is one line with file, key, value and choices.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline.core.errors import UserError, list_choices, one_line
from pipeline.params.base import UNKNOWN_KEY, check_name
from pipeline.params.datasets import Dataset
from pipeline.params.methods import Method
from pipeline.params.models import Model
from pipeline.params.protocols import Protocol
from pipeline.params.published.cards import Published, PublishedCommands
from pipeline.params.published.references import Reference
from pipeline.params.studies import StudyCard

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params"


MERGE_TAG = "tag:yaml.org,2002:merge"

T = TypeVar("T")


# A grid reads the same few cards for each of its thousands of runs.
@cache
def read_card(kind: str, name: str) -> Any:
    """Return the checked card ``params/KIND/NAME.yaml``.

    Raises:
        UserError: no such card, or a key or value that is not allowed.
    """
    folder = PARAMS / kind
    path, names = folder / f"{name}.yaml", sorted(file.stem for file in folder.glob("*.yaml"))
    variants = [stem for stem in names if stem != name and stem.casefold() == name.casefold()]
    # on a file system that ignores case the file of a variant has this path too
    if not path.is_file() or (variants and name not in names):
        raise UserError(
            f"params/{kind}: no '{name}' {list_choices(name, names, meant=_find_repository(kind, name))}"
        )
    if variants:
        raise UserError(
            f"params/{kind}: '{variants[0]}' and '{name}' differ in case only, which some file systems ignore; "
            "rename one of them"
        )
    try:
        check_name(name)
    except ValueError as error:
        raise UserError(f"params/{kind}: '{name}': {error}") from None
    card = parse_card(CARDS[kind], read_yaml(path), where=f"params/{kind}/{path.name}")
    # scores and tables have the name in the card
    if kind == "protocols" and card.name != name:
        raise UserError(
            f"params/{kind}/{path.name}: name: must be '{name}', the name of the file (got '{card.name}')"
        )
    return card


def _find_repository(kind: str, name: str) -> str | None:
    """Return the card of a model whose repository on the hub has a name, or None."""
    if kind != "models" or "/" not in name:
        return None
    line = re.compile(rf"^repo_id: *['\"]?{re.escape(name)}['\"]?\s*(#.*)?$", re.MULTILINE)
    cards = sorted((PARAMS / kind).glob("*.yaml"))
    return next((card.stem for card in cards if line.search(card.read_text(encoding="utf-8"))), None)


CARDS: dict[str, Any] = {
    "methods": Method,
    "models": Model,
    "datasets": Dataset,
    "protocols": Protocol,
    "published": Published,
    "commands": PublishedCommands,
    "references": Reference,
    "study": StudyCard,
}


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        UserError: the file is missing or not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({one_line(error)})") from None


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses a repeated key, of which PyYAML silently takes the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # of mappings into which their merge keys have been written, so that they hold some keys twice
        self._merged: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Write what the merge keys (``<<: *anchor``) of a mapping refer to into it; its own keys come last and win."""
        if id(node) in self._merged:
            return
        self._merged.add(id(node))
        # the merge key itself has no value that could be constructed
        keys = [
            key.value if key.tag == MERGE_TAG else self.construct_object(key, deep=True)
            for key, _ in node.value
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key '{key}' is repeated, line {node.start_mark.line + 1}")
        super().flatten_mapping(node)


def parse_card(kind: Any, data: Any, *, where: str) -> Any:
    """Return ``data`` as a card of the type ``kind``.

    Raises:
        UserError: in one line, the first three mistakes, each with key, value and cause.
    """
    # the card of a hub model may leave out its kind
    if kind in (Method, Model) and isinstance(data, dict) and "kind" not in data and "repo_id" in data:
        data = {"kind": "hub", **data}
    try:
        return _adapter_of(kind).validate_python(data)
    except ValidationError as error:
        # a line has room for three
        messages = [_describe_error(details) for details in error.errors()[:3]]
        raise UserError(f"{where}: {'; '.join(messages)}") from None


# To make one takes a hundred times as long as to check a card with it, and a large grid checks thousands of its parts.
@cache
def _adapter_of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


# The tags of unions, which pydantic puts between the keys of an error's location: they are no keys of the card.
UNION_TAGS = (
    *("bottleneck", "peft", "full", "combined", "plain", "world", "bpe"),
    *("hub", "local", "package", "pretrained", "endpoint"),
    *("listed", "interval"),
)


def _describe_error(error: ErrorDetails) -> str:
    location = error["loc"]
    # a key of the card may have the name of its tag, such as 'package'; it then follows the tag
    parts = [
        part
        for before, part in zip((None, *location), location, strict=False)
        if part not in UNION_TAGS or part == before
    ]
    # a key that the user invented may have line ends
    key = " ".join(".".join(map(str, parts)).split())
    if error["type"] == "missing":
        return f"{key}: missing"
    if error["type"] == UNKNOWN_KEY:
        return f"{key}: {error['msg']}"
    message = " ".join(error["msg"].removeprefix("Value error, ").split())
    if not key:
        return message
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        # a check of a whole section: its message quotes the values that matter
        return f"{key}: {message}"
    value = repr(error["input"])
    return f"{key}: {message} (got {value if len(value) < 60 else value[:57] + '...'})"
