"""What there is, by the names that people use: methods, models, and the runs of studies. Imports no torch."""

import difflib
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.architectures import LINEAR_MODULES
from pipeline.artifacts import STORE, stored
from pipeline.errors import UserError
from pipeline.lock import locked
from pipeline.model_cards import HubModel, Tokens
from pipeline.params import PARAMS, Entry, read_card, resolve_method
from pipeline.runs import Run
from pipeline.study import Study, default_study, load_study

LOCK = Path("params/lock.yaml")
TOKEN_RULES = {name: field.description for name, field in Tokens.model_fields.items()}
NARROWEST = 24  # characters of a column that wraps
_FINGERPRINT = re.compile(r"[0-9a-f]{12}")

Row = dict[str, Any]


def methods() -> list[Row]:
    """Return every method card: name, title, type (of the tuner), architectures (None: any), settings, training, source."""
    rows = []
    for name in _names("methods"):
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
    for name in _names("models"):
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
                    method: _targets(method, card.architecture) for method in _names("methods")
                },
                "source": card.source,
            }
        )
    return rows


def revision(card: HubModel) -> str | None:
    """Return the commit of a hub model: the lock file's of its first download, else the card's."""
    found = locked(LOCK, f"model {card.repo_id}@{card.revision or 'main'}") or {}
    known: str | None = found.get("revision", card.revision)
    return known


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


def find_run(named: str, study: str | None) -> tuple[Study, Run]:
    """Return the run that people name, and its study.

    Args:
        named: the fingerprint of its adapter, answers or scores, or the beginning of one; or its folders,
            MODEL/METHOD/TRAINSET/seedN or MODEL/bare, or their beginning; or the path of its results.
        study: of a file in params/study/; None: the default study or, where that has no such run, any other.

    Raises:
        UserError: no such run, or several; it names the nearest, or the choices.
    """
    searched = [load_study(study)]
    found = _matches(named, searched[0])
    if not found and study is None:
        for other in (name for name in _names("study") if name != searched[0].name):
            searched.append(load_study(other))
            found += _matches(named, searched[-1])
            if found and _FINGERPRINT.fullmatch(_last(named)):
                break  # the same in whatever study; reading all of them takes seconds
    unique: dict[str, tuple[Study, Run]] = {}
    for one, run in found:
        unique.setdefault(_fingerprints(one, run)[0], (one, run))
    if len(unique) == 1:
        return next(iter(unique.values()))
    if unique:
        raise UserError(f"run '{named}' could be {_choices(list(unique.values()))}; name one of them")
    raise _unknown(named, searched)


def made(study: Study, run: Run) -> tuple[Path, Path | None]:
    """Return the directories of a run's base and adapter.

    Raises:
        UserError: one is not there; it says which command makes it.
    """
    for artifact in (run.adapter, run.base):
        if artifact is not None and not artifact.path.exists():
            what = "trained" if artifact.stage == "train" else "made"
            raise UserError(f"{artifact.path}: not {what} yet; run: {make(study, artifact.path)}")
    return run.base.path, run.adapter.path if run.adapter else None


def made_results(study: Study, run: Run) -> tuple[Path, Path]:
    """Return a run's directory of answers and file of scores.

    Raises:
        UserError: one is not there; it says which command makes it.
    """
    answers, scores = study.answers(run).path, study.scores(run).path
    for path in (answers, scores):
        if not path.exists():
            raise UserError(f"{path}: not made yet; run: {make(study, scores)}")
    return answers, scores


def make(study: Study, path: Path) -> str:
    """Return the command that makes a result of a study."""
    return f"snakemake {path}" + ("" if study.name == default_study() else f" --config study={study.name}")


def decoding(study: Study, run: Run, protocol: str | None) -> dict[str, Any]:
    """Return how a run is asked under a protocol of its study, with the longest of its answers' lengths.

    Args:
        study: the run's.
        run: that is asked.
        protocol: one that has the model write; None: the study's first such.

    Raises:
        UserError: a protocol that the study does not use, or under which the model writes nothing.
    """
    writing = [task for task in study.tasks(run) if "max_new_tokens" in task["decoding"]]
    choices = list(dict.fromkeys(task["protocol"].name for task in writing))
    name = protocol or next(iter(choices), None)
    asked = [task["decoding"] for task in writing if task["protocol"].name == name]
    if not asked:
        raise UserError(
            f"protocol: study '{study.name}' has no '{name}' (choices: {', '.join(choices) or 'none that writes'})"
        )
    return dict(max(asked, key=lambda one: int(one["max_new_tokens"])))


def _matches(named: str, study: Study) -> list[tuple[Study, Run]]:
    """Return the runs of a study that ``named`` may mean: by whole fingerprint, else by folders, else by a beginning."""
    last, folders = _last(named), _folders(named.strip())
    if _FINGERPRINT.fullmatch(last):
        found = [run for run in study.runs if last in _fingerprints(study, run)]
    else:
        found = [run for run in study.runs if folders and _folders(run.label)[: len(folders)] == folders]
        if not found and len(folders) == 1:
            found = [run for run in study.runs if any(f.startswith(last) for f in _fingerprints(study, run))]
    return [(study, run) for run in found]


def _fingerprints(study: Study, run: Run) -> list[str]:
    """Return the fingerprints that name a run; the first is its own."""
    results = [study.answers(run).fingerprint, study.scores(run).fingerprint]
    return [run.adapter.fingerprint, *results] if run.adapter else results


def _last(named: str) -> str:
    """Return the last part of a path, where results have their fingerprint."""
    return named.strip().rstrip("/").removesuffix(".json").rpartition("/")[2]


def _folders(text: str) -> list[str]:
    """Return MODEL, METHOD, ... of a path, whatever stands before it in the results' folders."""
    return [part for part in re.sub(r"^.*\bresults/(adapters|answers|scores)/", "", text).split("/") if part]


def _choices(found: Sequence[tuple[Study, Run]]) -> str:
    told = [f"{run.label.strip('/')} ({_fingerprints(study, run)[0]})" for study, run in found]
    return ", ".join(told[:8]) + (f" and {len(told) - 8} more" if len(told) > 8 else "")


def _unknown(named: str, searched: Sequence[Study]) -> UserError:
    labels = [run.label.strip("/") for study in searched for run in study.runs]
    folders = _folders(named)
    beginnings = dict.fromkeys("/".join(label.split("/")[: len(folders)]) for label in labels)
    near = difflib.get_close_matches("/".join(folders), beginnings, n=3, cutoff=0.5)
    told = f"nearest: {', '.join(dict.fromkeys(near))}" if near else f"runs are named as {labels[-1]}"
    place = f"study '{searched[0].name}' has no" if len(searched) == 1 else "no study has a"
    left = _left(named)
    why = f"; {left} was made of params or code that have changed since" if left else ""
    return UserError(f"{place} run '{named}' ({told}){why}")


def _left(named: str) -> Path | None:
    """Return what lies on disk under a fingerprint that no study names any more."""
    last = _last(named)
    if not _FINGERPRINT.fullmatch(last):
        return None
    places = ((root, stage) for root in (Path(), STORE) for stage in ("train", "generate", "score"))
    found = (root / path for root, stage in places for path in stored(root, stage))
    return next((path for path in found if path.stem == last), None)


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in (PARAMS / kind).glob("*.yaml"))


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


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, wrapped: Sequence[str]) -> str:
    """Return rows under their columns; in a terminal the columns ``wrapped`` share the width that is left."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(columns) - 1)
        elastic = [columns.index(name) for name in wrapped]
        room -= sum(width for place, width in enumerate(widths) if place not in elastic)
        for count, place in enumerate(sorted(elastic, key=lambda place: widths[place])):
            widths[place] = min(widths[place], max(NARROWEST, room // (len(elastic) - count)))
            room -= widths[place]
    text = []
    for line in lines:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(line, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            text.append(
                "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
            )
    return "\n".join(text)
