"""The picture of the rooms in docs/architecture.md, drawn from the imports of the code."""

import ast
from pathlib import Path

from pipeline.commands.maintain.sections import replace_section
from pipeline.params.reading import ROOT

PAGE = "docs/architecture.md"
BEGIN = "<!-- rooms: written by `python -m pipeline regenerate` -->"
END = "<!-- end of rooms -->"

Imports = dict[str, set[str]]


def architecture_page(root: Path = ROOT) -> str:
    """Return docs/architecture.md with the picture and the table of rooms as the code has them now."""
    return replace_section(root / PAGE, BEGIN, END, draw_rooms(root / "pipeline"))


def draw_rooms(package: Path) -> str:
    """Return the rooms of a package as a Mermaid flowchart and a Markdown table.

    An arrow means "imports". Arrows that follow from others are left out.
    """
    imports = room_imports(package)
    floors = room_floors(imports)
    rooms = sorted(imports, key=lambda room: (-floors[room], room))
    arrows = [f"  {room} --> {target}" for room in rooms for target in sorted(direct_arrows(room, imports))]
    rows = [
        f"| {floors[room]} | `{room}` | {len(room_files(package, room))} | {room_purpose(package, room)} |"
        for room in rooms
    ]
    return "\n".join(
        [
            "```mermaid",
            "flowchart TD",
            *arrows,
            "```",
            "",
            "| floor | room | files | purpose |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def room_files(package: Path, room: str) -> list[Path]:
    """Return the Python files of a room: a folder of the package, or one file."""
    folder = package / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def room_imports(package: Path) -> Imports:
    """Return, for each room of the package, the rooms that its files import, also inside functions."""
    rooms = [path.name for path in package.iterdir() if (path / "__init__.py").is_file()]
    rooms += [path.stem for path in package.glob("*.py") if path.stem not in ("__init__", "__main__")]
    imports: Imports = {room: set() for room in rooms}
    for room in rooms:
        for path in room_files(package, room):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                # The package never imports itself with a plain `import`.
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                    parts = (node.module or "").split(".")
                    targets = {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
                    imports[room] |= (targets & set(rooms)) - {room}
    return imports


def room_floors(imports: Imports) -> dict[str, int]:
    """Return the floor of each room: 1 imports no other room, and a room lies above all that it imports."""
    floors: dict[str, int] = {}

    def floor_of(room: str) -> int:
        if room not in floors:
            floors[room] = 1 + max((floor_of(target) for target in imports[room]), default=0)
        return floors[room]

    for room in imports:
        floor_of(room)
    return floors


def direct_arrows(room: str, imports: Imports) -> set[str]:
    """Return the imported rooms that no other imported room leads to."""
    indirect = {reached for target in imports[room] for reached in _reachable(target, imports)}
    return imports[room] - indirect


def _reachable(room: str, imports: Imports) -> set[str]:
    return imports[room] | {reached for target in imports[room] for reached in _reachable(target, imports)}


def room_purpose(package: Path, room: str) -> str:
    """Return the first sentence of a room's docstring."""
    path = package / room / "__init__.py"
    path = path if path.is_file() else package / f"{room}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split(". ")[0].split()).removesuffix(".") + "."
