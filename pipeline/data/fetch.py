"""Bring a dataset's rows from the first source that has them, checked, as canonical JSONL."""

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.io import atomic_file
from pipeline.lock import hold

Row = dict[str, Any]


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
    text = "".join(
        json.dumps(row, ensure_ascii=False) + "\n" for row in _first(described["sources"], name, data_root)
    )
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


def _first(sources: list[dict[str, Any]], name: str, data_root: Path | None) -> list[Row]:
    missed = []
    for source in sources:
        if source["kind"] == "world":
            from pipeline.world import rows

            keys = ("n", "world_seed", "seed")
            return list(rows(source["task"], source["split"], **{key: source[key] for key in keys}))
        try:
            body = _local(source, data_root) if source["kind"] == "local" else _download(source)
        except _Missing as missing:
            missed.append(str(missing))
            continue
        return parse(body, kind=source["format"], name=f"{name}, {source['path'] or source['url']}")
    raise UserError(
        f"{name}: not to be had ({'; '.join(missed)}); fix: --config data_root=DIR with that file"
    )


class _Missing(Exception):
    """This source does not have it; the next may."""


def _local(source: Mapping[str, Any], data_root: Path | None) -> bytes:
    if data_root is None:
        raise _Missing(f"{source['path']}: no data_root is given")
    path = data_root / str(source["path"])
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        raise _Missing(f"{path}: no such file") from None
    if path.suffix != ".gz":
        return body
    try:
        return bytes(gzip.decompress(body))
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from None


def _download(source: Mapping[str, Any]) -> bytes:
    """Fetch a URL whole, with retries; a wrong sum is refused."""
    import pooch
    import requests

    url = source["url"]
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise _Missing(f"{url}: HF_HUB_OFFLINE is set")
    known = f"sha256:{source['sha256']}" if source["sha256"] else None
    with tempfile.TemporaryDirectory() as folder:
        downloads = pooch.create(
            folder, base_url="", registry={"file": known}, urls={"file": url}, retry_if_failed=3
        )
        try:
            body = Path(downloads.fetch("file", downloader=pooch.HTTPDownloader(timeout=60))).read_bytes()
        except (requests.RequestException, OSError) as error:
            raise _Missing(f"{url}: {' '.join(str(error).split())[:200]}") from None
        except ValueError as error:  # pooch's word for a wrong sum
            raise UserError(f"{url}: {' '.join(str(error).split())}") from None
    blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    if source["git_blob"] and blob != source["git_blob"]:
        raise UserError(
            f"{url}: git blob id is {blob}, the card says {source['git_blob']}; the source holds other data"
        )
    return bytes(body)


def parse(body: bytes, *, kind: str, name: str) -> list[Row]:
    """Return the rows of a JSON array ("json") or of JSON lines ("jsonl").

    Raises:
        UserError: naming the file and the first row that is no JSON object, or that there are none.
    """
    try:
        text = body.decode("utf-8")
        parts = json.loads(text) if kind == "json" else [line for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise UserError(f"{name}: not valid {kind} ({error})") from None
    rows = []
    for number, part in enumerate(parts):
        try:
            row = part if kind == "json" else json.loads(part)
        except ValueError as error:
            raise UserError(f"{name}: row {number} is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{name}: row {number} is not a JSON object")
        rows.append(row)
    if not rows:
        raise UserError(f"{name}: holds no rows")
    return rows
