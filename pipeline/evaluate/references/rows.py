"""The rows of answers made elsewhere: as a source has them, as they are kept, and what was tied to what."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, NotRequired, TypedDict

from pipeline.core.errors import UserError
from pipeline.data.parsing import report_malformed
from pipeline.params.published.references import ReferenceFormat

# a row of a source: a JSON object with the keys that its authors chose
SourceRow = Mapping[str, Any]


class ReferenceAnswer(TypedDict):
    """An answer made elsewhere to one of our examples.

    "row" is its number in the source; "reading" is what its authors read in the text, None where they read nothing;
    "judgement" is theirs where they stored no reading: whether the answer is right.
    """

    id: str
    row: int
    question: str
    text: str
    cut: bool
    reading: NotRequired[str | None]
    judgement: NotRequired[bool | None]


class GoldDifference(TypedDict):
    """A gold answer of a source that is not ours; ours holds."""

    id: str
    row: int
    theirs: str
    ours: str


class TaskTies(TypedDict):
    """How the rows of a source were tied to the examples of a task.

    "tied" are examples with an answer. "unanswered" are ids of examples without one, "ambiguous" ids of those whose
    question has several answers, of which none is taken. "unknown" are numbers of rows whose question is none of ours,
    "repeated" of rows that say again what another one says.
    """

    rows: int
    examples: int
    tied: int
    unanswered: list[str]
    ambiguous: list[str]
    unknown: list[int]
    repeated: list[int]
    gold_differs: list[GoldDifference]


class SourceAnswer(NamedTuple):
    """What a row of a source says; ``gold``, ``reading`` and ``judgement`` are None where it does not say it."""

    row: int
    question: str
    text: str
    cut: bool
    gold: str | None
    reading: str | None
    judgement: bool | None

    @property
    def content(self) -> tuple[str, str | None, bool | None]:
        """What makes two answers to one question the same answer."""
        return self.text, self.reading, self.judgement


class _MissingKey(Exception):
    """A row does not have a key."""


def read_source(
    rows: Iterable[SourceRow], format: ReferenceFormat, *, name: str, known_malformed: Collection[int] = ()
) -> list[SourceAnswer]:
    """Return what the chosen rows of a source say, in their order.

    Args:
        rows: JSON objects.
        format: which key is what.
        name: of the reference and the task, for messages.
        known_malformed: numbers of rows that are left out.

    Raises:
        UserError: no row has a key that the format names (it lists the keys that there are), some rows lack one or have
            something else than text there, or no row has the values of ``choose``.
    """
    rows = list(rows)
    answers, malformed = [], {}
    missing: dict[str, int] = {}
    chosen = 0
    for number, row in enumerate(rows):
        if number in known_malformed:
            continue
        try:
            if not _has_values(row, format.choose):
                continue
            chosen += 1
            answers.append(_read_row(number, row, format))
        except _MissingKey as error:
            missing[str(error)] = missing.get(str(error), 0) + 1
            malformed[number] = f"has no '{error}'"
        except ValueError as error:
            malformed[number] = str(error)
    for path, count in missing.items():
        if count >= max(chosen, 1):
            listed = ", ".join(dict.fromkeys(key for row in rows for key in list_paths(row))) or "none"
            raise UserError(
                f"{name}: no row has '{path}' (the keys are: {listed}); correct the card's format"
            )
    if not chosen:
        values = ", ".join(f"{key} = {value}" for key, value in format.choose.items())
        raise UserError(f"{name}: no row has {values or 'an answer'}; correct the card's format: choose")
    report_malformed(malformed, name=name)
    return answers


def _has_values(row: SourceRow, values: Mapping[str, str | int]) -> bool:
    return all(str(_look_up(row, path)) == str(value) for path, value in values.items())


def _look_up(row: SourceRow, path: str) -> Any:
    """Return the value at a path such as ``resps.0.0``.

    Raises:
        _MissingKey: the row has no such place.
    """
    value: Any = row
    for part in path.split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _MissingKey(path) from None
    return value


def _read_row(number: int, row: SourceRow, format: ReferenceFormat) -> SourceAnswer:
    question, text = _look_up(row, format.question), _look_up(row, format.text)
    for path, value in ((format.question, question), (format.text, text)):
        if not isinstance(value, str):
            kind = (
                "a list of log-likelihoods or the like" if isinstance(value, list) else type(value).__name__
            )
            raise ValueError(f"'{path}' is {kind}, not text")
    if format.lm_eval and format.text == "resps.0.0" and len(responses := _look_up(row, "resps.0")) > 1:
        raise ValueError(f"has {len(responses)} responses to one question; name one, such as text: resps.0.0")
    gold = _read_plain(row, format.gold) if format.gold else None
    if gold is not None and format.gold_mark:
        _, mark, after = gold.rpartition(format.gold_mark)
        if not mark:
            raise ValueError(f"'{format.gold}' has no '{format.gold_mark}'")
        gold = after.strip()
    judgement = _look_up(row, format.correct) if format.correct and not format.reading else None
    if judgement not in (None, 0, 1):
        raise ValueError(f"'{format.correct}' is {judgement!r}, not true or false")
    return SourceAnswer(
        row=number,
        question=question,
        text=text,
        cut=bool(format.cut) and _has_values(row, format.cut),
        gold=gold,
        reading=_read_plain(row, format.reading) if format.reading else None,
        judgement=None if judgement is None else bool(judgement),
    )


def _read_plain(row: SourceRow, path: str) -> str | None:
    """Return a text or a number as text; None where it is null."""
    value = _look_up(row, path)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"'{path}' is a {type(value).__name__}, not text or a number")
    return str(value)


def list_paths(row: object, parent: str = "") -> list[str]:
    """Return the paths of a row's values, as a format names them; of a list the first element's."""
    if isinstance(row, Mapping):
        inner = row.items()
    elif isinstance(row, list) and row:
        inner = {"0": row[0]}.items()
    else:
        return [parent]
    return [path for key, value in inner for path in list_paths(value, f"{parent}.{key}".lstrip("."))]


def normalise_question(question: str) -> str:
    """Return a question in the form in which questions are compared: white space as one space, no mark at the end.

    Copies of GSM8K end some questions in a full stop and others in a question mark. Letters, case, digits and all other
    punctuation stay: an answer about 5 apples is no answer about 6.
    """
    return re.sub(r"\s+", " ", question).strip().rstrip(".?!").rstrip()
