"""params/lock.yaml: what a first download found, where a card states no commit or sum; later downloads are held to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from pipeline.core.errors import UserError, one_line
from pipeline.core.io import atomic_file


def locked(lock: Path | None, name: str) -> dict[str, Any] | None:
    """Return what the lock file holds of ``name``, None if nothing.

    Raises:
        UserError: the file is no YAML mapping.
    """
    if lock is None or not lock.exists():
        return None
    try:
        known = yaml.safe_load(lock.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{lock}: not valid YAML ({one_line(error)})") from None
    if not isinstance(known, dict):
        raise UserError(f"{lock}: must map names to what was found")
    return known.get(name)


def hold(lock: Path | None, name: str, found: Mapping[str, Any]) -> None:
    """Record what a first download found, or compare a later one with the record.

    Args:
        lock: the file; None: nothing is recorded.
        name: "model ORG/NAME@REVISION" or "dataset NAME/SPLIT".
        found: resolved commit, sums, rows.

    Raises:
        UserError: the record says otherwise; it names the first difference.
    """
    if lock is None:
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock.with_name(f".{lock.name}.lock")):
        known = locked(lock, name)
        if known is None:
            every = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}) if lock.exists() else {}
            with atomic_file(lock) as temporary:
                text = yaml.safe_dump({**every, name: dict(found)}, sort_keys=True, allow_unicode=True)
                temporary.write_text(text, encoding="utf-8")
        elif known != dict(found):
            key = next(key for key in sorted({*known, *found}) if known.get(key) != found.get(key))
            raise UserError(
                f"{name}: {key} is {_short(found.get(key))}, but {lock} recorded {_short(known.get(key))}; the source has "
                "changed: restore it, or delete that entry to take the new one (and `python -m pipeline prune` the old results)"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


LOCK = Path("params/lock.yaml")
