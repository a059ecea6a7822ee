"""Bring a dataset's rows from the first source that has them, checked, as canonical JSONL."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.first_download import record_download
from pipeline.core.io import atomic_file
from pipeline.data.http import Missing, cache_folder, download, mismatch
from pipeline.data.hub import hub_rows
from pipeline.data.originals import published_bytes
from pipeline.data.rows import parse


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
    found_rows = _first(described, name, data_root, lock)
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
        record_download(lock, f"dataset {card['dataset']}/{split}", {"rows": rows, "sha256": found})
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{name}: {rows} rows, sha256 {found}")


def _first(described: Mapping[str, Any], name: str, data_root: Path | None, lock: Path | None) -> list[Any]:
    missed, known = [], described.get("known_malformed", ())
    for source in described["sources"]:
        if source["kind"] == "world":
            from pipeline.data.world import rows

            keys = ("n", "world_seed", "seed")
            return list(rows(source["task"], source["split"], **{key: source[key] for key in keys}))
        try:
            if source["kind"] == "hub":
                return _checked(hub_rows(source, name=name, known_malformed=known, lock=lock), source, name)
            body = _local(source, data_root) if source["kind"] == "local" else _remote(source)
        except Missing as missing:
            missed.append(str(missing))
            continue
        at = f"{name}, {source['path'] or source['url']}"
        return parse(body, kind=source["format"], name=at, known_malformed=known)
    kinds = [source["kind"] for source in described["sources"]]
    fixes = ["snakemake --config data_root=DIR (or --data-root DIR) with that file"] * ("local" in kinds)
    fixes += ["HF_HOME of a machine that has it"] * ("hub" in kinds) or ["network"] * ("url" in kinds)
    raise UserError(f"{name}: not to be had ({'; '.join(missed)}); fix: {', or '.join(fixes)}")


def _checked(rows: list[Any], source: Mapping[str, Any], name: str) -> list[Any]:
    """Return the rows of the hub, if they make up the published file whose git blob id the source states."""
    wrong = mismatch(published_bytes(rows), _sums(source)) if source["git_blob"] else None
    if wrong:
        raise UserError(f"{name}, {source['repo_id']}, as the published file: {wrong}; it holds other data")
    return rows


def _sums(source: Mapping[str, Any]) -> dict[str, str]:
    return {key: source[key] for key in ("sha256", "git_blob") if source.get(key)}


def _local(source: Mapping[str, Any], data_root: Path | None) -> bytes:
    if data_root is None:
        raise Missing(f"{source['path']}: no data_root is given")
    path = data_root / str(source["path"])
    try:
        body = read_file(path)
    except FileNotFoundError:
        raise Missing(f"{path}: no such file") from None
    wrong = mismatch(body, _sums(source))
    if wrong:
        raise UserError(f"{path}: {wrong}; the file holds other data")
    return body


def read_file(path: Path) -> bytes:
    """Return a file's content, unpacked if its name ends in .gz.

    Raises:
        UserError: it is damaged.
    """
    body = path.read_bytes()
    try:
        return gzip.decompress(body) if path.suffix == ".gz" else body
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from None


def _remote(source: Mapping[str, Any]) -> bytes:
    return download(source["url"], sums=_sums(source), cache=cache_folder()).read_bytes()
