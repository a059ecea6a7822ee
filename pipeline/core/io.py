"""Files: atomic writes, JSON and JSONL, checksums. Imports nothing of ours but the error class."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

Renaming = Callable[[Path, Path], None]
_told: ContextVar[Renaming | None] = ContextVar("told", default=None)


@contextmanager
def before_renaming(told: Renaming) -> Iterator[None]:
    """Within the block, call ``told(source, target)`` ahead of each rename that gives what was written its name."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def _tell(source: Path, target: Path) -> None:
    told = _told.get()
    if told is not None:
        told(source, target)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it to ``target`` when the block ends well.

    A killed or failing writer leaves ``target`` as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        _tell(temporary, target)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``target``; rename it to ``target`` when the block ends well.

    An earlier ``target`` is replaced only then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Rename the directory ``source`` to ``target``, in place of what stands there.

    A kill leaves ``target`` whole, as it was or as it is to be, or away.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    _tell(source, target)
    if target.exists():
        os.replace(target, aside)
    os.replace(source, target)
    shutil.rmtree(aside, ignore_errors=True)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no white space (what fingerprints are taken of)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file.

    Raises:
        UserError: if the file is missing or a line is not a JSON object; it names the file and the row (0-based).
    """
    try:
        lines = (
            path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        )  # splitlines() also cuts at U+2028
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if lines == [""]:
        raise UserError(f"{path}: holds no rows")
    rows = []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: row {number} is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number} is not a JSON object")
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, keys in the order given, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Refuse a folder that results could not be written to, ahead of their work; it is made if it is not there.

    Raises:
        UserError: naming the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"{folder}: results cannot be written here (read-only); make it writable and start again"
        )
