"""The table pipeline/params/peft/fields.json: the fields of every method of the installed peft, and their choices."""

import dataclasses
import enum
import json
import types
import typing
from typing import Any

from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES

PATH = "pipeline/params/peft/fields.json"


def peft_fields_text() -> str:
    """Return the text of the table; imports peft, and so torch.

    A field has the list of its choices, or null if its type is not closed: a number, a list, any text.
    """
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    # fields that every config has describe the file, not the method
    common = {field.name for field in dataclasses.fields(PeftConfig)}
    lines = []
    for name in PEFT_TYPES:
        if name in UNSUPPORTED_PEFT_TYPES:
            continue
        config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[name]
        hints = typing.get_type_hints(config_class)
        choices = {
            field.name: list_choices(hints[field.name], field=field.name, peft_type=name)
            for field in dataclasses.fields(config_class)
            if field.init and field.name not in common
        }
        lines.append(f" {json.dumps(name)}: {json.dumps(choices)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def list_choices(hint: Any, *, field: str, peft_type: str) -> list[Any] | None:
    """Return the values that a type allows, or None if they cannot be listed.

    A union with None has the choices of the rest: null is how a card leaves a field at peft's default.
    """
    if field == "bias" and hint is str:
        # peft's tuners share what they do with it, and some declare the field as text
        return ["none", "all", f"{peft_type.lower()}_only"]
    if hint is bool:
        return [True, False]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return list(parts)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [member.value for member in hint]
    if origin not in (typing.Union, types.UnionType):
        return None
    closed = [
        list_choices(part, field=field, peft_type=peft_type) for part in parts if part is not type(None)
    ]
    listed = [choice for choices in closed for choice in choices or []]
    # "an enum, or its value as text" is closed; "bool or any text" is not
    is_closed = all(choices is not None for choices in closed) or any(
        isinstance(choice, str) for choice in listed
    )
    return listed if is_closed else None
