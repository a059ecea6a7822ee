"""Worked examples ahead of a question (k-shot), drawn for each question from a split of its own dataset."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.templates import build_prompt

GAP = "\n\n"


def worked_examples(
    records: Iterable[Mapping[str, Any]], *, count: int, seed: int, template: str, where: str
) -> Callable[[Mapping[str, Any]], str]:
    """Return what gives a record the text that stands ahead of its prompt: ``count`` examples, each with its response.

    Each question has a draw of its own, without replacement, by seed and the question's id alone: neither the order nor
    the number of questions counts. An example that asks the same, but for case, spaces and punctuation, is never drawn.

    Args:
        records: to draw from.
        count: examples for each question.
        seed: of the draws.
        template: in which they are written, the question's own.
        where: file of the records, for messages.

    Raises:
        UserError: (when called, for the last two) an example without a response; too few examples.
    """
    pool = [(_question(record), record) for record in records]
    copies = Counter(question for question, _ in pool)

    def ahead(record: Mapping[str, Any]) -> str:
        asked = _question(record)
        if len(pool) - copies[asked] < count:
            raise UserError(
                f"{where}: {len(pool) - copies[asked]} examples other than {record['id']}, fewer than the {count} shots"
            )
        drawn = random.Random(f"shots of {record['id']}, seed {seed}").sample(
            pool, min(len(pool), count + copies[asked])
        )
        others = [example for question, example in drawn if question != asked][:count]
        return "".join(_written(example, template) + GAP for example in others)

    return ahead


def _question(record: Mapping[str, Any]) -> str:
    return re.sub(r"[\W_]+", " ", f"{record['instruction']} {record['input']}".casefold()).strip()


def _written(example: Mapping[str, Any], template: str) -> str:
    response = example["response"].strip()
    if not response:
        raise UserError(f"{example['id']}: has no response to show as a worked example; set shots to 0")
    return build_prompt(example["instruction"], example["input"], template=template, response=response)
