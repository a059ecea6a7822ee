"""The fetch stage: the rows of a split from the first available source of its card, checked, as canonical JSONL."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import UserError
from pipeline.core.first_download import record_download
from pipeline.core.io import atomic_file
from pipeline.data.http import cache_folder, download_file
from pipeline.data.hub import read_hub_rows
from pipeline.data.originals import published_bytes
from pipeline.data.parsing import parse_rows
from pipeline.data.sources import (
    Checksums,
    HubSource,
    LocalSource,
    SourceUnavailable,
    SplitCard,
    UrlSource,
    WorldSource,
    checksum_mismatch,
)


def fetch_split(
    dataset: str,
    split: str,
    card: SplitCard,
    *,
    output: Path,
    data_root: Path | None,
    lock: Path | None = None,
    kind: Literal["dataset", "reference"] = "dataset",
) -> None:
    """Write one split of a dataset as JSON lines, with the rows in the order of the source.

    Args:
        dataset: name of the dataset card.
        split: "train", "validation" or "test".
        card: what the dataset card says about the split.
        output: the file to write.
        data_root: folder of local files, for sources of kind "local"; None: there are none.
        lock: file that records rows and checksum of a first download if the card states no checksum, and checks later
            downloads against the record; None: no record.
        kind: of the card; the "split" of a reference is the task that its answers are to.

    Raises:
        UserError: no source is available (it gives each cause), a malformed row, or a wrong number of rows or checksum.
    """
    name = f"{dataset} ({split})"
    rows = _rows_of_first_source(card, name, data_root=data_root, lock=lock)
    # written exactly so, because the checksums in the cards are of this text
    text = "".join(_json_line(row, number, name) for number, row in enumerate(rows))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    card_file = f"params/{kind}s/{dataset}.yaml"
    if card["rows"] is not None and len(rows) != card["rows"]:
        raise UserError(f"{name}: {len(rows)} rows, but {card_file} states {card['rows']}")
    if card["sha256"] and sha256 != card["sha256"]:
        raise UserError(
            f"{name}: sha256 of the rows is {sha256}, but {card_file} states {card['sha256']}; the source contains "
            "different data"
        )
    if not card["sha256"] and card["sources"][0]["kind"] != "world":
        record_download(lock, f"{kind} {dataset}/{split}", {"rows": len(rows), "sha256": sha256})
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)} rows, sha256 {sha256}")


def read_file(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in .gz.

    Raises:
        UserError: the compressed file is damaged.
    """
    body = path.read_bytes()
    try:
        return gzip.decompress(body) if path.suffix == ".gz" else body
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from None


def _json_line(row: object, number: int, name: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False) + "\n"
    except TypeError as error:
        # a date or bytes in a Parquet file
        raise UserError(f"{name}: row {number}: a value must be text or a number ({error})") from None


def _rows_of_first_source(
    card: SplitCard, name: str, *, data_root: Path | None, lock: Path | None
) -> Sequence[Any]:
    causes = []
    for source in card["sources"]:
        try:
            if source["kind"] == "hub":
                return _hub_rows(source, card, name, lock)
            if source["kind"] == "world":
                return _world_rows(source)
            location, body = (
                _read_local(source, data_root) if source["kind"] == "local" else _read_url(source)
            )
        except SourceUnavailable as unavailable:
            causes.append(str(unavailable))
            continue
        return parse_rows(
            body, format=source["format"], name=f"{name}, {location}", known_malformed=card["known_malformed"]
        )
    raise UserError(f"{name}: not available ({'; '.join(causes)}); fix: {', or '.join(_fixes(card))}")


def _fixes(card: SplitCard) -> list[str]:
    """Return what a user can do if none of the sources is available."""
    kinds = {source["kind"] for source in card["sources"]}
    fixes = []
    if "local" in kinds:
        fixes.append("snakemake --config data_root=DIR (or --data-root DIR) with that file")
    if "hub" in kinds:
        fixes.append("HF_HOME of a machine that has downloaded it")
    elif "url" in kinds:
        fixes.append("a network connection")
    return fixes


def _world_rows(source: WorldSource) -> Sequence[Any]:
    from pipeline.data.world import TEXT, draw_rows
    from pipeline.data.world.corpus import draw_texts

    if source["task"] == TEXT:
        return draw_texts(n=source["n"], world_seed=source["world_seed"], seed=source["seed"])
    return draw_rows(
        source["task"], source["split"], n=source["n"], world_seed=source["world_seed"], seed=source["seed"]
    )


def _hub_rows(source: HubSource, card: SplitCard, name: str, lock: Path | None) -> list[Any]:
    """Return rows from the hub, checked to be the published file if the card states its git blob id."""
    rows = read_hub_rows(source, name=name, known_malformed=card["known_malformed"], lock=lock)
    if source["git_blob"]:
        mismatch = checksum_mismatch(published_bytes(rows), Checksums(git_blob=source["git_blob"]))
        if mismatch:
            raise UserError(
                f"{name}, {source['repo_id']}, converted to the published file: {mismatch}; the source contains "
                "different data"
            )
    return rows


def _read_local(source: LocalSource, data_root: Path | None) -> tuple[str, bytes]:
    """Return the path of a local file, as in the card, and its decompressed content."""
    if data_root is None:
        raise SourceUnavailable(f"{source['path']}: data_root is not set")
    path = data_root / source["path"]
    try:
        body = read_file(path)
    except FileNotFoundError:
        raise SourceUnavailable(f"{path}: no such file") from None
    if mismatch := checksum_mismatch(body, Checksums(source["sha256"], source["git_blob"])):
        raise UserError(f"{path}: {mismatch}; the file contains different data")
    return source["path"], body


def _read_url(source: UrlSource) -> tuple[str, bytes]:
    """Return a URL and the content of its file."""
    stated = Checksums(source["sha256"], source["git_blob"])
    return source["url"], download_file(source["url"], stated=stated, cache=cache_folder()).read_bytes()
