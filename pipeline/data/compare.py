"""A rebuilt set beside the published one, row by row: what is equal, what differs and in what, what one of them lacks."""

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.data.fetch import read_file
from pipeline.data.rows import RawFile, instruction_rows, parse

Row = Mapping[str, Any]
Rows = list[tuple[int, tuple[str, ...]]]

FIELDS = ("instruction", "input", "output", "answer")
EXAMPLES = 5  # shown of each kind

_OTHER = re.compile(r"[^a-z0-9]+")


def compare(rebuilt: Sequence[Row], published: Sequence[Row]) -> dict[str, Any]:
    """Return what two sets of rows in the instruction format have in common; the order of rows is told, not required.

    Rows are paired that are equal in all four fields; of the others, those whose questions (instruction and input) have
    equal letters and digits, repeated ones in their order.

    Returns:
        {"rebuilt", "published": rows, "equal": pairs, "in_place": of these, with equal row numbers, "differ": pairs as
        [row, published row, fields that differ], "missing": rows of published alone, "extra": rows of rebuilt alone}.
        Rows are counted from 0.
    """
    ours, theirs = _fields(rebuilt), _fields(published)
    in_place = sum(one == other for (_, one), (_, other) in zip(ours, theirs, strict=False))
    common = Counter(row for _, row in ours) & Counter(row for _, row in theirs)
    ours, theirs = _without(ours, common), _without(theirs, common)
    waiting: dict[str, deque[tuple[int, tuple[str, ...]]]] = defaultdict(deque)
    for number, row in theirs:
        waiting[_question(row)].append((number, row))
    differ, extra = [], []
    for number, row in ours:
        if others := waiting[_question(row)]:
            place, other = others.popleft()
            differ.append([number, place, _differences(row, other)])
        else:
            extra.append(number)
    return {
        "rebuilt": len(rebuilt),
        "published": len(published),
        "equal": sum(common.values()),
        "in_place": in_place,
        "differ": differ,
        "missing": sorted(number for others in waiting.values() for number, _ in others),
        "extra": extra,
    }


def file_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a .json or .jsonl file (.gz too) in the instruction format.

    Raises:
        UserError: no such file, a damaged one, or malformed rows.
    """
    try:
        body = read_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    kind = "json" if body.lstrip()[:1] == b"[" else "jsonl"
    return instruction_rows(parse(body, kind=kind, name=str(path)), name=str(path))


def raw_rows(files: Iterable[RawFile]) -> list[dict[str, Any]]:
    """Return the rows of raw files in the instruction format."""
    rows: list[dict[str, Any]] = []
    for file in files:
        known, name = file.known_malformed, f"{file.dataset} ({file.split})"
        with file.path.open(encoding="utf-8", newline="\n") as lines:
            made = instruction_rows(map(json.loads, lines), name=name, known_malformed=known)
        rows += [row for number, row in enumerate(made) if number not in known]
    return rows


def table(told: Mapping[str, Any]) -> str:
    """Return the counts of ``compare`` for people, each with the first rows that it counts."""
    kinds = Counter(", ".join(fields) for _, _, fields in told["differ"])
    lines: list[tuple[str, str]] = [
        ("rows", f"{told['rebuilt']} rebuilt, {told['published']} published"),
        ("equal", f"{told['equal']} ({told['in_place']} of them in the same place)"),
        ("differ", f"{len(told['differ'])}"),
    ]
    for kind, count in kinds.most_common():
        pairs = [f"{one}/{other}" for one, other, fields in told["differ"] if ", ".join(fields) == kind]
        lines.append(("", f"{count} in {kind}: rows {_first(pairs)}"))
    for key, which in (("missing", "published"), ("extra", "rebuilt")):
        alone = f": rows {_first(told[key])}" if told[key] else ""
        lines.append((key, f"{len(told[key])} in the {which} set alone{alone}"))
    return "\n".join(f"{name:8}{text}" for name, text in lines)


def _fields(rows: Iterable[Row]) -> Rows:
    return [(number, tuple(str(row.get(key) or "") for key in FIELDS)) for number, row in enumerate(rows)]


def _without(rows: Rows, common: Counter[tuple[str, ...]]) -> Rows:
    left, kept = common.copy(), []
    for number, row in rows:
        if left[row]:
            left[row] -= 1
        else:
            kept.append((number, row))
    return kept


def _question(row: tuple[str, ...]) -> str:
    return _OTHER.sub("", f"{row[0]} {row[1]}".lower())


def _differences(one: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    return [
        f"{field}{_how(field, *texts)}"
        for field, *texts in zip(FIELDS, one, other, strict=True)
        if texts[0] != texts[1]
    ]


def _how(field: str, one: str, other: str) -> str:
    if field == "answer" and _number(one) is not None and _number(one) == _number(other):
        return " (the same number)"
    if "".join(one.split()) == "".join(other.split()):
        return " (white space)"
    return " (empty in one)" if not (one and other) else ""


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _first(rows: Sequence[Any]) -> str:
    return ", ".join(str(row) for row in rows[:EXAMPLES]) + (", ..." if len(rows) > EXAMPLES else "")
