"""Which code makes a stage's results, and whether a change of it was decided on.

``pipeline/stage_code.json`` has, for each stage, the version and a hash of every definition that the stage's job reaches:
functions, classes and constants, followed by name from ``pipeline.jobs`` on. Comments, docstrings, annotations and
formatting do not count. A definition that differs wants a decision: the results stay as they are (``keep``), or the
stage's number in STAGE_VERSIONS goes up and everything made from it gets a new name (``raise_version``).
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.artifacts import STAGE_VERSIONS
from pipeline.errors import UserError
from pipeline.io import read_json, write_json

PACKAGE = Path(__file__).resolve().parent
RECORD = PACKAGE / "stage_code.json"
# Not followed. What these make is no result: messages, progress bars, when and where a job ran ...
_NO_RESULTS = ("errors", "progress", "records", "processes", "tracking", "commands")
# ... and what these resolve is in the fingerprint itself.
_IDENTITY = (
    "study",
    "params",
    "method_cards",
    "protocol_cards",
    "architectures",
    "artifacts",
    "catalog",
    "figure_points",
)
LEFT_OUT = frozenset(f"pipeline.{name}" for name in _NO_RESULTS + _IDENTITY)
IGNORED = {"annotation", "returns", "type_params", "type_comment", "kind", "ctx"}
BODY = ""  # the name of what a module does when it is imported

Place = tuple[str, str]  # module, name in it


@dataclass
class Module:
    """A module's definitions by name, and what its names mean elsewhere."""

    definitions: dict[str, list[ast.AST]] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)


def changed(package: Path = PACKAGE) -> dict[str, list[str]]:
    """Return the stages whose code differs from what was decided on, each with its definitions that do."""
    known = read_json(package / RECORD.name)
    found = {}
    for stage, version in STAGE_VERSIONS.items():
        now, then = code_of(stage, package), known.get(stage, {"code": {}, "version": None})
        differing = sorted(name for name in {*now, *then["code"]} if now.get(name) != then["code"].get(name))
        if differing or then["version"] != version:
            found[stage] = differing
    return found


def told(stages: dict[str, list[str]]) -> str:
    """Return what a person has to decide on, and how."""
    lines = []
    for stage, names in stages.items():
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        lines += [
            f"code of the stage '{stage}' changed: {', '.join(names[:8]) or 'its version'}{more}",
            f"  its results stay the same, byte by byte:  python -m pipeline stage-code --keep {stage}",
            f"  its results change (all are made again):  python -m pipeline stage-code --raise {stage}",
        ]
    return "\n".join(lines)


def keep(stages: Iterable[str], package: Path = PACKAGE) -> None:
    """Record the present code of stages: it makes what the recorded code made."""
    path = package / RECORD.name
    record = read_json(path) if path.is_file() else {}
    for stage in (chosen := _checked(stages)):
        record[stage] = {"version": STAGE_VERSIONS[stage], "code": code_of(stage, package)}
    if chosen:
        write_json(path, record)


def raise_version(stages: Iterable[str], package: Path = PACKAGE) -> None:
    """Raise the numbers of stages in STAGE_VERSIONS, unless that was done by hand, and record their code."""
    path = package / "artifacts.py"
    known = read_json(package / RECORD.name) if (chosen := _checked(stages)) else {}
    for stage in chosen:
        if known.get(stage, {}).get("version") == STAGE_VERSIONS[stage]:
            STAGE_VERSIONS[stage] += 1
            text = re.sub(rf'("{stage}": )\d+,', rf"\g<1>{STAGE_VERSIONS[stage]},", path.read_text(), count=1)
            path.write_text(text)
    keep(chosen, package)


def _checked(stages: Iterable[str]) -> list[str]:
    chosen = list(STAGE_VERSIONS) if "all" in (given := list(stages)) else given
    unknown = set(chosen) - set(STAGE_VERSIONS)
    if unknown:
        raise UserError(
            f"stage-code: unknown stage '{min(unknown)}' (choices: all, {', '.join(STAGE_VERSIONS)})"
        )
    return chosen


def code_of(stage: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return the definitions that a stage's job reaches: "module:name" -> 12 hex digits of its hash."""
    waiting, found = [("pipeline.jobs", f"_{stage}")], {}
    while waiting:
        module, name = waiting.pop()
        if f"{module}:{name}" in found or module in LEFT_OUT:
            continue
        nodes = _module(module, package).definitions.get(name, [])
        texts = [text for node in nodes for text in _texts(node, _folder(module, package))]
        found[f"{module}:{name}"] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
        waiting += _reached(module, nodes, package)
    return {
        name: digest
        for name, digest in sorted(found.items())
        if not name.endswith(f":{BODY}") or digest != EMPTY
    }


EMPTY = hashlib.sha256(b"").hexdigest()[:12]


def _reached(module: str, nodes: Iterable[ast.AST], package: Path) -> Iterator[Place]:
    """Yield the places that definitions of a module lead to, its own body first."""
    known = _module(module, package)
    yield module, BODY
    local = {name: place for node in nodes for name, place in _imports(node, package)}
    outside = {**{name: (module, name) for name in known.definitions if name}, **known.imports}
    for node in nodes:
        bound = _bound(node)
        names = {name: place for name, place in outside.items() if name not in bound} | local
        for one in ast.walk(node):
            if isinstance(one, ast.Name) and one.id in names:
                yield from _resolved(names[one.id], package)
            elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in names:
                yield from _resolved(names[one.value.id], package, one.attr)


def _bound(node: ast.AST) -> set[str]:
    """Return the names that a definition's functions bind themselves: arguments and variables."""
    functions = [
        one for one in ast.walk(node) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    ]
    inside = [one for function in functions for one in ast.walk(function)]
    return {one.arg for one in inside if isinstance(one, ast.arg)} | {
        one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }


def _resolved(place: Place, package: Path, attribute: str = "") -> Iterator[Place]:
    """Yield where a name leads: through a package's ``__init__`` to the definition, or to a module's body."""
    module, name = place
    if name == BODY:  # a module
        yield (module, attribute or BODY)
        if attribute in _module(module, package).imports:
            yield from _resolved(_module(module, package).imports[attribute], package)
    elif name in _module(module, package).imports:
        yield module, BODY
        yield from _resolved(_module(module, package).imports[name], package)
    else:
        yield place


def _folder(module: str, package: Path) -> Path:
    path = package.parent.joinpath(*module.split("."))
    return path if path.is_dir() else path.parent


def _file(module: str, package: Path) -> Path | None:
    path = package.parent.joinpath(*module.split("."))
    return next((one for one in (path / "__init__.py", path.with_suffix(".py")) if one.is_file()), None)


@cache
def _module(name: str, package: Path) -> Module:
    path, module = _file(name, package), Module()
    if path is None:
        return module
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports |= dict(_imports(node, package))
        else:
            for defined in _names(node) or [BODY]:
                module.definitions.setdefault(defined, []).append(node)
    return module


def _names(node: ast.AST) -> list[str]:
    """Return what a statement of a module defines; none: it does something."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _imports(node: ast.AST, package: Path) -> Iterator[tuple[str, Place]]:
    """Yield the names that imports of ours within a node bind, and what they mean."""
    for one in ast.walk(node):
        if isinstance(one, ast.ImportFrom) and (one.module or "").split(".")[0] == package.name:
            for alias in one.names:
                inner = f"{one.module}.{alias.name}"
                place = (inner, BODY) if _file(inner, package) else (str(one.module), alias.name)
                yield alias.asname or alias.name, place


def _texts(node: ast.AST, folder: Path) -> Iterator[str]:
    """Yield what of a definition can change a result, and the files beside it that it names."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    yield _canonical(node)
    for one in ast.walk(node):
        if (
            isinstance(one, ast.Constant)
            and isinstance(one.value, str)
            and re.fullmatch(r"[\w.-]+\.j2", one.value)
        ):
            yield (folder / one.value).read_text(encoding="utf-8")


def _canonical(value: Any) -> str:
    """Return a syntax tree as text that is the same in every version of Python and in every formatting."""
    if isinstance(value, list):
        return f"[{','.join(_canonical(one) for one in value)}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    parts = []
    for name, part in ast.iter_fields(value):
        if name == "body" and isinstance(part, list) and part and _is_text(part[0]):
            part = part[1:]
        if name not in IGNORED and part not in (None, []):
            parts.append(f"{name}={_canonical(part)}")
    return f"{type(value).__name__}({','.join(parts)})"


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
