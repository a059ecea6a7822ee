"""From raw rows to records: instruction, input, response, answer, choices, answer form."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from pipeline.core.errors import UserError
from pipeline.core.numbers import is_gold_number
from pipeline.data.options import LABELS, list_choices
from pipeline.data.originals import to_instruction_row
from pipeline.data.parsing import report_malformed
from pipeline.data.rows import Record, SourceRow, join_question, read_text


def make_records(
    rows: Iterable[object],
    *,
    task: str,
    split: str,
    answer_form: str,
    known_malformed: Collection[int] = (),
    for_training: bool = False,
) -> Iterator[Record]:
    """Yield one record per row.

    Args:
        rows: as ``fetch`` wrote them.
        task: name of the dataset.
        split: of the dataset.
        answer_form: of the dataset's card.
        known_malformed: numbers of rows that the card lists as malformed; they are left out.
        for_training: whether a row without ``output`` is malformed. A row with an empty one is not.

    Raises:
        UserError: after the last row, if no row has a column that the records need, if there are malformed rows that the
            card does not list, or if it lists a row that is well-formed.
    """
    malformed, well_formed = {}, []
    # in the order in which they appear
    columns: dict[str, None] = {}
    absent = {"instruction", "output"} if answer_form == "text" else {"instruction", "answer"}
    absent |= {"output"} if for_training else set()
    for number, row in enumerate(rows):
        try:
            if not isinstance(row, Mapping):
                raise ValueError("is not a JSON object")
            columns |= dict.fromkeys(map(str, row))
            converted = _convert(row, absent)
            record = _make_record(converted, answer_form, id=f"{task}/{split}/{number}", task=task)
            if for_training and read_text(converted, "output") is None:
                raise ValueError("'output' is missing")
        except ValueError as error:
            if number not in known_malformed:
                malformed[number] = str(error)
            continue
        if number in known_malformed:
            well_formed.append(number)
        else:
            yield record
    if malformed and absent:
        listed = ", ".join(f"'{column}'" for column in columns) or "none"
        raise UserError(
            f"{task} ({split}): no column '{min(absent)}' (the columns are: {listed}); rename the column that holds it"
        )
    report_malformed(malformed, name=f"{task} ({split})")
    if well_formed:
        raise UserError(
            f"{task} ({split}): known_malformed lists row {well_formed[0]}, which is well-formed; remove it from "
            f"params/datasets/{task}.yaml"
        )


def _convert(row: SourceRow, absent: set[str]) -> SourceRow:
    """Return a row in the instruction format, and remove its columns from those that no row has had so far."""
    try:
        converted = to_instruction_row(row)
    except ValueError:
        # its columns are those of a known dataset
        absent.clear()
        raise
    absent.difference_update(converted)
    return converted


def infer_answer_form(answer: str) -> str:
    """Return the answer form of a row of a mixed training set: a letter, a kind of label, or else a number."""
    if answer in LABELS["letter"]:
        return "letter"
    if answer in LABELS["boolean"]:
        return "boolean"
    stem = answer.rstrip("12345")
    return stem if stem in ("solution", "answer", "ending", "option") and stem != answer else "number"


def _make_record(row: SourceRow, answer_form: str, *, id: str, task: str) -> Record:
    free_text = answer_form == "text"
    instruction = _require_text(row, "instruction")
    answer = _require_text(row, "output" if free_text else "answer").strip()
    context, response = read_text(row, "input") or "", read_text(row, "output") or ""
    choices: tuple[str, ...] = ()
    if not free_text:
        question = join_question(instruction, context)
        is_mixed = answer_form == "mixed"
        answer_form = infer_answer_form(answer) if is_mixed else answer_form
        choices = _choices(question, answer_form, is_mixed=is_mixed)
        _check_answer(answer, answer_form, choices)
    return {
        "id": id,
        "task": task,
        "instruction": instruction,
        "input": context,
        "response": response,
        "answer": "" if free_text else answer,
        "choices": list(choices),
        "answer_form": answer_form,
    }


def _choices(question: str, answer_form: str, *, is_mixed: bool) -> tuple[str, ...]:
    """Return the labels that a question offers; none for letters of a mixed set whose options cannot be read.

    A mixed set is trained on, and training needs no choices.
    """
    try:
        return list_choices(question, answer_form)
    except ValueError:
        if is_mixed and answer_form == "letter":
            return ()
        raise


def _require_text(row: SourceRow, key: str) -> str:
    text = read_text(row, key)
    if text is None:
        raise ValueError(f"'{key}' is missing")
    if not text.strip():
        raise ValueError(f"'{key}' is empty")
    return text


def _check_answer(answer: str, answer_form: str, choices: tuple[str, ...]) -> None:
    if answer_form == "number":
        if not is_gold_number(answer):
            raise ValueError(f"answer '{answer}' is not a number")
    elif choices and answer not in choices:
        raise ValueError(f"answer '{answer}' is not one of {'/'.join(choices)}")
