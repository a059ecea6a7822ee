"""The answer of a side in a comparison: how it was parsed, and its text. Loads no file formats, as a command needs when it starts."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from pipeline.evaluate.generation.rows import TextAnswer, format_texts
from pipeline.evaluate.scoring.rows import JudgedItem, ParsedAnswer


class SideAnswer(TypedDict):
    """The answer of one of two sides; "text" is None under a likelihood protocol."""

    parsed: ParsedAnswer
    correct: bool
    text: str | None


def read_side_answer(item: JudgedItem, row: Mapping[str, Any]) -> SideAnswer:
    """Return an answer with its text and how it was parsed, from its item of a score file and its row of an answers file."""
    text = format_texts(cast(TextAnswer, row)) if "text" in row else None
    return {"parsed": item["parsed"], "correct": item["correct"], "text": text}
