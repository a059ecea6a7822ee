"""From a source's rows to records: instruction, input, response, answer, choices, answer form."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.errors import UserError

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
_WORKED = re.compile(r"<<[^>]*>>")


def records(
    rows: Iterable[Mapping[str, Any]], *, task: str, split: str, answer_form: str
) -> Iterator[dict[str, Any]]:
    """Yield a record a row; ``id`` is "task/split/row" with rows counted from 0.

    Raises:
        UserError: after the last row, if any was malformed: their number, and the first five with row and reason.
    """
    bad = []
    for number, row in enumerate(rows):
        try:
            yield {"id": f"{task}/{split}/{number}", "task": task, **_record(row, answer_form)}
        except ValueError as error:
            bad.append(f"row {number}: {error}")
    if bad:
        raise UserError(f"{task} ({split}): {len(bad)} malformed rows: {'; '.join(bad[:5])}")


def _record(row: Mapping[str, Any], answer_form: str) -> dict[str, Any]:
    if "question" in row and "instruction" not in row:
        row = worked_solution(row)
    for key in ("instruction", "answer"):
        if not str(row.get(key) if row.get(key) is not None else "").strip():
            raise ValueError(f"'{key}' is missing or empty")
    instruction, answer = str(row["instruction"]), str(row["answer"]).strip()
    answer_form = form_of(answer) if answer_form == "mixed" else answer_form
    choices = choices_of(instruction, answer_form)
    if answer_form == "number":
        try:
            float(answer.replace(",", ""))
        except ValueError:
            raise ValueError(f"answer '{answer}' is not a number") from None
    elif answer not in choices:
        raise ValueError(f"answer '{answer}' is none of {'/'.join(choices)}")
    return {
        "instruction": instruction,
        "input": str(row.get("input") or ""),
        "response": str(row.get("output") or ""),
        "answer": answer,
        "choices": list(choices),
        "answer_form": answer_form,
    }


def form_of(answer: str) -> str:
    """Return the answer form of a row of a mixed training set, by its answer: a letter, a label or else a number."""
    if answer in LETTERS:
        return "letter"
    if answer in FIXED_CHOICES["boolean"]:
        return "boolean"
    stem = answer.rstrip("12345")
    return stem if stem in ("solution", "answer", "ending", "option") and stem != answer else "number"


def worked_solution(row: Mapping[str, Any]) -> dict[str, str]:
    """Turn a GSM8K row (question; answer with <<calculations>> and "#### result") into instruction, output, answer.

    Source: openai/grade-school-math at commit 3101c7d50724.
    """
    steps, mark, result = str(row.get("answer", "")).rpartition("####")
    if not mark:
        raise ValueError("'answer' has no '####' before its result")
    result = result.strip().replace(",", "")
    output = f"{_WORKED.sub('', steps).strip()}\nThe answer is {result}."
    return {"instruction": str(row["question"]), "input": "", "output": output, "answer": result}


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
