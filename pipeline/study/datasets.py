"""What the cards of datasets contribute to the identity of raw rows and prompts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.params.datasets import Dataset, Split
from pipeline.params.reading import read_card
from pipeline.study.artifacts import Artifact

TRAIN = "train"


class Shots(NamedTuple):
    """Worked examples ahead of each question: their number, the split they are drawn from, and the seed."""

    number: int
    split: str
    seed: int


class PromptChoice(NamedTuple):
    """Which examples become prompts, and in which words.

    Attributes:
        dataset: a dataset, or a mixture of several.
        split: of the dataset.
        template: the words.
        limit: number of examples, drawn with ``sample_seed``; None: all.
        sample_seed: of that draw.
        shots: worked examples ahead of each question, if any.
    """

    dataset: str
    split: str
    template: str
    limit: int | None
    sample_seed: int
    shots: Shots | None


def resolve_prompts(choice: PromptChoice, *, raw: Callable[[str, str], Artifact]) -> Artifact:
    """Return the prompts of a choice.

    Args:
        choice: of examples and words.
        raw: returns the raw rows of a dataset and split.
    """
    card: Dataset = read_card("datasets", choice.dataset)
    parts = card.parts or [choice.dataset]
    inputs = {part: raw(part, choice.split) for part in parts}
    # Keys that are not needed are left out, so that a later option changes no earlier fingerprint.
    params: dict[str, object] = {"template": choice.template, "answer_forms": list_answer_forms(parts)}
    if choice.limit:
        params |= {"limit": choice.limit, "sample_seed": choice.sample_seed}
    params |= list_malformed_rows({part: choice.split for part in parts if not is_distilled(part)})
    params |= list_order(parts)
    params |= _list_passage_characters(parts)
    params |= _list_parts({part: choice.split for part in parts if not is_distilled(part)})
    # a distilled set is cleaned before it is written
    if card.without and choice.split == TRAIN and not card.distilled:
        tests = dict.fromkeys(card.without, "test")
        params["without"] = {
            "method": card.method,
            "answer_forms": list_answer_forms(tests),
            **list_malformed_rows(tests),
        }
        inputs |= {f"without {test}": raw(test, "test") for test in tests}
    if shots := choice.shots:
        malformed = list_malformed_rows({choice.dataset: shots.split})
        params["shots"] = {
            "count": shots.number,
            "seed": shots.seed,
            **malformed,
            **_list_parts({choice.dataset: shots.split}),
        }
        inputs["shots"] = raw(choice.dataset, shots.split)
    return Artifact("prompts", f"{choice.dataset}/{choice.split}-{choice.template}-", params, inputs)


def resolve_raw(dataset: str, split: str) -> Artifact:
    """Return the raw rows of a dataset's split, before any template.

    Raises:
        UserError: the dataset has no such split.
    """
    described = _split_of(dataset, split)
    # a checksum identifies the rows; without one, the sources do
    checksum = described.sha256 or next(
        (source.git_blob for source in described.sources if source.git_blob), None
    )
    sources = [source.model_dump() for source in described.sources]
    params = {
        "dataset": dataset,
        "split": split,
        "version": read_card("datasets", dataset).version,
        **({"sum": checksum} if checksum else {"sources": sources}),
    }
    return Artifact("fetch", f"{dataset}/{split}-", params)


def is_distilled(dataset: str) -> bool:
    """Return whether a teacher writes the rows of a dataset."""
    card: Dataset = read_card("datasets", dataset)
    return card.distilled is not None


def list_distilled(training_set: str) -> list[str]:
    """Return the distilled sets that a training set consists of."""
    card: Dataset = read_card("datasets", training_set)
    return [name for name in card.parts or [training_set] if is_distilled(name)]


def list_answer_forms(datasets: Iterable[str]) -> dict[str, str | None]:
    """Return the answer form of each dataset, None where its rows have no answer to score."""
    return {dataset: read_card("datasets", dataset).answer_form for dataset in datasets}


def list_malformed_rows(splits: dict[str, str]) -> dict[str, dict[str, list[int]]]:
    """Return the known malformed rows of datasets (dataset -> split) as a param.

    Without any there is no param, so that datasets that never had one keep their fingerprints.
    """
    rows = {dataset: _split_of(dataset, split).known_malformed for dataset, split in splits.items()}
    rows = {dataset: numbers for dataset, numbers in rows.items() if numbers}
    return {"known_malformed": rows} if rows else {}


# Sets that were mixed before their order was part of any identity: in these orders it is left out, so that their prompts
# and bases keep their names.
_UNMARKED_ORDERS = (
    (
        *("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande"),
        *("arc-easy", "arc-challenge", "openbookqa"),
    ),
    ("gsm8k", "commonsense-7"),
)


def list_order(datasets: Sequence[str]) -> dict[str, list[str]]:
    """Return the order in which sets are mixed as a param: inputs are a set, and the order of rows changes a training."""
    unmarked = any(
        [name for name in order if name in datasets] == list(datasets) for order in _UNMARKED_ORDERS
    )
    return {} if unmarked or len(datasets) < 2 else {"order": list(datasets)}


def _list_passage_characters(datasets: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the characters of a passage, by dataset, as a param; without any there is no param."""
    characters = {dataset: read_card("datasets", dataset).passage_characters for dataset in datasets}
    characters = {dataset: number for dataset, number in characters.items() if number}
    return {"passage_characters": characters} if characters else {}


def _list_parts(splits: Mapping[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the part of its source's rows that a split has, by dataset, as a param; without any there is no param."""
    parts = {dataset: _split_of(dataset, split).part for dataset, split in splits.items()}
    dumped = {dataset: part.model_dump() for dataset, part in parts.items() if part}
    return {"part": dumped} if dumped else {}


def _split_of(dataset: str, split: str) -> Split:
    card: Dataset = read_card("datasets", dataset)
    if split not in card.splits:
        choices = ", ".join(card.splits) or "none"
        raise UserError(f"params/datasets/{dataset}.yaml: no split '{split}' (it has: {choices})")
    return card.splits[split]
