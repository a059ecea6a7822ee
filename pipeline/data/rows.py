"""The rows of datasets: as a source has them, in the instruction format, and as records."""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

# A row as its source has it: a JSON object with the columns that the authors chose.
SourceRow = Mapping[str, Any]


class InstructionRow(TypedDict):
    """A row in the format that LLM-Adapters publishes."""

    instruction: str
    input: str
    # None: the source has no solution
    output: str | None
    answer: str


class Record(TypedDict):
    """One example of a dataset."""

    # "task/split/row", with rows counted from 0 as in the file of the source, whatever its format
    id: str
    task: str
    instruction: str
    input: str
    # what a model is trained to generate
    response: str
    # the gold label; empty for free text
    answer: str
    choices: list[str]
    answer_form: str


def join_question(instruction: str, context: str) -> str:
    """Return the text in which a question lists its options: its instruction, and its input in a line of its own."""
    return f"{instruction}\n{context}" if context else instruction


class RowPart(NamedTuple):
    """The rows whose question has a hash in [start, end), where hashes are spread evenly over [0, 1).

    Rows with one question, whatever its case and white space, are in one part, so parts that do not overlap share none.
    """

    start: float
    end: float
    seed: int

    def holds(self, record: Record) -> bool:
        """Return whether a record belongs to the part."""
        question = " ".join(f"{record['instruction']} {record['input']}".casefold().split())
        digest = hashlib.sha256(f"{self.seed}\n{question}".encode()).digest()
        return self.start <= int.from_bytes(digest[:8]) / 2**64 < self.end


@dataclass(frozen=True)
class RawFile:
    """A raw file as ``fetch`` wrote it (JSON lines) and what its dataset card says about it."""

    dataset: str
    split: str
    path: Path
    # None: the card does not state it, so the file cannot be read
    answer_form: str | None
    # row numbers, counted from 0, that the card lists as malformed: they are left out
    known_malformed: Collection[int] = ()
    # of passages: rows are joined until they have that many characters; None: a row is a passage
    passage_characters: int | None = None
    # the other rows are left out; None: all rows
    part: RowPart | None = None


def read_text(row: SourceRow, key: str) -> str | None:
    """Return a field as text; None where it is missing: absent, null or NaN. Empty text is not missing.

    Example:
        >>> read_text({"output": 0}, "output"), read_text({"output": ""}, "output"), read_text({}, "output")
        ('0', '', None)

    Raises:
        ValueError: the field is neither text nor a finite number.
    """
    value = row.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"'{key}' is a {type(value).__name__}, not text or a number")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"'{key}' is {value}, not a finite number")
    return str(value)
