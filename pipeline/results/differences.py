"""How a reproduced file differs from the original, in one line that a reader can act on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import one_line

MAX_VALUE_CHARACTERS = 80


class ValueDifference(NamedTuple):
    """A value inside a file, by its key, that differs from the original."""

    key: str
    original: Any
    reproduced: Any


def describe_difference(original: Path, reproduced: Path) -> str | None:
    """Return how a reproduced file differs from the original; None if their bytes are equal.

    The line names the first key of JSON, the first row of JSONL and Parquet, the largest distance of tensors, and the
    first byte of other files.
    """
    before, after = original.read_bytes(), reproduced.read_bytes()
    if before == after:
        return None
    describe = {
        ".json": _describe_json,
        ".jsonl": _describe_jsonl,
        ".parquet": _describe_parquet,
        ".safetensors": _describe_tensors,
    }.get(original.suffix)
    try:
        difference = describe(original, reproduced) if describe else None
    # readers of a damaged file raise many kinds of exceptions
    except Exception as error:
        difference = f"cannot be read ({type(error).__name__}: {one_line(error, MAX_VALUE_CHARACTERS)})"
    # Equal values may be written with other bytes, such as other white space: still a difference.
    return difference or _describe_bytes(before, after)


def _describe_bytes(before: bytes, after: bytes) -> str:
    pairs = enumerate(zip(before, after, strict=False))
    # one file may be the beginning of the other; then they differ where the shorter one ends
    first = next((position for position, (old, new) in pairs if old != new), min(len(before), len(after)))
    return f"first differing byte: {first} (original {len(before)} bytes, reproduced {len(after)})"


def _describe_json(original: Path, reproduced: Path) -> str | None:
    before, after = (json.loads(path.read_text("utf-8")) for path in (original, reproduced))
    return _describe_values(before, after)


def _describe_jsonl(original: Path, reproduced: Path) -> str | None:
    return _describe_rows(*(_jsonl_rows(path) for path in (original, reproduced)))


def _jsonl_rows(path: Path) -> list[Any]:
    # splitlines() would also split at U+2028, which may be inside a string
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def _describe_parquet(original: Path, reproduced: Path) -> str | None:
    import pyarrow.parquet as pq

    return _describe_rows(*(pq.read_table(path).to_pylist() for path in (original, reproduced)))


def _describe_rows(before: list[Any], after: list[Any]) -> str | None:
    if len(before) != len(after):
        return f"original has {len(before)} rows, reproduced {len(after)}"
    pairs = enumerate(zip(before, after, strict=True))
    differing = [(number, old, new) for number, (old, new) in pairs if old != new]
    if not differing:
        return None
    number, old, new = differing[0]
    return f"{len(differing)} of {len(before)} rows differ; row {number}: {_describe_values(old, new)}"


def _describe_values(before: Any, after: Any) -> str | None:
    differences = list(_differing_values(before, after))
    if not differences:
        return None
    first = differences[0]
    remaining = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    values = f"original {_json_excerpt(first.original)}, reproduced {_json_excerpt(first.reproduced)}"
    return f"{first.key}: {values}{remaining}"


def _differing_values(before: Any, after: Any, parent: str = "") -> Iterator[ValueDifference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            inner = f"{parent}.{key}" if parent else str(key)
            yield from _differing_values(before.get(key), after.get(key), inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differing_values(old, new, f"{parent}[{index}]")
    elif before != after:
        yield ValueDifference(parent, before, after)


def _json_excerpt(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


def _describe_tensors(original: Path, reproduced: Path) -> str | None:
    from safetensors.torch import load_file

    before, after = load_file(original), load_file(reproduced)
    if {name: tensor.shape for name, tensor in before.items()} != {
        name: tensor.shape for name, tensor in after.items()
    }:
        return "tensors have other names or shapes"
    # in double precision, since a difference of two 16-bit numbers would be rounded
    distances = {
        name: float((tensor.double() - after[name].double()).abs().max()) for name, tensor in before.items()
    }
    differing = {name: distance for name, distance in distances.items() if distance != 0}
    if not differing:
        return None
    farthest = max(differing, key=lambda name: differing[name])
    return f"{len(differing)} of {len(before)} tensors differ, by at most {differing[farthest]:.3g}, in {farthest}"
