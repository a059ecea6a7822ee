"""params/lock.yaml: commits and checksums of first downloads, for sources whose card states none.

Later downloads must match the recorded ones.
"""

from pathlib import Path
from typing import TypedDict

import yaml

from pipeline.core.errors import UserError, one_line
from pipeline.core.io import atomic_file

LOCK = Path("params/lock.yaml")
# characters of a value that an error quotes
LONGEST_VALUE = 200


class Download(TypedDict, total=False):
    """An entry of the lock file: what a first download resolved to."""

    # commit of a model or of a dataset repository
    revision: str
    # of a model: name -> sha256
    files: dict[str, str]
    # of a split of a dataset: number of rows, and their sha256
    rows: int
    sha256: str


def recorded_download(lock: Path | None, name: str) -> Download | None:
    """Return the entry ``name`` of the lock file; None if there is no entry or no file.

    Raises:
        UserError: the file is not a YAML mapping.
    """
    return _read_lock(lock).get(name) if lock is not None else None


def record_download(lock: Path | None, name: str, download: Download) -> None:
    """Record a first download, or compare a later one with the record.

    Args:
        lock: the lock file; None: nothing is recorded or compared.
        name: "model ORG/NAME@REVISION", "dataset NAME/SPLIT" or "dataset files ORG/NAME@main".
        download: what the download resolved to.

    Raises:
        UserError: the download differs from the record; it gives the first difference.
    """
    if lock is None:
        return
    # imported here because commands that download nothing import this module
    from filelock import FileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    # jobs that run side by side write the same file
    with FileLock(lock.with_name(f".{lock.name}.lock")):
        entries = _read_lock(lock)
        recorded = entries.get(name)
        if recorded is None:
            with atomic_file(lock) as temporary:
                text = yaml.safe_dump({**entries, name: dict(download)}, sort_keys=True, allow_unicode=True)
                temporary.write_text(text, encoding="utf-8")
        elif recorded != download:
            raise UserError(_difference_to_record(recorded, download, name=name, lock=lock))


def _read_lock(lock: Path) -> dict[str, Download]:
    if not lock.exists():
        return {}
    try:
        entries = yaml.safe_load(lock.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{lock}: not valid YAML ({one_line(error)})") from None
    if not isinstance(entries, dict):
        raise UserError(f"{lock}: must be a mapping from names to downloads")
    return entries


def _difference_to_record(recorded: Download, download: Download, *, name: str, lock: Path) -> str:
    keys = sorted({*recorded, *download})
    key = next(key for key in keys if recorded.get(key) != download.get(key))
    return (
        f"{name}: {key} is {_shorten(download.get(key))}, but {lock} recorded {_shorten(recorded.get(key))}; the source "
        "has changed: restore it, or delete that entry to accept the new version (and "
        "`python -m pipeline prune` the old results)"
    )


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
