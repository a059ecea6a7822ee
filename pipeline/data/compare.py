"""Compares the rows of a rebuilt dataset with those of the published one: equal, different, and missing rows."""

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from pipeline.core.errors import UserError
from pipeline.core.numbers import gold_number
from pipeline.data.fetch import read_file
from pipeline.data.originals import to_instruction_rows
from pipeline.data.parsing import parse_rows
from pipeline.data.rows import RawFile, SourceRow, read_text

FIELDS = ("instruction", "input", "output", "answer")
# rows that a line of the printed comparison lists
LISTED_ROWS = 5

_NOT_LETTER_OR_DIGIT = re.compile(r"[^a-z0-9]+")


class DataComparison(TypedDict):
    """Common and different rows of two datasets; row numbers count from 0."""

    # numbers of rows
    rebuilt: int
    published: int
    # numbers of pairs of equal rows, and of those with equal row numbers
    equal: int
    in_place: int
    # (rebuilt row, published row, fields that differ)
    differ: list[tuple[int, int, list[str]]]
    # rows that only the published set has, and rows that only the rebuilt set has
    missing: list[int]
    extra: list[int]


# texts of the FIELDS; None: missing
_Texts = tuple[str | None, ...]


class _NumberedRow(NamedTuple):
    number: int
    texts: _Texts


def compare_rows(rebuilt: Sequence[SourceRow], published: Sequence[SourceRow]) -> DataComparison:
    """Compare two sets of rows in the instruction format; a different order is counted but is not a difference.

    First it pairs rows that are equal in all four fields. Of the remaining rows it pairs those whose questions
    (instruction and input) have equal letters and digits; repeated questions in their order.

    Raises:
        UserError: a field holds something other than text or a number.
    """
    rebuilt_rows, published_rows = _numbered_rows(rebuilt), _numbered_rows(published)
    in_place = sum(a.texts == b.texts for a, b in zip(rebuilt_rows, published_rows, strict=False))
    common = Counter(row.texts for row in rebuilt_rows) & Counter(row.texts for row in published_rows)
    unpaired: dict[str, deque[_NumberedRow]] = defaultdict(deque)
    for row in _remove_common(published_rows, common):
        unpaired[_question_key(row)].append(row)
    differ, extra = [], []
    for row in _remove_common(rebuilt_rows, common):
        if candidates := unpaired[_question_key(row)]:
            partner = candidates.popleft()
            differ.append((row.number, partner.number, _different_fields(row.texts, partner.texts)))
        else:
            extra.append(row.number)
    return {
        "rebuilt": len(rebuilt),
        "published": len(published),
        "equal": sum(common.values()),
        "in_place": in_place,
        "differ": differ,
        "missing": sorted(row.number for rows in unpaired.values() for row in rows),
        "extra": extra,
    }


def read_file_rows(path: Path) -> list[SourceRow]:
    """Return the rows of a .json, .jsonl or .csv file, also with .gz, in the instruction format.

    Raises:
        UserError: the file is missing or damaged, or has malformed rows.
    """
    try:
        body = read_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # under "jsonl" a JSON array is recognized too
    format = "csv" if path.name.removesuffix(".gz").endswith(".csv") else "jsonl"
    return to_instruction_rows(parse_rows(body, format=format, name=str(path)), name=str(path))


def read_raw_rows(files: Iterable[RawFile]) -> list[SourceRow]:
    """Return the rows of raw files in the instruction format, without the known malformed ones."""
    rows: list[SourceRow] = []
    for file in files:
        malformed, name = file.known_malformed, f"{file.dataset} ({file.split})"
        with file.path.open(encoding="utf-8", newline="\n") as lines:
            converted = to_instruction_rows(map(json.loads, lines), name=name, known_malformed=malformed)
        rows += [row for number, row in enumerate(converted) if number not in malformed]
    return rows


def format_data_comparison(comparison: DataComparison) -> str:
    """Return a comparison as text: every count with the first rows that it counts."""
    lines: list[tuple[str, str]] = [
        ("rows", f"{comparison['rebuilt']} rebuilt, {comparison['published']} published"),
        ("equal", f"{comparison['equal']} ({comparison['in_place']} of them in the same place)"),
        ("differ", f"{len(comparison['differ'])}"),
    ]
    pairs_by_fields: dict[str, list[str]] = defaultdict(list)
    for rebuilt_row, published_row, fields in comparison["differ"]:
        pairs_by_fields[", ".join(fields)].append(f"{rebuilt_row}/{published_row}")
    for fields_text, pairs in sorted(pairs_by_fields.items(), key=lambda item: -len(item[1])):
        lines.append(("", f"{len(pairs)} in {fields_text}: rows {_first_rows(pairs)}"))
    missing, extra = comparison["missing"], comparison["extra"]
    for name, owner, rows in (("missing", "published", missing), ("extra", "rebuilt", extra)):
        listed = f": rows {_first_rows(rows)}" if rows else ""
        lines.append((name, f"{len(rows)} only in the {owner} set{listed}"))
    return "\n".join(f"{name:8}{text}" for name, text in lines)


def _numbered_rows(rows: Iterable[SourceRow]) -> list[_NumberedRow]:
    return [
        _NumberedRow(number, tuple(_field_text(row, field, number) for field in FIELDS))
        for number, row in enumerate(rows)
    ]


def _field_text(row: SourceRow, field: str, number: int) -> str | None:
    try:
        text = read_text(row, field)
    except ValueError as error:
        raise UserError(f"row {number}: {error}") from None
    # a question without an input has none, however its file says so
    return "" if text is None and field == "input" else text


def _remove_common(rows: Iterable[_NumberedRow], common: Counter[_Texts]) -> list[_NumberedRow]:
    """Return the rows that are left when each of the ``common`` texts is removed as often as it is counted."""
    to_remove, remaining = common.copy(), []
    for row in rows:
        if to_remove[row.texts]:
            to_remove[row.texts] -= 1
        else:
            remaining.append(row)
    return remaining


def _question_key(row: _NumberedRow) -> str:
    instruction, context, *_ = row.texts
    return _NOT_LETTER_OR_DIGIT.sub("", f"{instruction or ''} {context or ''}".lower())


def _different_fields(rebuilt: _Texts, published: _Texts) -> list[str]:
    """Return the names of the fields that differ, each with a remark if the difference is a small one."""
    return [
        f"{field}{_remark(field, text, published_text)}"
        for field, text, published_text in zip(FIELDS, rebuilt, published, strict=True)
        if text != published_text
    ]


def _remark(field: str, text: str | None, published_text: str | None) -> str:
    if text is None or published_text is None:
        return " (missing in one)"
    if field == "answer" and _to_number(text) is not None and _to_number(text) == _to_number(published_text):
        return " (the same number)"
    if "".join(text.split()) == "".join(published_text.split()):
        return " (white space)"
    return " (empty in one)" if not (text and published_text) else ""


def _to_number(text: str | None) -> float | None:
    try:
        return gold_number(text or "")
    except ValueError:
        return None


def _first_rows(rows: Sequence[object]) -> str:
    listed = ", ".join(str(row) for row in rows[:LISTED_ROWS])
    return f"{listed}, ..." if len(rows) > LISTED_ROWS else listed
