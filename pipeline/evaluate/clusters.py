"""Which examples of a task belong together, by the rules that a dataset's card may name or by a field of its raw rows.

Two questions about one passage, or two wordings of one puzzle, contain less information than two independent examples.
"""

import difflib
import functools
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit.questions import KEYS, question_text, split_words
from pipeline.core.errors import UserError
from pipeline.data.rows import join_question
from pipeline.evaluate import stats
from pipeline.evaluate.parsing.options import find_option_texts
from pipeline.evaluate.scoring.rows import TaskScore
from pipeline.params.datasets import ClusterKey, ClusterRule

if TYPE_CHECKING:
    # loads pyarrow, which a command loads only when it runs
    from pipeline.prompts.rows import PromptRow

# The share of words, in order, that twins have in common: all pairs of WinoGrande's test set have more than 0.6 or, if they
# only share their options, less than 0.56.
TWIN_SIMILARITY = 0.6
# The share of their words that questions which are alike have in common, of all words of either. Lower shares join questions
# of BoolQ by their form alone ("is the movie ... based on a true story").
ALIKE_SIMILARITY = 0.6
# words that say nothing of what a question is about
_FREQUENT_WORDS = frozenset(
    (
        *(
            "a",
            "an",
            "and",
            "any",
            "are",
            "as",
            "at",
            "be",
            "by",
            "can",
            "did",
            "do",
            "does",
            "for",
            "from",
            "had",
        ),
        *(
            "has",
            "have",
            "how",
            "if",
            "in",
            "is",
            "it",
            "its",
            "many",
            "much",
            "not",
            "of",
            "on",
            "or",
            "that",
            "the",
        ),
        *("there", "this", "to", "was", "were", "what", "when", "who", "will", "with", "you"),
    )
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_mask_numbers = KEYS["number-masked"]


@functools.lru_cache(maxsize=64)
def read_clusters(
    key: ClusterKey | None, *, task: str, prompts: Path, raw: Path | None
) -> Mapping[str, Hashable] | None:
    """Return the cluster of each example of a task by its id; None where its card names none, or all are in one.

    Args:
        key: of the task's card.
        task: name of the card, for messages.
        prompts: the prompts file.
        raw: for a field, the file of raw rows, JSON lines.

    Raises:
        UserError: a file is missing, or a raw row lacks the field.
    """
    if key is None:
        return None
    # loads pyarrow, which a card without clusters does not need
    from pipeline.prompts.write import read_prompts

    examples = read_prompts(prompts)
    clusters = list_clusters(examples, key, task=task, raw=raw)
    by_id = {example["id"]: cluster for example, cluster in zip(examples, clusters, strict=True)}
    return by_id if are_clustered(clusters) else None


def select_clusters(clusters: Mapping[str, Hashable] | None, ids: Sequence[str]) -> list[Hashable] | None:
    """Return the clusters of some examples of a task; None where they count as independent."""
    keys = [clusters[id] for id in ids] if clusters else []
    return keys if are_clustered(keys) else None


def accuracy_interval(score: TaskScore, clusters: Mapping[str, Hashable] | None) -> tuple[float, float]:
    """Return the 95 % interval of a single run's accuracy on a task: that of its score file, unless examples belong together.

    Args:
        score: of the task.
        clusters: as ``read_clusters`` returns them.
    """
    keys = select_clusters(clusters, [item["id"] for item in score["items"]])
    if keys is None:
        return score["low"], score["high"]
    estimate = stats.estimate_accuracy([[float(item["correct"]) for item in score["items"]]], clusters=keys)
    return estimate["low"], estimate["high"]


def list_clusters(
    examples: Sequence["PromptRow"], key: ClusterKey, *, task: str, raw: Path | None
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


def cluster_by_rule(examples: Sequence["PromptRow"], rule: ClusterRule) -> list[Hashable]:
    """Return for each example the key of its cluster under a rule of ``pipeline.params.datasets.ClusterKey``."""
    if rule == "twins":
        return _cluster_twins(examples)
    if rule == "alike":
        return _cluster_alike([_cut_options(example) for example in examples])
    questions = [_cut_options(example) for example in examples]
    if rule == "opening":
        questions = [_cut_last_sentence(question) for question in questions]
    return [_mask_numbers(question) for question in questions]


def _cut_options(example: "PromptRow") -> str:
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


def _cluster_twins(examples: Sequence["PromptRow"]) -> list[Hashable]:
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


def _cluster_alike(questions: Sequence[str]) -> list[Hashable]:
    """Put questions together that share most of their words, and the chains of such questions."""
    words = [frozenset(split_words(question)) - _FREQUENT_WORDS for question in questions]
    clusters = list(range(len(questions)))
    # numbers of the earlier questions with a word: of all pairs, few have one in common
    holders: dict[str, list[int]] = {}
    for number, own in enumerate(words):
        near = {
            clusters[other]
            for other in {earlier for word in own for earlier in holders.get(word, [])}
            if len(own & words[other]) >= ALIKE_SIMILARITY * len(own | words[other])
        }
        clusters[number] = min(near, default=number)
        if len(near) > 1:
            clusters = [clusters[number] if cluster in near else cluster for cluster in clusters]
        for word in own:
            holders.setdefault(word, []).append(number)
    return list(clusters)


def _share_words(first: Sequence[str], second: Sequence[str]) -> bool:
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return matcher.ratio() >= TWIN_SIMILARITY


def _cluster_by_field(examples: Sequence["PromptRow"], field: str, *, task: str, raw: Path) -> list[Hashable]:
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
