"""From raw rows to passages: text without a question, of which a model's likelihood is measured."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from pipeline.data.parsing import report_malformed
from pipeline.data.rows import Record, read_text

# the answer form of a dataset of passages, and the column that holds them
PASSAGE, COLUMN = "passage", "text"


def make_passages(
    rows: Iterable[object],
    *,
    task: str,
    split: str,
    characters: int | None = None,
    known_malformed: Collection[int] = (),
) -> Iterator[Record]:
    """Yield a record for each passage: its text is the response, and there is no instruction.

    Blank rows begin no passage. A passage keeps white space, apart from that at its end.

    Args:
        rows: as ``fetch`` wrote them, with a column "text".
        task: name of the dataset.
        split: of the dataset.
        characters: join rows until a passage has that many; the last one may have fewer. None: each row is a passage.
        known_malformed: numbers of rows that the card lists as malformed; they are left out.

    Raises:
        UserError: after the last row, if there are malformed rows that the card does not list.
    """
    malformed: dict[int, str] = {}
    text, first = "", 0
    for number, row in enumerate(rows):
        try:
            part = _read_passage(row)
        except ValueError as error:
            if number not in known_malformed:
                malformed[number] = str(error)
            continue
        if not text.strip():
            text, first = "", number
        text += part
        if text.strip() and len(text) >= (characters or 1):
            yield _passage_record(text, id=f"{task}/{split}/{first}", task=task)
            text = ""
    if text.strip():
        yield _passage_record(text, id=f"{task}/{split}/{first}", task=task)
    report_malformed(malformed, name=f"{task} ({split})")


def _read_passage(row: object) -> str:
    if not isinstance(row, Mapping):
        raise ValueError("is not a JSON object")
    text = read_text(row, COLUMN)
    if text is None:
        raise ValueError(f"'{COLUMN}' is missing")
    return text


def _passage_record(text: str, *, id: str, task: str) -> Record:
    return {
        "id": id,
        "task": task,
        "instruction": "",
        "input": "",
        "response": text.rstrip(),
        "answer": "",
        "choices": [],
        "answer_form": PASSAGE,
    }
