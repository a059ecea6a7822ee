"""Files: atomic writes, JSON and JSONL, checksums."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.work_folder import folder_lock

RenameCallback = Callable[[Path, Path], None]
_rename_callback: ContextVar[RenameCallback | None] = ContextVar("rename_callback", default=None)


@contextmanager
def before_rename(callback: RenameCallback) -> Iterator[None]:
    """Within the block, call ``callback(source, target)`` before an atomic write renames its result to the final name."""
    token = _rename_callback.set(callback)
    try:
        yield
    finally:
        _rename_callback.reset(token)


def _notify(source: Path, target: Path) -> None:
    callback = _rename_callback.get()
    if callback is not None:
        callback(source, target)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it to ``target`` if the block succeeds.

    A killed or failing writer leaves ``target`` unchanged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        _notify(temporary, target)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``target``; rename it to ``target`` if the block succeeds.

    An existing ``target`` is replaced only then. The temporary directory is locked, where its file system has locks, so
    that ``prune`` can tell it from one that a killed writer has left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with ExitStack() as lock:
            with suppress(OSError):
                lock.enter_context(folder_lock(temporary))
            yield temporary
            replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Rename the directory ``source`` to ``target``, replacing an existing one.

    After a kill, ``target`` is the old directory, the new one, or missing, but never a mixture.
    """
    # A directory that is not empty cannot be replaced by a rename, so the old one moves out of the way.
    old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    _notify(source, target)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a value, with sorted keys and no white space; fingerprints are hashes of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_jsonl(path: Path) -> list[Any]:
    """Return the rows of a JSONL file, each of them a JSON object.

    Raises:
        UserError: the file is missing or empty, or a line is not a JSON object; it gives the file and the row (0-based).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if text in ("", "\n"):
        raise UserError(f"{path}: contains no rows")
    rows = []
    # not splitlines(), which also splits at U+2028 inside a text
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: row {number} is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number} is not a JSON object")
        rows.append(row)
    return rows


def read_complete_rows(path: Path) -> tuple[list[Any], int]:
    """Return the rows of a JSONL file to which a process appends, and its length in bytes without a torn line at its end.

    A kill leaves such a line, and nothing else that is invalid.

    Raises:
        UserError: another line is not a JSON object; it gives the file and the line (1-based).
    """
    rows, length = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}: line {number} is not a JSON object; delete this line, then run again"
                )
            rows.append(row)
            length += len(line)
    return rows, length


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line, with its keys in their order, atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Create a folder if it is missing, and check that results can be written to it.

    Raises:
        UserError: the folder is read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: read-only, results cannot be written; make it writable and start again")
