"""The rows of a prompts file."""

from typing import NotRequired

from pipeline.data.passages import PASSAGE
from pipeline.data.rows import Record
from pipeline.params.templates import CHAT, build_prompt


class PromptRow(Record):
    """A row of a prompts file: a record and the prompt that a template makes of it.

    The prompt is None under the template "chat": the model's own tokenizer renders it, and a prompts file belongs to no
    single model.
    """

    prompt: str | None


class RenderedExample(Record):
    """A prompt row whose prompt and response are the exact texts to encode; ``render_example`` makes it.

    ``add_start`` is False if the prompt comes from a chat template, which writes the start token itself or not at all.
    """

    prompt: str
    add_start: NotRequired[bool]


def add_prompt(record: Record, *, template: str) -> PromptRow:
    """Return a record with its prompt: the text of a template without the response, None for the template "chat".

    A passage answers no question, so its prompt is empty under every template.
    """
    if record["answer_form"] == PASSAGE:
        return {**record, "prompt": ""}
    if template == CHAT:
        return {**record, "prompt": None}
    return {**record, "prompt": build_prompt(record["instruction"], record["input"], template=template)}


def user_message(row: Record) -> str:
    """Return a record as the message of a user to a chat model: the instruction, a blank line and the input."""
    return f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]


def question_row(instruction: str, input: str = "", *, template: str) -> PromptRow:
    """Return the prompt row of a question that belongs to no dataset: without id, response, answer and choices."""
    record: Record = {
        "id": "",
        "task": "",
        "instruction": instruction,
        "input": input,
        "response": "",
        "answer": "",
        "choices": [],
        "answer_form": "",
    }
    return add_prompt(record, template=template)
