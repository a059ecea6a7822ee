"""From raw rows to records: instruction, input, response, answer, choices, answer form."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from pipeline.core.errors import UserError
from pipeline.data.originals import to_instruction_row
from pipeline.data.parsing import report_malformed
from pipeline.data.rows import Record, SourceRow

LETTERS = tuple("ABCDE")
# answer form -> its choices, where they are the same for all questions
FIXED_CHOICES = {
    "number": (),
    "boolean": ("true", "false"),
    "solution": ("solution1", "solution2"),
    "ending": ("ending1", "ending2", "ending3", "ending4"),
    "option": ("option1", "option2"),
}
_ANSWER_FORMAT = re.compile(r"answer format\s*:\s*([a-z0-9/ ]+?)\s*$", re.IGNORECASE)
# "(A)", or "A )" as in some AQuA questions
_LETTER = re.compile(r"\(([A-E])\)|\b([A-E]) \)")


def make_records(
    rows: Iterable[object], *, task: str, split: str, answer_form: str, known_malformed: Collection[int] = ()
) -> Iterator[Record]:
    """Yield one record per row.

    Args:
        rows: as ``fetch`` wrote them.
        task: name of the dataset.
        split: of the dataset.
        answer_form: of the dataset's card.
        known_malformed: numbers of rows that the card lists as malformed; they are left out.

    Raises:
        UserError: after the last row, if there are malformed rows that the card does not list, or if it lists a row that
            is well-formed.
    """
    malformed, well_formed = {}, []
    for number, row in enumerate(rows):
        try:
            record = _make_record(row, answer_form, id=f"{task}/{split}/{number}", task=task)
        except ValueError as error:
            if number not in known_malformed:
                malformed[number] = str(error)
            continue
        if number in known_malformed:
            well_formed.append(number)
        else:
            yield record
    report_malformed(malformed, name=f"{task} ({split})")
    if well_formed:
        raise UserError(
            f"{task} ({split}): known_malformed lists row {well_formed[0]}, which is well-formed; remove it from "
            f"params/datasets/{task}.yaml"
        )


def infer_answer_form(answer: str) -> str:
    """Return the answer form of a row of a mixed training set: a letter, a kind of label, or else a number."""
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
    answer_format = _ANSWER_FORMAT.search(instruction)
    if not answer_format:
        raise ValueError("the instruction has no 'Answer format:'")
    return tuple(label.strip() for label in answer_format[1].lower().split("/"))


def _make_record(row: object, answer_form: str, *, id: str, task: str) -> Record:
    if not isinstance(row, Mapping):
        raise ValueError("is not a JSON object")
    row = to_instruction_row(row)
    free_text = answer_form == "text"
    instruction = _text_field(row, "instruction")
    answer = _text_field(row, "output" if free_text else "answer").strip()
    choices: tuple[str, ...] = ()
    if not free_text:
        answer_form = infer_answer_form(answer) if answer_form == "mixed" else answer_form
        choices = choices_of(instruction, answer_form)
        _check_answer(answer, answer_form, choices)
    return {
        "id": id,
        "task": task,
        "instruction": instruction,
        "input": str(row.get("input") or ""),
        "response": str(row.get("output") or ""),
        "answer": "" if free_text else answer,
        "choices": list(choices),
        "answer_form": answer_form,
    }


def _text_field(row: SourceRow, key: str) -> str:
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
        raise ValueError(f"answer '{answer}' is not one of {'/'.join(choices)}")
