"""Everything that is written from the code and the cards, in one place: a test fails where a file is stale."""

import json
import subprocess
import sys
from typing import Any

from pydantic import TypeAdapter

from pipeline.commands.look import datasets
from pipeline.commands.maintain import house
from pipeline.core.errors import UserError
from pipeline.params.reading import CARDS, ROOT
from pipeline.params.studies import Training

PARAMS_PAGE = "docs/params.md"
TITLES = {
    "study": "A study: `params/study/NAME.yaml`",
    "models": "A model: `params/models/NAME.yaml`",
    "methods": "A method: `params/methods/NAME.yaml`",
    "datasets": "A dataset: `params/datasets/NAME.yaml`",
    "protocols": "A protocol: `params/protocols/NAME.yaml`",
    "published": "Published numbers: `params/published/NAME.yaml`",
}
HEAD = """# Every key of params/

Written by `python -m pipeline regenerate` from the types in `pipeline/`; the same, for editors, as JSON Schema in
`params/schema/`. A key without a default has to be given.
"""

Schema = dict[str, Any]


def pages() -> dict[str, str]:
    """Return what each generated file has to hold, by its path in the project."""
    schemas = {kind: TypeAdapter(card).json_schema() for kind, card in CARDS.items()}
    texts = {f"params/schema/{kind}.json": _json(schema) for kind, schema in schemas.items()}
    return {
        str(datasets.PATH): datasets.readme(),
        PARAMS_PAGE: _params_page(schemas),
        house.PAGE: house.architecture_page(),
        **texts,
    }


def stale() -> list[str]:
    """Return the generated files that are not what they have to be."""
    found = pages().items()
    return [
        name
        for name, text in found
        if not (ROOT / name).is_file() or (ROOT / name).read_text("utf-8") != text
    ]


def check() -> None:
    """Refuse generated files that are stale.

    Raises:
        UserError: names them, and the command that writes them.
    """
    if found := stale():
        raise UserError(f"stale: {', '.join(found)}; run: python -m pipeline regenerate")


def regenerate(*, matrix: bool) -> list[str]:
    """Write the generated files that are stale and return their names.

    Args:
        matrix: run the support matrix too (minutes), from which docs/support-matrix.md is written.

    Raises:
        UserError: a cell of the matrix fails; its output stands above.
    """
    written = stale()
    for name in written:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(pages()[name], encoding="utf-8")
    if matrix:
        done = subprocess.run([sys.executable, "-m", "tests.support_matrix"], cwd=ROOT, check=False)
        if done.returncode:
            raise UserError("the support matrix was not written; what failed stands above")
        written.append("docs/support-matrix.md")
    return written


def _json(schema: Schema) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _params_page(schemas: dict[str, Schema]) -> str:
    parts = [HEAD]
    for kind, title in TITLES.items():
        parts += _section(f"## {title}", schemas[kind])
        parts += [part for one in schemas[kind].get("$defs", {}).values() for part in _section("###", one)]
        if kind == "study":
            parts += _section(
                "### training: of a study, an arm, an entry or a method's card:", Training.model_json_schema()
            )
    return "\n".join(parts)


def _section(title: str, schema: Schema) -> list[str]:
    said = " ".join(schema.get("description", "").split("\n\n")[0].split())
    named = f"{title} {schema['title']}" if title == "###" else title
    if not schema.get("properties"):
        return [f"{named}\n\n{said}\n"] if title.startswith("## ") else []
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, value in schema["properties"].items():
        known = f"`{json.dumps(value['default'])}`" if "default" in value else "empty"
        default = "" if key in schema.get("required", []) else known
        cells = (f"`{key}`", _type(value), default, " ".join(value.get("description", "").split()))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [f"{named}\n\n{said}\n\n" + "\n".join(rows) + "\n"]


def _type(value: Schema) -> str:
    """Return a JSON Schema's type and bounds in words."""
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    options = value.get("anyOf") or value.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(one) for one in options))
    kind = str(value.get("type", "anything"))
    if kind == "array":
        return f"list of {_type(value.get('items', {}))}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"map to {_type(value['additionalProperties'])}"
    bounds = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "minItems": "length ≥",
    }
    return " ".join([kind, *(f"{sign} {value[key]}" for key, sign in bounds.items() if key in value)])
