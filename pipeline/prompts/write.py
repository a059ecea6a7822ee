"""The prompts stage: raw files to prompts files, and reading both."""

import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.rows import RemovedRows
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file
from pipeline.data.passages import PASSAGE, make_passages
from pipeline.data.records import make_records
from pipeline.data.rows import RawFile, Record
from pipeline.params.templates import CHAT
from pipeline.prompts.rows import PromptRow, add_prompt

ROWS_IN_MEMORY = 4096

_ARROW_TYPES = {str: pa.string(), str | None: pa.string(), list[str]: pa.list_(pa.string())}
# from the row's own type, so that file and type cannot differ
SCHEMA = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in get_type_hints(PromptRow).items()])


def write_prompts(
    raw_files: Sequence[RawFile],
    *,
    template: str,
    output: Path,
    limit: int | None,
    sample_seed: int,
    removed: RemovedRows | None = None,
    worked_examples: Callable[[Record], str] | None = None,
    for_training: bool = False,
) -> None:
    """Write the prompt rows of one or more raw files as Parquet, in bounded memory.

    Args:
        raw_files: the files to read, in this order.
        template: as for ``build_prompt``.
        output: the file to write.
        limit: number of rows, sampled without replacement and kept in file order; None: all rows.
        sample_seed: seed of that sample.
        removed: rows that a cleaned training set leaves out, before sampling. The file records them in its metadata.
        worked_examples: returns the text that precedes the prompt of a record; None: zero-shot.
        for_training: whether the rows are a training set, whose rows need responses. Empty ones are counted on stderr.

    Raises:
        UserError: malformed rows (all are reported, the first five in the error), no rows at all, or a training set in
            which all responses are empty.
    """
    removed_ids = {row for row, _ in removed["rows"]} if removed else set()
    records = read_raw_records(raw_files, for_training=for_training)
    # a first pass counts the rows, so that the sample needs no list of them
    total, empty = count_responses(record for record in records if record["id"] not in removed_ids)
    files = ", ".join(str(raw.path) for raw in raw_files)
    if not total:
        raise UserError(f"{files}: empty split, no rows")
    if for_training and empty:
        refuse_empty_responses(empty, total, where=files)
        print(f"{files}: {empty} of {total} responses are empty", file=sys.stderr)
    sample = None
    if limit is not None and limit < total:
        sample = set(random.Random(sample_seed).sample(range(total), limit))
    nullable = {"prompt"} if template == CHAT else set()
    schema = SCHEMA.with_metadata({"left_out": json.dumps(removed)}) if removed else SCHEMA
    with atomic_file(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        batch: list[PromptRow] = []
        remaining = (record for record in read_raw_records(raw_files) if record["id"] not in removed_ids)
        for number, record in enumerate(remaining):
            if sample is None or number in sample:
                row = add_prompt(record, template=template)
                if worked_examples:
                    row = {**row, "prompt": worked_examples(record) + (row["prompt"] or "")}
                batch.append(row)
            if len(batch) == ROWS_IN_MEMORY:
                writer.write_table(_prompts_table(batch, schema, nullable))
                batch = []
        if batch:
            writer.write_table(_prompts_table(batch, schema, nullable))


def count_responses(records: Iterable[Record]) -> tuple[int, int]:
    """Return the number of records, and of those with an empty response."""
    total = empty = 0
    for record in records:
        total += 1
        empty += not record["response"].strip()
    return total, empty


def refuse_empty_responses(empty: int, total: int, *, where: str) -> None:
    """Refuse a training set in which all responses are empty.

    Raises:
        UserError: with the number of rows.
    """
    if empty == total:
        raise UserError(
            f"{where}: all {total} responses are empty, so a model would learn to answer nothing; fill the column 'output'"
        )


def _prompts_table(rows: Sequence[PromptRow], schema: pa.Schema, nullable: Set[str]) -> pa.Table:
    """Return rows as a table; Arrow itself would accept missing keys, unknown keys and None."""
    for row in rows:
        missing = [name for name in schema.names if row.get(name) is None and name not in nullable]
        if missing or len(row) != len(schema.names):
            unknown = [name for name in row if name not in schema.names]
            raise ValueError(f"{row.get('id')}: not a record (missing: {missing}, unknown: {unknown})")
    return pa.Table.from_pylist(rows, schema=schema)


def read_raw_records(raw_files: Sequence[RawFile], *, for_training: bool = False) -> Iterator[Record]:
    """Yield the records of raw files, in order.

    Args:
        raw_files: the files to read.
        for_training: whether a row without a response is malformed.

    Raises:
        UserError: malformed rows, or a dataset card without answer_form.
    """
    for raw in raw_files:
        if raw.answer_form is None:
            raise UserError(f"params/datasets/{raw.dataset}.yaml: answer_form is missing")
        with raw.path.open(encoding="utf-8", newline="\n") as lines:
            rows = (json.loads(line) for line in lines)
            if raw.answer_form == PASSAGE:
                yield from make_passages(
                    rows,
                    task=raw.dataset,
                    split=raw.split,
                    characters=raw.passage_characters,
                    known_malformed=raw.known_malformed,
                )
                continue
            records = make_records(
                rows,
                task=raw.dataset,
                split=raw.split,
                answer_form=raw.answer_form,
                known_malformed=raw.known_malformed,
                for_training=for_training,
            )
            yield from (record for record in records if raw.part is None or raw.part.holds(record))


def read_prompts(path: Path) -> list[PromptRow]:
    """Return the rows of a prompts file.

    Raises:
        UserError: the file is missing, is not Parquet, or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # pyarrow raises OSError if it cannot decompress a column
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a complete Parquet file ({error})") from None
    absent = [name for name in SCHEMA.names if name not in table.column_names]
    if absent:
        raise UserError(f"{path}: not a prompts file (no column '{absent[0]}')")
    rows: list[PromptRow] = table.to_pylist()
    return rows
