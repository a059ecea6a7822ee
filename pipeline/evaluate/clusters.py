"""Which examples of a task belong together, by the rules that a dataset's card may name or by a field of its raw rows.

Two questions about one passage, or two wordings of one puzzle, contain less information than two independent examples.
"""

import difflib
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path

from pipeline.audit.questions import KEYS, question_text, split_words
from pipeline.core.errors import UserError
from pipeline.data.rows import join_question
from pipeline.evaluate.parsing.options import find_option_texts
from pipeline.params.datasets import ClusterKey, ClusterRule
from pipeline.prompts.rows import PromptRow

# The share of words, in order, that twins have in common: all pairs of WinoGrande's test set have more than 0.6 or, if they
# only share their options, less than 0.56.
TWIN_SIMILARITY = 0.6
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_mask_numbers = KEYS["number-masked"]


def list_clusters(
    examples: Sequence[PromptRow], key: ClusterKey, *, task: str, raw: Path | None
) -> list[Hashable]:
    """Return for each example the key of its cluster.

    Args:
        examples: of a task.
        key: the rule or the field.
        task: name of its card, for messages.
        raw: for a field, the file of raw rows, JSON lines.

    Raises:
        UserError: a raw row lacks the field.
    """
    if key.rule:
        return cluster_by_rule(examples, key.rule)
    return _cluster_by_field(examples, str(key.field), task=task, raw=Path(str(raw)))


def are_clustered(clusters: Sequence[Hashable]) -> bool:
    """Return whether a bootstrap can draw clusters; it cannot resample a single one, such as that of a few examples."""
    return len(set(clusters)) > 1


def cluster_by_rule(examples: Sequence[PromptRow], rule: ClusterRule) -> list[Hashable]:
    """Return for each example the key of its cluster under a rule of ``pipeline.params.datasets.ClusterKey``."""
    if rule == "twins":
        return _cluster_twins(examples)
    questions = [_cut_options(example) for example in examples]
    if rule == "opening":
        questions = [_cut_last_sentence(question) for question in questions]
    return [_mask_numbers(question) for question in questions]


def _cut_options(example: PromptRow) -> str:
    """Return a question without the options that it lists."""
    question = question_text(example)
    words = find_option_texts(question, example["choices"])
    first = next(iter(words.values()), "")
    # the label stands between the question and the first option
    return question[: question.rindex(first)] if first and set(words) != {"true", "false"} else question


def _cut_last_sentence(question: str) -> str:
    """Return the sentences before the last one; a single sentence stays."""
    sentences = _SENTENCE_END.split(question.strip())
    return " ".join(sentences[:-1]) or question


def _cluster_twins(examples: Sequence[PromptRow]) -> list[Hashable]:
    """Put examples together that have the same options and nearly the same words."""
    by_options: dict[Hashable, list[int]] = {}
    words = []
    clusters: list[Hashable] = list(range(len(examples)))
    for number, example in enumerate(examples):
        options = find_option_texts(
            join_question(example["instruction"], example["input"]), example["choices"]
        )
        words.append(split_words(_cut_options(example)))
        if not options:
            continue
        group = by_options.setdefault(frozenset(" ".join(split_words(text)) for text in options.values()), [])
        twins = (other for other in group if _share_words(words[other], words[number]))
        clusters[number] = clusters[next(twins, number)]
        group.append(number)
    return clusters


def _share_words(first: Sequence[str], second: Sequence[str]) -> bool:
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return matcher.ratio() >= TWIN_SIMILARITY


def _cluster_by_field(examples: Sequence[PromptRow], field: str, *, task: str, raw: Path) -> list[Hashable]:
    try:
        with raw.open(encoding="utf-8", newline="\n") as lines:
            rows = [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise UserError(
            f"{raw}: missing, but params/datasets/{task}.yaml: clusters reads it; pull or fetch it"
        ) from None
    clusters: list[Hashable] = []
    for example in examples:
        number = int(example["id"].rpartition("/")[2])
        value = rows[number].get(field)
        if value is None:
            raise UserError(
                f"{raw}: row {number} has no field '{field}', which params/datasets/{task}.yaml: clusters names"
            )
        clusters.append(json.dumps(value, sort_keys=True))
    return clusters
