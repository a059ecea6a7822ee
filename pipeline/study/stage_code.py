"""Detect changes of a stage's code that nobody has decided on.

``stage_code.json`` beside this file holds, for each module and stage, one hash of the definitions that the stage's job
reaches: functions, classes and constants, followed by name from the stage's command on. Comments, docstrings, annotations
and formatting do not count. A different hash needs a decision: the results stay the same (``keep``), or the stage's
version goes up and everything made from it gets a new name (``raise_version``).
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file, read_json
from pipeline.study.stages import PATH as STAGES_FILE
from pipeline.study.stages import read_stages

PACKAGE = Path(__file__).resolve().parents[1]
RECORD = "study/stage_code.json"
TABLE = f"study/{STAGES_FILE.name}"
ENTRY = "pipeline.commands.run.stages"  # the module with a function run_STAGE for each stage
# Modules that are not followed: they make no result (messages, progress, environment) ...
NO_RESULTS = (
    "core.errors",
    "core.progress",
    "core.environment",
    "core.processes",
    "results.mlflow.client",
)
# ... or what they resolve is part of the fingerprint itself.
IDENTITY = (
    *(
        "study.grid",
        "study.artifacts",
        "study.stages",
        "study.find",
        "study.figure",
        "params.reading",
        "params.base",
    ),
    *("params.methods", "params.protocols", "params.architectures"),
)
LEFT_OUT = frozenset(f"pipeline.{name}" for name in NO_RESULTS + IDENTITY)
IGNORED = {"annotation", "returns", "type_params", "type_comment", "kind", "ctx"}
BODY = ""  # the name of the statements that a module runs when it is imported

Place = tuple[str, str]  # module, name in it
Hashes = dict[str, dict[str, str]]  # module -> stage -> 12 hex digits


@dataclass
class Module:
    """A module's definitions by name, and what its imported names refer to."""

    definitions: dict[str, list[ast.AST]] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)


def changed_stages(package: Path = PACKAGE) -> dict[str, list[str]]:
    """Return the stages whose code or version differs from the record, each with the modules that differ."""
    record = read_json(package / RECORD)
    changes = {}
    for name, stage in read_stages(package / TABLE).items():
        current, recorded = module_hashes(name, package), _hashes_of(record["code"], name)
        modules = sorted(m for m in {*current, *recorded} if current.get(m) != recorded.get(m))
        if modules or record["versions"].get(name) != stage.version:
            changes[name] = modules
    return changes


def decisions_needed(changes: dict[str, list[str]]) -> str:
    """Return the message that lists the changed stages and the commands that decide."""
    lines = []
    for stage, modules in changes.items():
        more = f" and {len(modules) - 8} more" if len(modules) > 8 else ""
        lines += [
            f"the code of stage '{stage}' changed: {', '.join(modules[:8]) or 'its version'}{more}",
            f"  if its results stay the same, byte for byte:  python -m pipeline stage-code --keep {stage}",
            f"  if its results change (everything reruns):    python -m pipeline stage-code --raise {stage}",
        ]
    return "\n".join(lines)


def keep(stages: Iterable[str], package: Path = PACKAGE) -> None:
    """Record the current code of stages: it makes what the recorded code made."""
    chosen = _chosen(stages, package)
    if not chosen:
        return
    path, table = package / RECORD, read_stages(package / TABLE)
    record = read_json(path) if path.is_file() else {"versions": {}, "code": {}}
    code: Hashes = {
        module: {stage: text for stage, text in hashes.items() if stage not in chosen}
        for module, hashes in record["code"].items()
    }
    for stage in chosen:
        record["versions"][stage] = table[stage].version
        for module, text in module_hashes(stage, package).items():
            code.setdefault(module, {})[stage] = text
    _write_record(path, record["versions"], code)


def raise_version(stages: Iterable[str], package: Path = PACKAGE) -> None:
    """Raise the versions of stages in the table, unless that was done by hand, and record their code."""
    chosen = _chosen(stages, package)
    versions = read_json(package / RECORD)["versions"] if chosen else {}
    path = package / TABLE
    text = path.read_text(encoding="utf-8")
    for name, stage in read_stages(path).items():
        if name in chosen and versions.get(name) == stage.version:
            text = text.replace(
                f"{name}: {{version: {stage.version},", f"{name}: {{version: {stage.version + 1},"
            )
    if chosen:
        path.write_text(text, encoding="utf-8")
    keep(chosen, package)


def _write_record(path: Path, versions: dict[str, int], code: Hashes) -> None:
    """Write the record with one line for each module, so that a change is one line of a diff."""
    lines = [
        f"  {json.dumps(module)}: {json.dumps(dict(sorted(code[module].items())))}"
        for module in sorted(code)
        if code[module]
    ]
    body = ",\n".join(lines)
    with atomic_file(path) as temporary:
        temporary.write_text(
            f'{{\n "versions": {json.dumps(versions)},\n "code": {{\n{body}\n }}\n}}\n', encoding="utf-8"
        )


def _hashes_of(code: Hashes, stage: str) -> dict[str, str]:
    return {module: hashes[stage] for module, hashes in code.items() if stage in hashes}


def _chosen(stages: Iterable[str], package: Path) -> list[str]:
    known, names = read_stages(package / TABLE), list(stages)
    chosen = list(known) if "all" in names else names
    unknown = set(chosen) - set(known)
    if unknown:
        raise UserError(f"stage-code: unknown stage '{min(unknown)}' (choices: all, {', '.join(known)})")
    return chosen


def module_hashes(stage: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return, for each module that a stage's job reaches, the hash (12 hex digits) of the definitions that it reaches."""
    by_module: dict[str, list[str]] = {}
    for name, text in sorted(definition_hashes(stage, package).items()):
        by_module.setdefault(name.partition(":")[0], []).append(f"{name} {text}")
    return {module: _short_hash("\n".join(lines)) for module, lines in by_module.items()}


def definition_hashes(stage: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return the definitions that a stage's job reaches: "module:name" -> 12 hex digits of its hash."""
    waiting, found = [(ENTRY, f"run_{stage}")], {}
    while waiting:
        module, name = waiting.pop()
        if f"{module}:{name}" in found or module in LEFT_OUT:
            continue
        nodes = _module(module, package).definitions.get(name, [])
        texts = [text for node in nodes for text in _texts(node, _folder(module, package))]
        found[f"{module}:{name}"] = _short_hash("\n".join(texts))
        waiting += _reached(module, nodes, package)
    return {
        name: digest
        for name, digest in sorted(found.items())
        if not name.endswith(f":{BODY}") or digest != EMPTY
    }


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


EMPTY = _short_hash("")


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
