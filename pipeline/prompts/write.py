"""The prompts stage: raw rows to prompt rows."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file
from pipeline.data.rows import Record, records
from pipeline.params.templates import CHAT
from pipeline.prompts.rows import PromptRow, add_prompt

ROWS_IN_MEMORY = 4096


_ARROW = {str: pa.string(), str | None: pa.string(), list[str]: pa.list_(pa.string())}
SCHEMA = pa.schema([(name, _ARROW[kind]) for name, kind in get_type_hints(PromptRow).items()])


def write_prompts(
    sources: Sequence[Mapping[str, Any]],
    *,
    template: str,
    output: Path,
    limit: int | None,
    sample_seed: int,
    without: Mapping[str, Any] | None = None,
    ahead: Callable[[Record], str] | None = None,
) -> None:
    """Write the records and prompts of one or more raw files as Parquet; memory does not grow with them.

    Args:
        sources: for each raw file: dataset, split, path, answer_form; perhaps known_malformed, rows to leave out.
        template: as for ``build_prompt``.
        output: the file to write.
        limit: number of rows, drawn without replacement from all of them and kept in file order; None: all.
        sample_seed: of that draw.
        without: of a cleaned training set: under "rows" the ids that are left out (before the draw); the file says all
            of it in its metadata.
        ahead: gives a record the text that stands ahead of its prompt (worked examples); None: nothing.

    Raises:
        UserError: malformed rows (all are reported, the first five in the error), or no row at all.
    """
    left_out = {row for row, _ in without["rows"]} if without else set()
    total = sum(record["id"] not in left_out for record in raw_records(sources))
    if not total:
        raise UserError(f"{', '.join(str(source['path']) for source in sources)}: empty split, no rows")
    kept = None
    if limit is not None and limit < total:
        kept = set(random.Random(sample_seed).sample(range(total), limit))
    nullable = {"prompt"} if template == CHAT else set()
    schema = SCHEMA.with_metadata({"left_out": json.dumps(without)}) if without else SCHEMA
    with atomic_file(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        batch: list[PromptRow] = []
        remaining = (record for record in raw_records(sources) if record["id"] not in left_out)
        for number, record in enumerate(remaining):
            if kept is None or number in kept:
                row = add_prompt(record, template=template)
                if ahead:
                    row = {**row, "prompt": ahead(record) + (row["prompt"] or "")}
                batch.append(row)
            if len(batch) == ROWS_IN_MEMORY:
                writer.write_table(_checked(batch, schema, nullable))
                batch = []
        if batch:
            writer.write_table(_checked(batch, schema, nullable))


def _checked(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, nullable: Set[str]) -> pa.Table:
    """Return rows as a table; Arrow itself would fill what is missing, drop what is more and keep None."""
    for row in rows:
        missing = [name for name in schema.names if row.get(name) is None and name not in nullable]
        if missing or len(row) != len(schema.names):
            more = [name for name in row if name not in schema.names]
            raise ValueError(f"{row.get('id')}: not a record (missing: {missing}, unknown: {more})")
    return pa.Table.from_pylist(rows, schema=schema)


def raw_records(sources: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    """Yield the records of raw files; ``sources`` as for ``write_prompts``."""
    for source in sources:
        if source["answer_form"] is None:
            raise UserError(f"params/datasets/{source['dataset']}.yaml: answer_form is missing")
        with Path(source["path"]).open(encoding="utf-8", newline="\n") as lines:
            rows = (json.loads(line) for line in lines)
            named = {key: source[key] for key in ("split", "answer_form")}
            left_out = source.get("known_malformed", ())
            yield from records(rows, task=source["dataset"], known_malformed=left_out, **named)


def read_prompts(path: Path) -> list[PromptRow]:
    """Return the rows of a prompts file.

    Raises:
        UserError: the file is missing, is not Parquet, or holds other columns.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:  # an OSError where a column cannot be unpacked
        raise UserError(f"{path}: not a whole Parquet file ({error})") from None
    absent = [name for name in SCHEMA.names if name not in table.column_names]
    if absent:
        raise UserError(f"{path}: not a prompts file (no column '{absent[0]}')")
    rows: list[PromptRow] = table.to_pylist()
    return rows
