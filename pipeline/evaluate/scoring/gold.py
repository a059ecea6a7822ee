"""Test sets that no model could answer, refused before a model is loaded and again when answers are scored."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.numbers import is_gold_number
from pipeline.data.options import LABELS
from pipeline.prompts.rows import PromptRow


def refuse_unanswerable(examples: Sequence[PromptRow], *, path: Path, form: str | None = None) -> None:
    """Refuse an empty test set, and a gold answer that no answer of its form could equal.

    Args:
        examples: rows of a prompts file.
        path: that file, for messages.
        form: the answer form; None: each row's own form, and unknown forms are left to the score stage.

    Raises:
        UserError: with the file, and the example with its gold answer and its choices.
    """
    if not examples:
        raise UserError(f"{path}: no examples to evaluate or score")
    for example in examples:
        row_form = form or example["answer_form"]
        if row_form in LABELS and not _is_possible_answer(example, row_form):
            choices = ", ".join(example["choices"]) or "any finite number"
            raise UserError(
                f"{path}: {example['id']}: gold label '{example['answer']}' is not a possible {row_form}"
                f" (choices: {choices})"
            )


def _is_possible_answer(example: PromptRow, form: str) -> bool:
    gold = example["answer"]
    if form == "number":
        return is_gold_number(gold)
    return gold in LABELS[form] and (not example["choices"] or gold in example["choices"])
