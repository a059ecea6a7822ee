"""Test sets that no model could answer, refused before a model is loaded and again when answers are judged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.evaluate.scoring.extract import LABELS, gold_number


def refuse_unanswerable(
    examples: Sequence[Mapping[str, Any]], *, path: Path, form: str | None = None
) -> None:
    """Refuse an empty test set, and a gold answer that no answer of its form could equal.

    Args:
        examples: rows of a prompts file.
        path: that file, for messages.
        form: of the answers; None: what each row says, and a row of another form is left to the score stage.

    Raises:
        UserError: it names the file, and the example with its gold answer and its choices.
    """
    if not examples:
        raise UserError(f"{path}: no examples, so there is nothing to ask or to score")
    for example in examples:
        form_here = form or example["answer_form"]
        if form_here in LABELS and not _can_be_given(example, form_here):
            choices = ", ".join(example["choices"]) or "any finite number"
            raise UserError(
                f"{path}: {example['id']}: gold answer '{example['answer']}' is no {form_here}"
                f" that could be given (choices: {choices})"
            )


def _can_be_given(example: Mapping[str, Any], form: str) -> bool:
    gold = example["answer"]
    if form == "number":
        try:
            gold_number(gold)
        except ValueError:
            return False
        return True
    return gold in LABELS[form] and (not example["choices"] or gold in example["choices"])
