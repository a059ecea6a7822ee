"""From a source's rows to records: instruction, input, response, answer, choices, answer form."""

import json
import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from pipeline.core.errors import UserError
from pipeline.data.originals import instruction_row

LETTERS = tuple("ABCDE")
FIXED_CHOICES = {
    "number": (),
    "boolean": ("true", "false"),
    "solution": ("solution1", "solution2"),
    "ending": ("ending1", "ending2", "ending3", "ending4"),
    "option": ("option1", "option2"),
}
_FORMAT = re.compile(r"answer format\s*:\s*([a-z0-9/ ]+?)\s*$", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-E])\)|\b([A-E]) \)")


class Record(TypedDict):
    """An example of whatever dataset; ``response`` is what a model is trained to say, ``answer`` what is judged."""

    id: str  # "task/split/row", rows counted from 0 as in the source's file, whatever its format
    task: str
    instruction: str
    input: str
    response: str
    answer: str
    choices: list[str]
    answer_form: str


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


def records(
    rows: Iterable[Any], *, task: str, split: str, answer_form: str, known_malformed: Collection[int] = ()
) -> Iterator[Record]:
    """Yield a record a row.

    Args:
        rows: as ``fetch`` wrote them.
        task: the dataset's name.
        split: of the dataset.
        answer_form: of its card.
        known_malformed: rows that the card lists as malformed; they are left out.

    Raises:
        UserError: after the last row, if others were malformed (see ``refuse``), or one listed is not.
    """
    bad, sound = {}, []
    for number, row in enumerate(rows):
        try:
            made = _record(row, answer_form, id=f"{task}/{split}/{number}", task=task)
        except ValueError as error:
            if number not in known_malformed:
                bad[number] = str(error)
            continue
        if number in known_malformed:
            sound.append(number)
        else:
            yield made
    refuse(bad, name=f"{task} ({split})")
    if sound:
        raise UserError(
            f"{task} ({split}): known_malformed lists row {sound[0]}, which is well-formed; fix: params/datasets/{task}.yaml"
        )


def refuse(bad: Mapping[int, str], *, name: str) -> None:
    """Report malformed rows, if there are any: each in a line on stderr, the first five in the error.

    Raises:
        UserError: there are malformed rows; it says how many.
    """
    if not bad:
        return
    for number, reason in bad.items():
        print(f"{name}: row {number}: {reason}", file=sys.stderr)
    told = "; ".join(f"row {number}: {reason}" for number, reason in list(bad.items())[:5])
    raise UserError(
        f"{name}: {len(bad)} malformed rows: {told}{'; ...' if len(bad) > 5 else ''} "
        "(all are listed above; rows that the card's known_malformed lists are left out)"
    )


def instruction_rows(rows: Iterable[Any], *, name: str, known_malformed: Collection[int] = ()) -> list[Any]:
    """Return rows of any kind that ``pipeline.data.originals`` knows in the instruction format.

    Args:
        rows: as a source has them.
        name: of the set, for messages.
        known_malformed: rows, counted from 0, that stay as they are.

    Raises:
        UserError: rows that cannot be converted.
    """
    made, bad = [], {}
    for number, row in enumerate(rows):
        try:
            made.append(row if number in known_malformed else instruction_row(row))
        except ValueError as error:
            bad[number] = str(error)
    refuse(bad, name=name)
    return made


def parse(body: bytes, *, kind: str, name: str, known_malformed: Collection[int] = ()) -> list[Any]:
    """Return the rows of a JSON array ("json") or of JSON lines ("jsonl"); an array is known even where lines are said.

    Args:
        body: the file.
        kind: "json" or "jsonl".
        name: of the file, for messages.
        known_malformed: rows, counted from 0, that may be no JSON object: they stay as they are, JSON or (a line that is
            not) its text, so that the rows behind them keep their numbers.

    Raises:
        UserError: naming the file, that it is not of that kind or contains no rows, or the rows that are no JSON object.
    """
    try:
        text = body.decode("utf-8")
        kind = "json" if kind == "jsonl" and _is_array(text) else kind
        parts = json.loads(text) if kind == "json" else [line for line in text.split("\n") if line.strip()]
    except ValueError as error:
        hint = "; one object a line is format: jsonl" if kind == "json" and body.lstrip()[:1] == b"{" else ""
        raise UserError(f"{name}: not valid {kind} ({error}{hint})") from None
    if not isinstance(parts, list) or not parts:
        raise UserError(
            f"{name}: contains no rows" + ("" if isinstance(parts, list) else ": not a JSON array")
        )
    rows, bad = [], {}
    for number, part in enumerate(parts):
        row, reason = (part, _unfit(part)) if kind == "json" else _line(part)
        rows.append(row)
        if reason and number not in known_malformed:
            bad[number] = reason
    refuse(bad, name=name)
    return rows


def _is_array(text: str) -> bool:
    if not text.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def _line(text: str) -> tuple[Any, str | None]:
    try:
        row = json.loads(text)
    except ValueError as error:
        return text, f"is not valid JSON ({error})"
    return row, _unfit(row)


def _unfit(row: Any) -> str | None:
    if not isinstance(row, dict):
        return "is not a JSON object"
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None


def _record(row: Any, answer_form: str, *, id: str, task: str) -> Record:
    if not isinstance(row, Mapping):
        raise ValueError("is not a JSON object")
    row = instruction_row(row)
    free = answer_form == "text"
    instruction, answer = _text(row, "instruction"), _text(row, "output" if free else "answer").strip()
    if free:
        choices: tuple[str, ...] = ()
    else:
        answer_form = form_of(answer) if answer_form == "mixed" else answer_form
        choices = choices_of(instruction, answer_form)
        _check_answer(answer, answer_form, choices)
    return {
        "id": id,
        "task": task,
        "instruction": instruction,
        "input": str(row.get("input") or ""),
        "response": str(row.get("output") or ""),
        "answer": "" if free else answer,
        "choices": list(choices),
        "answer_form": answer_form,
    }


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None or not str(value).strip():
        raise ValueError(f"'{key}' is missing or empty")
    if isinstance(value, list | dict):
        raise ValueError(f"'{key}' is a {type(value).__name__}, not text")
    return str(value)


def _check_answer(answer: str, answer_form: str, choices: tuple[str, ...]) -> None:
    if answer_form == "number":
        try:
            finite = math.isfinite(float(answer.replace(",", "")))
        except ValueError:
            finite = False
        if not finite:
            raise ValueError(f"answer '{answer}' is not a number")
    elif answer not in choices:
        raise ValueError(f"answer '{answer}' is none of {'/'.join(choices)}")


def form_of(answer: str) -> str:
    """Return the answer form of a row of a mixed training set, by its answer: a letter, a label or else a number."""
    if answer in LETTERS:
        return "letter"
    if answer in FIXED_CHOICES["boolean"]:
        return "boolean"
    stem = answer.rstrip("12345")
    return stem if stem in ("solution", "answer", "ending", "option") and stem != answer else "number"


def choices_of(instruction: str, answer_form: str) -> tuple[str, ...]:
    """Return the labels that an instruction offers, in its order; none for numbers."""
    if answer_form in FIXED_CHOICES:
        return FIXED_CHOICES[answer_form]
    if answer_form == "letter":
        offered = {first or second for first, second in _LETTER.findall(instruction)}
        return tuple(letter for letter in LETTERS if letter in offered) or LETTERS
    found = _FORMAT.search(instruction)
    if not found:
        raise ValueError("the instruction states no 'Answer format:'")
    return tuple(label.strip() for label in found[1].lower().split("/"))
