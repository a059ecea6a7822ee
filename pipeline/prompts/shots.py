"""Worked examples before a question (k-shot), drawn for each question from a split of its own dataset."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable

from pipeline.core.errors import UserError
from pipeline.data.rows import Record
from pipeline.params.templates import build_prompt

GAP = "\n\n"


def prepare_worked_examples(
    records: Iterable[Record], *, count: int, seed: int, template: str, where: str
) -> Callable[[Record], str]:
    """Return a function that returns the text before a record's prompt: ``count`` examples with their responses.

    Each question has its own draw, without replacement, that depends on the seed and the question's id alone: the order
    and number of the questions do not matter. A copy of the question itself (ignoring case, spaces and punctuation) is
    never drawn.

    Args:
        records: the pool to draw from.
        count: examples for each question.
        seed: seed of the draws.
        template: template of the examples, the same as the question's.
        where: file of the records, for error messages.

    Raises:
        UserError: the returned function raises it if a drawn example has no response or the pool is too small.
    """
    pool = [(_normalized_question(record), record) for record in records]
    copies = Counter(question for question, _ in pool)

    def worked_examples(record: Record) -> str:
        question = _normalized_question(record)
        if len(pool) - copies[question] < count:
            raise UserError(
                f"{where}: {len(pool) - copies[question]} examples other than {record['id']}, fewer than the "
                f"{count} shots"
            )
        # Draw as many more as the question has copies, so that enough examples remain without them. The seed is a
        # text: Python takes its sha512, which, unlike hash(), is the same in every process.
        draw = random.Random(f"shots of {record['id']}, seed {seed}").sample(
            pool, min(len(pool), count + copies[question])
        )
        examples = [example for text, example in draw if text != question][:count]
        return "".join(_worked_example(example, template) + GAP for example in examples)

    return worked_examples


def _normalized_question(record: Record) -> str:
    return re.sub(r"[\W_]+", " ", f"{record['instruction']} {record['input']}".casefold()).strip()


def _worked_example(example: Record, template: str) -> str:
    response = example["response"].strip()
    if not response:
        raise UserError(f"{example['id']}: no response to show as a worked example; set shots to 0")
    return build_prompt(example["instruction"], example["input"], template=template, response=response)
