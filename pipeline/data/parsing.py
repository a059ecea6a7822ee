"""From the bytes of a JSON, JSONL or CSV file to its rows, and the report of malformed rows."""

import csv
import io
import json
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipeline.core.errors import UserError

# malformed rows that an error quotes
QUOTED_ROWS = 5


def report_malformed(reasons: Mapping[int, str], *, name: str) -> None:
    """Report malformed rows, if there are any: all of them on stderr, the first five in the error.

    Args:
        reasons: row number -> what is wrong with the row.
        name: of the dataset or file, for the messages.

    Raises:
        UserError: there are malformed rows; it gives their number.
    """
    if not reasons:
        return
    for number, reason in reasons.items():
        print(f"{name}: row {number}: {reason}", file=sys.stderr)
    quoted = "; ".join(f"row {number}: {reason}" for number, reason in list(reasons.items())[:QUOTED_ROWS])
    raise UserError(
        f"{name}: {len(reasons)} malformed rows: {quoted}{'; ...' if len(reasons) > QUOTED_ROWS else ''} "
        "(all are listed above; to leave rows out, list them in the card's known_malformed)"
    )


def parse_rows(body: bytes, *, format: str, name: str, known_malformed: Collection[int] = ()) -> list[Any]:
    """Return the rows of a file; a JSON array is recognized even under the format "jsonl".

    Cells of a CSV file are texts, and an empty cell is empty text. Commas separate them; the first line has the columns.

    Args:
        body: content of the file, in UTF-8; a byte order mark is skipped.
        format: "json", "jsonl" or "csv".
        name: of the file, for the messages.
        known_malformed: numbers of rows, counted from 0, that need not be JSON objects. They are returned as JSON, or as
            the text of the line if it is not JSON, so that the rows after them keep their numbers. In a CSV file they may
            have too few or too many cells.

    Raises:
        UserError: the file does not have this format or has no rows, or rows are malformed.
    """
    text = ""
    try:
        text = body.decode("utf-8-sig")
        format = "json" if format == "jsonl" and _is_array(text) else format
        parse = {"csv": _parse_csv, "json": _parse_array, "jsonl": _parse_lines}[format]
        rows_with_reasons = list(parse(text))
    except (ValueError, csv.Error) as error:
        is_object = format == "json" and text.lstrip().startswith("{")
        hint = "; for one object per line use format: jsonl" if is_object else ""
        raise UserError(f"{name}: not valid {format} ({error}{hint})") from None
    if not rows_with_reasons:
        raise UserError(f"{name}: contains no rows")
    malformed = {
        number: reason
        for number, (_, reason) in enumerate(rows_with_reasons)
        if reason and number not in known_malformed
    }
    report_malformed(malformed, name=name)
    return [row for row, _ in rows_with_reasons]


def _parse_csv(text: str) -> Iterable[tuple[Any, str | None]]:
    """Yield the rows of a CSV file, each with the reason why it is malformed.

    Raises:
        ValueError: the first line does not name each column once.
        csv.Error: a quote is not closed.
    """
    # The default refuses texts of more than 131,072 characters. The limit counts for the whole process, so it only rises.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = next(lines, [])
    if repeated := [column for column in columns if columns.count(column) > 1]:
        raise ValueError(f"the column '{repeated[0]}' is repeated")
    for cells in lines:
        # an empty line has no cells
        if cells:
            fits = len(cells) == len(columns)
            reason = None if fits else f"has {len(cells)} cells, but there are {len(columns)} columns"
            yield dict(zip(columns, cells, strict=False)), reason


def _parse_array(text: str) -> Iterable[tuple[Any, str | None]]:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("contains no rows: not a JSON array")
    return [(row, _malformed_reason(row)) for row in rows]


def _parse_lines(text: str) -> Iterable[tuple[Any, str | None]]:
    return map(_parse_line, _nonempty_lines(text))


def _nonempty_lines(text: str) -> list[str]:
    # not splitlines(), which also splits at U+2028 inside a text
    return [line for line in text.split("\n") if line.strip()]


def _is_array(text: str) -> bool:
    if not text.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def _parse_line(line: str) -> tuple[Any, str | None]:
    """Return the row of a line and, if it is malformed, the reason."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return line, f"is not valid JSON ({error})"
    return row, _malformed_reason(row)


def _malformed_reason(row: object) -> str | None:
    if not isinstance(row, dict):
        return "is not a JSON object"
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair, which is not a character"
    return None
