"""How two files of one name differ, in one line that a person can act on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import one_line

LONG = 80  # characters of a value that is shown


def difference(here: Path, again: Path) -> str | None:
    """Return how a file made again differs from the one here; None: their bytes are equal.

    JSON is told by its first key, JSONL and Parquet by their first row, tensors by how far they are apart, all else by
    the first byte.
    """
    one, other = here.read_bytes(), again.read_bytes()
    if one == other:
        return None
    told = {".json": _json, ".jsonl": _jsonl, ".parquet": _parquet, ".safetensors": _tensors}.get(here.suffix)
    try:
        found = told(here, again) if told else None
    except Exception as error:  # whatever a broken file does to its reader
        found = f"cannot be read ({type(error).__name__}: {one_line(error, LONG)})"
    at = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return found or f"byte {at} is the first that differs ({len(one)} bytes here, {len(other)} made again)"


def _json(here: Path, again: Path) -> str | None:
    return _told(list(_values(json.loads(here.read_text("utf-8")), json.loads(again.read_text("utf-8")))))


def _jsonl(here: Path, again: Path) -> str | None:
    return _rows(
        *(
            [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
            for path in (here, again)
        )
    )


def _parquet(here: Path, again: Path) -> str | None:
    import pyarrow.parquet as pq

    return _rows(*(pq.read_table(path).to_pylist() for path in (here, again)))


def _rows(one: list[Any], other: list[Any]) -> str | None:
    if len(one) != len(other):
        return f"{len(one)} rows here, {len(other)} made again"
    wrong = [(number, pair) for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    if not wrong:
        return None
    number, pair = wrong[0]
    return f"{len(wrong)} of {len(one)} rows differ; row {number}: {_told(list(_values(*pair)))}"


def _values(here: Any, again: Any, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(here, Mapping) and isinstance(again, Mapping):
        for key in dict.fromkeys([*here, *again]):
            inner = f"{above}.{key}" if above else str(key)
            yield from _values(here.get(key), again.get(key), inner)
    elif isinstance(here, list) and isinstance(again, list) and len(here) == len(again):
        for number, (one, other) in enumerate(zip(here, again, strict=True)):
            yield from _values(one, other, f"{above}[{number}]")
    elif here != again:
        yield above, here, again


def _told(found: list[tuple[str, Any, Any]]) -> str | None:
    if not found:
        return None
    key, here, again = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{key}: {_brief(here)} here, {_brief(again)} made again{more}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def _tensors(here: Path, again: Path) -> str | None:
    from safetensors.torch import load_file

    one, other = load_file(here), load_file(again)
    if {name: tensor.shape for name, tensor in one.items()} != {name: t.shape for name, t in other.items()}:
        return "other tensors, or of other shapes"
    apart = {name: float((one[name].double() - other[name].double()).abs().max()) for name in one}
    wrong = {name: far for name, far in apart.items() if far != 0}
    if not wrong:
        return None
    name = max(wrong, key=lambda one: wrong[one])
    return f"{len(wrong)} of {len(one)} tensors differ, by {wrong[name]:.3g} at most, in {name}"
