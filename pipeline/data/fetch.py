"""Bring a dataset's rows from the first source that has them, checked, as canonical JSONL."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.http import Missing, cache_folder, download, mismatch
from pipeline.data.rows import refuse
from pipeline.errors import UserError
from pipeline.io import atomic_file
from pipeline.lock import hold


def fetch(
    card: Mapping[str, Any], split: str, *, output: Path, data_root: Path | None, lock: Path | None = None
) -> None:
    """Write one split of a dataset as JSONL: a source's rows in its order, ``json.dumps(row, ensure_ascii=False)`` a line.

    Args:
        card: a dataset card as plain values; ``splits[split]`` has rows, sha256 (of the file written) and sources.
        split: "train", "validation" or "test".
        output: the file to write.
        data_root: folder of local files, for sources of kind "local"; None: there are none.
        lock: file that records rows and sum where the card has none, and holds later downloads to them; None: no record.

    Raises:
        UserError: no source has it (names each and why), a malformed row, a wrong number of rows or a wrong sum.
    """
    described, name = card["splits"][split], f"{card['dataset']} ({split})"
    found_rows = _first(described["sources"], name, data_root, described.get("known_malformed", ()))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found_rows)
    rows = text.count("\n")
    if described["rows"] is not None and rows != described["rows"]:
        raise UserError(
            f"{name}: {rows} rows, but params/datasets/{card['dataset']}.yaml says {described['rows']}"
        )
    found = hashlib.sha256(text.encode()).hexdigest()
    if described["sha256"] and found != described["sha256"]:
        raise UserError(
            f"{name}: sha256 of the rows is {found}, but params/datasets/{card['dataset']}.yaml says "
            f"{described['sha256']}; the source holds other data"
        )
    if not described["sha256"] and described["sources"][0]["kind"] != "world":
        hold(lock, f"dataset {card['dataset']}/{split}", {"rows": rows, "sha256": found})
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{name}: {rows} rows, sha256 {found}")


def _first(
    sources: list[dict[str, Any]], name: str, data_root: Path | None, known: Collection[int]
) -> list[Any]:
    missed = []
    for source in sources:
        if source["kind"] == "world":
            from pipeline.world import rows

            keys = ("n", "world_seed", "seed")
            return list(rows(source["task"], source["split"], **{key: source[key] for key in keys}))
        try:
            body = _local(source, data_root) if source["kind"] == "local" else _remote(source)
        except Missing as missing:
            missed.append(str(missing))
            continue
        at = f"{name}, {source['path'] or source['url']}"
        return parse(body, kind=source["format"], name=at, known_malformed=known)
    raise UserError(
        f"{name}: not to be had ({'; '.join(missed)}); fix: --config data_root=DIR with that file"
    )


def _sums(source: Mapping[str, Any]) -> dict[str, str]:
    return {key: source[key] for key in ("sha256", "git_blob") if source.get(key)}


def _local(source: Mapping[str, Any], data_root: Path | None) -> bytes:
    if data_root is None:
        raise Missing(f"{source['path']}: no data_root is given")
    path = data_root / str(source["path"])
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        raise Missing(f"{path}: no such file") from None
    try:
        body = gzip.decompress(body) if path.suffix == ".gz" else body
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from None
    wrong = mismatch(body, _sums(source))
    if wrong:
        raise UserError(f"{path}: {wrong}; the file holds other data")
    return body


def _remote(source: Mapping[str, Any]) -> bytes:
    return download(source["url"], sums=_sums(source), cache=cache_folder()).read_bytes()


def parse(body: bytes, *, kind: str, name: str, known_malformed: Collection[int] = ()) -> list[Any]:
    """Return the rows of a JSON array ("json") or of JSON lines ("jsonl").

    Args:
        body: the file.
        kind: "json" or "jsonl".
        name: of the file, for messages.
        known_malformed: rows, counted from 0, that may be no JSON object: they stay as they are, JSON or (a line that is
            not) its text, so that the rows behind them keep their numbers.

    Raises:
        UserError: naming the file, that it is not of that kind or holds no rows, or the rows that are no JSON object.
    """
    try:
        text = body.decode("utf-8")
        parts = json.loads(text) if kind == "json" else [line for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise UserError(f"{name}: not valid {kind} ({error})") from None
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{name}: holds no rows" + ("" if isinstance(parts, list) else ": not a JSON array"))
    rows, bad = [], {}
    for number, part in enumerate(parts):
        row, reason = (part, _unfit(part)) if kind == "json" else _line(part)
        rows.append(row)
        if reason and number not in known_malformed:
            bad[number] = reason
    refuse(bad, name=name)
    return rows


def _line(text: str) -> tuple[Any, str | None]:
    try:
        row = json.loads(text)
    except ValueError as error:
        return text, f"is not valid JSON ({error})"
    return row, _unfit(row)


def _unfit(row: Any) -> str | None:
    if not isinstance(row, dict):
        return "is not a JSON object"
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None
