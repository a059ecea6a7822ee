"""Rows of the audit: what it reads of a record, and the content of an audit file."""

from typing import TypedDict


class Question(TypedDict):
    """What the audit reads of a record (``pipeline.data.rows.Record``)."""

    id: str
    instruction: str
    input: str
    answer: str


class MethodMatches(TypedDict):
    """The test questions that one method finds in a training set."""

    n: int
    # ids of test rows, and for each the id of a matching training row
    ids: list[str]
    train_ids: list[str]


class MatchExample(TypedDict):
    """A test question beside the training question that gives it away."""

    method: str
    id: str
    question: str
    answer: str
    train_id: str
    train_question: str
    train_answer: str


class TestAudit(TypedDict):
    """What a training set contains of one test."""

    n_test: int
    # method -> its matches
    methods: dict[str, MethodMatches]
    # exact matches with different answers: (id of the test row, id of the training row)
    conflicts: list[list[str]]
    examples: list[MatchExample]


class Repeats(TypedDict):
    """Repeated questions within one set, as pairs (id of the row, id of the first row with this question)."""

    # number of rows of the set
    n: int
    repeats: list[list[str]]
    # those of the repeats that have a different answer
    conflicts: list[list[str]]


class RepeatsBySet(TypedDict):
    """Repeated questions within the training set and within each test."""

    train: Repeats
    # name of the test -> its repeats
    tests: dict[str, Repeats]


class SharedQuestions(TypedDict):
    """Questions that two tests share."""

    # the two names
    tests: list[str]
    n: int
    # for each question the id of its first row in either test
    ids: list[list[str]]


class RemovedRows(TypedDict):
    """The rows that a cleaned training set leaves out, because they match test questions."""

    method: str
    tests: list[str]
    # (id of the training row, id of a test row that it gives away)
    rows: list[list[str]]


class AuditFile(TypedDict):
    """Content of an audit file: one training set against all tests of a study."""

    train: str
    n_train: int
    # None: the training set is not cleaned
    left_out: RemovedRows | None
    # name of the test -> its part
    tests: dict[str, TestAudit]
    repeats: RepeatsBySet
    between: list[SharedQuestions]
