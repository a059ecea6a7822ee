"""Detect changes of a stage's code that nobody has decided on.

``stage_code.json`` beside this file has, for each module and stage, a hash of the definitions that the stage's job
reaches: functions, classes and constants, followed by name from the stage's command on. Comments, docstrings, annotations
and formatting do not count. A different hash needs a decision: either the results stay the same (``keep``), or the
version of the stage goes up, and everything made from its artifacts gets a new path (``raise_version``).
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file, read_json
from pipeline.study.stages import PATH as STAGES_FILE
from pipeline.study.stages import read_stages

PACKAGE = Path(__file__).resolve().parents[1]
RECORD = "study/stage_code.json"
TABLE = f"study/{STAGES_FILE.name}"
# the module with a function run_STAGE for each stage
ENTRY = "pipeline.commands.run.stages"
# Modules that are not followed, because they make no result (messages, progress, environment) ...
NO_RESULTS = (
    "core.errors",
    "core.progress",
    "core.environment",
    "core.processes",
    "results.mlflow.client",
    "results.mlflow.runs",
)
# ... or because what they resolve is part of the fingerprint itself.
IDENTITY = (
    "study.grid",
    "study.datasets",
    "study.distillation.resolve",
    "study.evaluation.resolve",
    "study.distillation.teacher",
    "study.artifacts",
    "study.stages",
    "study.find",
    "study.figure",
    "params.reading",
    "params.base",
    "params.methods",
    "params.protocols",
    "params.architectures",
)
IGNORED_MODULES = frozenset(f"pipeline.{name}" for name in NO_RESULTS + IDENTITY)
# parts of a syntax tree that cannot change a result
IGNORED_FIELDS = {"annotation", "returns", "type_params", "type_comment", "kind", "ctx"}
# the path of a template or script, from the folder of the module that renders it
_TEMPLATE = r"[\w./-]+\.(?:j2|js)"
# stands for the statements that a module runs when it is imported, in place of the name of a definition
BODY = ""
# modules that a message lists
LISTED = 8

# module -> stage -> 12 hex digits
Hashes = dict[str, dict[str, str]]


class Definition(NamedTuple):
    """A name in a module: of a function, class or constant, or BODY."""

    module: str
    name: str


@dataclass
class Module:
    """The statements of a module by the name that they define, and what its imported names refer to."""

    definitions: dict[str, list[ast.AST]] = field(default_factory=dict)
    imports: dict[str, Definition] = field(default_factory=dict)


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
    """Return the message that lists the changed stages, with the commands that decide."""
    lines = []
    for stage, modules in changes.items():
        listed = ", ".join(modules[:LISTED]) or "its version"
        if len(modules) > LISTED:
            listed += f" and {len(modules) - LISTED} more"
        lines += [
            f"the code of stage '{stage}' changed: {listed}",
            f"  if its results stay the same, byte for byte:  python -m pipeline stage-code --keep {stage}",
            f"  if its results change (everything reruns):    python -m pipeline stage-code --raise {stage}",
        ]
    return "\n".join(lines)


def keep(stages: Iterable[str], package: Path = PACKAGE) -> None:
    """Record the current code of stages, whose results are those of the recorded code.

    Args:
        stages: their names; "all": every stage.
        package: the folder pipeline/.

    Raises:
        UserError: unknown stage.
    """
    names = _resolve_stage_names(stages, package)
    if not names:
        return
    path, table = package / RECORD, read_stages(package / TABLE)
    record = read_json(path) if path.is_file() else {"versions": {}, "code": {}}
    code: Hashes = {
        module: {stage: digest for stage, digest in hashes.items() if stage not in names}
        for module, hashes in record["code"].items()
    }
    for stage in names:
        record["versions"][stage] = table[stage].version
        for module, digest in module_hashes(stage, package).items():
            code.setdefault(module, {})[stage] = digest
    _write_record(path, record["versions"], code)


def raise_version(stages: Iterable[str], package: Path = PACKAGE) -> None:
    """Raise the versions of stages in the table, unless that was done by hand, and record their code.

    Args:
        stages: their names; "all": every stage.
        package: the folder pipeline/.

    Raises:
        UserError: unknown stage.
    """
    names = _resolve_stage_names(stages, package)
    if not names:
        return
    recorded = read_json(package / RECORD)["versions"]
    path = package / TABLE
    text = path.read_text(encoding="utf-8")
    for name, stage in read_stages(path).items():
        if name in names and recorded.get(name) == stage.version:
            # the text is edited, since writing YAML would drop its comments
            text = text.replace(
                f"{name}: {{version: {stage.version},", f"{name}: {{version: {stage.version + 1},"
            )
    path.write_text(text, encoding="utf-8")
    keep(names, package)


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


def _resolve_stage_names(stages: Iterable[str], package: Path) -> list[str]:
    choices, names = list(read_stages(package / TABLE)), list(stages)
    if "all" in names:
        return choices
    unknown = set(names) - set(choices)
    if unknown:
        raise UserError(f"stage-code: unknown stage '{min(unknown)}' (choices: all, {', '.join(choices)})")
    return names


def module_hashes(stage: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return, for each module that a stage's job reaches, a hash (12 hex digits) of the definitions that it reaches."""
    by_module: dict[str, list[str]] = {}
    for name, digest in sorted(definition_hashes(stage, package).items()):
        by_module.setdefault(name.partition(":")[0], []).append(f"{name} {digest}")
    return {module: _short_hash("\n".join(lines)) for module, lines in by_module.items()}


def definition_hashes(stage: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return the definitions that a stage's job reaches: "module:name" -> 12 hex digits of its hash."""
    queue, hashes = [Definition(ENTRY, f"run_{stage}")], {}
    while queue:
        definition = queue.pop()
        module, name = definition
        if f"{module}:{name}" in hashes or module in IGNORED_MODULES:
            continue
        statements = _read_module(module, package).definitions.get(name, [])
        texts = [text for node in statements for text in _code_texts(node, _folder_of(module, package))]
        hashes[f"{module}:{name}"] = _short_hash("\n".join(texts))
        queue += _references(module, statements, package)
    # a module without statements of its own has no body to hash
    return {
        name: digest
        for name, digest in sorted(hashes.items())
        if not name.endswith(f":{BODY}") or digest != EMPTY
    }


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


EMPTY = _short_hash("")


def _references(module: str, nodes: Iterable[ast.AST], package: Path) -> Iterator[Definition]:
    """Yield the definitions that statements of a module refer to, and the body of the module."""
    content = _read_module(module, package)
    yield Definition(module, BODY)
    # heavy libraries and the stages are imported inside functions
    imported_inside = {name: target for node in nodes for name, target in _imported_names(node, package)}
    defined_here = {name: Definition(module, name) for name in content.definitions if name}
    for node in nodes:
        # a name that a function binds itself is not that of the module
        bound = _bound_names(node)
        targets = {
            name: target for name, target in {**defined_here, **content.imports}.items() if name not in bound
        } | imported_inside
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in targets:
                yield from _resolve(targets[part.id], package)
            elif (
                isinstance(part, ast.Attribute)
                and isinstance(part.value, ast.Name)
                and part.value.id in targets
            ):
                yield from _resolve(targets[part.value.id], package, part.attr)


def _bound_names(node: ast.AST) -> set[str]:
    """Return the names that the functions of a statement bind themselves: arguments and variables."""
    functions = [
        part
        for part in ast.walk(node)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    ]
    parts = [part for function in functions for part in ast.walk(function)]
    arguments = {part.arg for part in parts if isinstance(part, ast.arg)}
    return arguments | {
        part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def _resolve(target: Definition, package: Path, attribute: str = "") -> Iterator[Definition]:
    """Yield where a name leads: through the ``__init__`` of a package to the definition, or to the body of a module."""
    module, name = target
    imports = _read_module(module, package).imports
    if name == BODY:
        # the name of a module, perhaps with an attribute
        yield Definition(module, attribute or BODY)
        if attribute in imports:
            yield from _resolve(imports[attribute], package)
    elif name in imports:
        yield Definition(module, BODY)
        yield from _resolve(imports[name], package)
    else:
        yield target


def _folder_of(module: str, package: Path) -> Path:
    path = package.parent.joinpath(*module.split("."))
    return path if path.is_dir() else path.parent


def _file_of(module: str, package: Path) -> Path | None:
    path = package.parent.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@cache
def _read_module(name: str, package: Path) -> Module:
    path, module = _file_of(name, package), Module()
    if path is None:
        return module
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports |= dict(_imported_names(node, package))
        else:
            for defined in _defined_names(node) or [BODY]:
                module.definitions.setdefault(defined, []).append(node)
    return module


def _defined_names(node: ast.AST) -> list[str]:
    """Return the names that a statement of a module defines; none if it is no definition."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _imported_names(node: ast.AST, package: Path) -> Iterator[tuple[str, Definition]]:
    """Yield the names that imports of this package within a statement bind, with what they refer to."""
    for part in ast.walk(node):
        if isinstance(part, ast.ImportFrom) and (part.module or "").split(".")[0] == package.name:
            for alias in part.names:
                submodule = f"{part.module}.{alias.name}"
                is_module = _file_of(submodule, package) is not None
                target = (
                    Definition(submodule, BODY) if is_module else Definition(str(part.module), alias.name)
                )
                yield alias.asname or alias.name, target


def _code_texts(node: ast.AST, folder: Path) -> Iterator[str]:
    """Yield what of a statement can change a result: its code, and the templates beside it that it refers to."""
    if _is_docstring(node):
        return
    yield _canonical_text(node)
    constants = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    for value in constants:
        # a template decides the bytes of a report as much as code does
        if isinstance(value, str) and re.fullmatch(_TEMPLATE, value):
            yield from _template_texts([value], folder)


def _template_texts(names: list[str], folder: Path) -> Iterator[str]:
    """Yield the texts of templates and of those that they name in turn, each once."""
    names = [*names]
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        names += [part for part in re.findall(rf'"({_TEMPLATE})"', text) if part not in names]
        yield text


def _canonical_text(value: Any) -> str:
    """Return a syntax tree as text that does not depend on the version of Python or on formatting."""
    if isinstance(value, list):
        return f"[{','.join(_canonical_text(item) for item in value)}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    parts = []
    for name, part in ast.iter_fields(value):
        if name == "body" and isinstance(part, list) and part and _is_docstring(part[0]):
            part = part[1:]
        # Empty fields do not count: later versions of Python add fields, and they are empty for older syntax.
        if name not in IGNORED_FIELDS and part not in (None, []):
            parts.append(f"{name}={_canonical_text(part)}")
    return f"{type(value).__name__}({','.join(parts)})"


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
