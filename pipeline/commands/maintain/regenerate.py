"""The command `regenerate`: every page, schema and list of packages that is written from code, cards and pins."""

import json
import subprocess
import sys
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from pipeline.commands.look import datasets
from pipeline.commands.maintain import conda_file, deviations, followups_page, gpu_page, house, peft_fields
from pipeline.commands.maintain.sections import draw_table
from pipeline.core.errors import UserError
from pipeline.params.reading import CARDS, ROOT

PARAMS_PAGE = "docs/params.md"
TITLES = {
    "study": "A study: `params/study/NAME.yaml`",
    "models": "A model: `params/models/NAME.yaml`",
    "methods": "A method: `params/methods/NAME.yaml`",
    "datasets": "A dataset: `params/datasets/NAME.yaml`",
    "protocols": "A protocol: `params/protocols/NAME.yaml`",
    "published": "Published numbers: `params/published/NAME.yaml`",
    "references": "Answers made elsewhere: `params/references/NAME.yaml`",
    "commands": "Published commands: `params/commands/NAME.yaml`",
}
HEAD = """# Every key of params/

This page lists every key of every card. A key without a default is required.

`python -m pipeline regenerate` writes the page from the types in `pipeline/`. `params/schema/` has the same as JSON Schema, for editors.
"""

Schema = dict[str, Any]


def regenerate_command(
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Write the support matrix too, which takes minutes.")
    ] = False,
    peft: Annotated[
        bool,
        typer.Option(
            "--peft", help="Write the fields of the installed peft's methods too; this imports torch."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list stale files, with exit status 1.")
    ] = False,
) -> None:
    """Write the pages, schemas and package lists that are generated from code, cards and pins."""
    if check and (matrix or peft):
        raise typer.BadParameter("not allowed with --check", param_hint="--matrix" if matrix else "--peft")
    if check:
        check_generated_files()
    written = [] if check else write_generated_files(matrix=matrix)
    if peft:
        (ROOT / peft_fields.PATH).write_text(peft_fields.peft_fields_text(), encoding="utf-8")
        written.append(peft_fields.PATH)
    print("\n".join(f"written: {name}" for name in written) or "nothing was stale")


def generated_files() -> dict[str, str]:
    """Return the text that each generated file should hold, by its path in the project."""
    schemas = {kind: TypeAdapter(card).json_schema() for kind, card in CARDS.items()}
    pages = {str(datasets.PATH): datasets.data_readme(), PARAMS_PAGE: _params_page(schemas)}
    pages[house.PAGE] = house.architecture_page()
    pages[deviations.PAGE] = deviations.deviations_page()
    pages[followups_page.PAGE] = followups_page.followups_page()
    pages[gpu_page.PAGE] = gpu_page.gpu_page()
    pages[conda_file.PATH] = conda_file.conda_file(ROOT)
    return pages | {f"params/schema/{kind}.json": _schema_text(schema) for kind, schema in schemas.items()}


def stale_files() -> dict[str, str]:
    """Return the text of each generated file that is missing or out of date."""
    return {
        name: text
        for name, text in generated_files().items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text("utf-8") != text
    }


def check_generated_files() -> None:
    """Refuse generated files that are stale.

    Raises:
        UserError: with their names, and the command that writes them.
    """
    if names := stale_files():
        raise UserError(f"stale: {', '.join(names)}; run: python -m pipeline regenerate")


def write_generated_files(*, matrix: bool) -> list[str]:
    """Write the generated files that are stale and return their names.

    Args:
        matrix: run the support matrix too (minutes), which writes docs/support-matrix.md.

    Raises:
        UserError: a cell of the matrix fails; its output is printed before.
    """
    texts = stale_files()
    for name, text in texts.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")
    names = list(texts)
    if matrix:
        done = subprocess.run([sys.executable, "-m", "tests.support_matrix"], cwd=ROOT, check=False)
        if done.returncode:
            raise UserError("the support matrix was not written; see the failure above")
        names.append("docs/support-matrix.md")
    return names


def _schema_text(schema: Schema) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _params_page(schemas: dict[str, Schema]) -> str:
    parts = [HEAD]
    # a section that several kinds of card share, such as TrainingOverlay, is described once
    described: set[str] = set()
    for kind, title in TITLES.items():
        schema = schemas[kind]
        parts += _section(f"## {title}", schema)
        for name, nested in schema.get("$defs", {}).items():
            if name not in described:
                parts += _section("###", nested)
        described |= set(schema.get("$defs", {}))
    return "\n".join(parts)


def _section(title: str, schema: Schema) -> list[str]:
    description = " ".join(schema.get("description", "").split("\n\n")[0].split())
    heading = f"{title} {schema['title']}" if title == "###" else title
    if not schema.get("properties"):
        return [f"{heading}\n\n{description}\n"] if title.startswith("## ") else []
    rows = []
    for key, value in schema["properties"].items():
        default = f"`{json.dumps(value['default'])}`" if "default" in value else "empty"
        if key in schema.get("required", []):
            default = ""
        rows.append(
            (f"`{key}`", _type_in_words(value), default, " ".join(value.get("description", "").split()))
        )
    return [f"{heading}\n\n{description}\n\n{draw_table(('key', 'type', 'default', 'meaning'), rows)}\n"]


def _type_in_words(value: Schema) -> str:
    """Return a JSON Schema's type and bounds in words."""
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "enum" in value or "const" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    options = value.get("anyOf") or value.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type_in_words(option) for option in options))
    kind = str(value.get("type", "anything"))
    if kind == "array":
        return f"list of {_type_in_words(value.get('items', {}))}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"map to {_type_in_words(value['additionalProperties'])}"
    bounds = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "minItems": "length ≥",
    }
    return " ".join([kind, *(f"{sign} {value[key]}" for key, sign in bounds.items() if key in value)])
