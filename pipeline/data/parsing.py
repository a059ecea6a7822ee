"""From the bytes of a JSON or JSONL file to its rows, and the report of malformed rows."""

import json
import sys
from collections.abc import Collection, Mapping
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
    """Return the rows of a JSON array or of JSON lines; an array is recognized even under the format "jsonl".

    Args:
        body: content of the file.
        format: "json" or "jsonl".
        name: of the file, for the messages.
        known_malformed: numbers of rows, counted from 0, that need not be JSON objects. They are returned as JSON, or as
            the text of the line if it is not JSON, so that the rows after them keep their numbers.

    Raises:
        UserError: the file does not have this format or has no rows, or rows are not JSON objects.
    """
    try:
        text = body.decode("utf-8")
        format = "json" if format == "jsonl" and _is_array(text) else format
        parts = json.loads(text) if format == "json" else _nonempty_lines(text)
    except ValueError as error:
        is_object = format == "json" and body.lstrip()[:1] == b"{"
        hint = "; for one object per line use format: jsonl" if is_object else ""
        raise UserError(f"{name}: not valid {format} ({error}{hint})") from None
    if not isinstance(parts, list):
        raise UserError(f"{name}: contains no rows: not a JSON array")
    if not parts:
        raise UserError(f"{name}: contains no rows")
    rows, malformed = [], {}
    for number, part in enumerate(parts):
        row, reason = (part, _malformed_reason(part)) if format == "json" else _parse_line(part)
        rows.append(row)
        if reason and number not in known_malformed:
            malformed[number] = reason
    report_malformed(malformed, name=name)
    return rows


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
