"""The files of a distilled training set: its rows, and what became of each answer of the teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from pipeline.data.rows import InstructionRow
from pipeline.evaluate.scoring.rows import Outcome

# What became of an answer. The first reason that applies counts, in this order.
Fate = Literal[
    "test question", "repeated question", "empty", "unfinished", "wrong", "unparsable", "duplicate", "row"
]


class DistilledRow(InstructionRow):
    """A row of a distilled set: the answer is the question's gold label, whatever the teacher wrote."""

    # id of the question
    source: str
    # number of the answer to it, from 0
    sample: int
    outcome: Outcome


class SourceYield(TypedDict):
    """What a teacher's answers to one source yield."""

    questions: int
    answers: int
    # of all answers, end tokens included
    tokens: int
    # each answer as the parser judges it, whatever becomes of it
    outcomes: dict[Outcome, int]
    # each answer once
    fates: dict[Fate, int]
    # questions that the set has a row of
    questions_with_rows: int


class DistillationYield(TypedDict):
    """Content of yield.json."""

    filter: Literal["right", "all"]
    parser: str
    # hash of the file of rows
    sha256: str
    sources: dict[str, SourceYield]


@dataclass(frozen=True)
class AnsweredSource:
    """A source with the teacher's answers.

    Attributes:
        dataset: its name.
        questions: its prompts file.
        answers: the file of ``TextAnswer`` rows, one for each question.
    """

    dataset: str
    questions: Path
    answers: Path
