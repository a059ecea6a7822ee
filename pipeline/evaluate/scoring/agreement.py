"""Where two protocols take different answers from the same model, and the cause of each difference."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, cast, get_args

from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.generation.rows import TextAnswer, format_texts
from pipeline.evaluate.scoring.rows import JudgedItem, ParsedAnswer, ScoreFile
from pipeline.evaluate.scoring.score import parse_row
from pipeline.evaluate.scoring.sides import SideAnswer, read_side_answer
from pipeline.params.protocols import Protocol
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts

# Every changed answer has exactly one cause: the two parsers read the same text differently; the texts differ, and
# either parser would show it; both; or at least one protocol takes the most likely choice and parses no text.
Cause = Literal["parser", "text", "text and parser", "likelihood"]
CAUSES: tuple[Cause, ...] = get_args(Cause)

# Fields of a protocol's card that can change the generated text, and what they are called in tables.
_SETTINGS = {
    "template": "prompt",
    "num_beams": "beams",
    "max_new_tokens": "token limit",
    "padding": "padding",
    "shots": "shots",
    "first_stage": "second stage",
    "sampling": "sampling",
    "continuation": "continuation",
    "unconditional": "neutral prompt",
    "headline": "normalisation",
}


class RunFiles(NamedTuple):
    """The score file of a run, the directory of its answers, and that of its second stages if it has any."""

    scores: Path
    answers: Path
    second_answers: Path | None = None

    def answers_file(self, task: str, protocol: Protocol) -> Path:
        """Return the file of the answers to a task under a protocol."""
        folder = self.second_answers if protocol.first_stage else self.answers
        assert folder is not None
        return folder / f"{task}-{protocol.name}.jsonl"


class ChangedAnswer(TypedDict):
    """An example whose answer differs between two protocols; "run" is the run's score file."""

    run: Path
    id: str
    gold: str
    cause: Cause
    first: SideAnswer
    second: SideAnswer


class Agreement(TypedDict):
    """How a task's answers change from one protocol to another, all runs together.

    "n" counts answers, "changed" those that differ, "causes" those of each cause. "unparsed" is [answers that only the
    first protocol cannot parse, that only the second cannot parse]; "gained" and "lost" are right under the second or
    the first protocol only.
    """

    protocols: list[str]
    differ_in: list[str]
    n: int
    changes: list[ChangedAnswer]
    changed: int
    causes: dict[Cause, int]
    unparsed: list[int]
    gained: int
    lost: int


@dataclass(frozen=True)
class _Side:
    """What a run has of a task under one protocol; lists are in the order of the examples."""

    card: Protocol
    answer_form: str
    items: Sequence[JudgedItem]
    rows: Sequence[Mapping[str, Any]]
    examples: Sequence[PromptRow]


def list_setting_differences(first: Protocol, second: Protocol) -> list[str]:
    """Return in words how two protocols differ; if just one of them uses likelihoods, that alone."""
    if "likelihood" in {first.parser, second.parser} and first.parser != second.parser:
        return ["likelihood against text"]
    words = [word for field, word in _SETTINGS.items() if getattr(first, field) != getattr(second, field)]
    return words + (["parser"] if first.parser != second.parser else [])


def reparse(
    example: PromptRow, row: TextAnswer, *, written: Protocol, read: Protocol, form: str
) -> ParsedAnswer:
    """Return the answer that the parser of one protocol finds in a text of another.

    Args:
        example: the prompt that was answered.
        row: the model's answer to it.
        written: the protocol of the prompt and the text. Its worked examples are in the prompt, whichever parser reads the text.
        read: the protocol whose parser reads it; not one of likelihoods.
        form: the task's answer form.
    """
    return parse_row(example, row, parser=read.parser, form=form, shots=written.shots)


def measure_agreement(
    runs: Iterable[RunFiles],
    *,
    task: str,
    answer_form: str,
    prompts: Mapping[str, Path],
    cards: Mapping[str, Protocol],
    read_scores: Callable[[Path], ScoreFile] = read_json,
) -> list[Agreement]:
    """Return the agreement of each pair of a task's protocols.

    Args:
        runs: of a study.
        task: the dataset's name.
        answer_form: of the task.
        prompts: the task's prompts file by protocol, in the order in which protocols are paired.
        cards: by protocol.
        read_scores: reads a score file, which holds all tasks of a run; pass a cache to read each file once.
    """
    pairs = list(combinations(prompts, 2))
    if not pairs:
        return []
    examples = {name: read_prompts(path) for name, path in prompts.items()}
    totals, changes = Counter[tuple[str, str]](), {pair: list[ChangedAnswer]() for pair in pairs}
    for run in runs:
        scores = read_scores(run.scores)["tasks"]
        sides = {
            name: _Side(
                card=cards[name],
                answer_form=answer_form,
                items=scores[f"{task}-{name}"]["items"],
                rows=read_jsonl(run.answers_file(task, cards[name])),
                examples=examples[name],
            )
            for name in prompts
        }
        for pair in pairs:
            first, second = (sides[name] for name in pair)
            totals[pair] += len(first.items)
            changes[pair] += _list_changes(run.scores, first, second)
    return [_summarise(pair, n=totals[pair], changes=changes[pair], cards=cards) for pair in pairs]


def _list_changes(run: Path, first: _Side, second: _Side) -> list[ChangedAnswer]:
    """Return the examples whose answers differ, each with the cause."""
    return [
        {
            "run": run,
            "id": before["id"],
            "gold": before["gold"],
            "cause": _find_cause(first, second, index),
            "first": read_side_answer(before, first.rows[index]),
            "second": read_side_answer(after, second.rows[index]),
        }
        for index, (before, after) in enumerate(zip(first.items, second.items, strict=True))
        if before["parsed"] != after["parsed"]
    ]


def _find_cause(first: _Side, second: _Side, index: int) -> Cause:
    """Return the cause of a change: parse the first protocol's text with the second protocol's parser and compare."""
    if "likelihood" in {first.card.parser, second.card.parser}:
        return "likelihood"
    row = cast(TextAnswer, first.rows[index])
    parsed = reparse(first.examples[index], row, written=first.card, read=second.card, form=first.answer_form)
    # the second parser alone explains the change, whatever else differs
    is_same_text = format_texts(row) == format_texts(cast(TextAnswer, second.rows[index]))
    if is_same_text or parsed == second.items[index]["parsed"]:
        return "parser"
    return "text" if parsed == first.items[index]["parsed"] else "text and parser"


def _summarise(
    pair: tuple[str, str], *, n: int, changes: list[ChangedAnswer], cards: Mapping[str, Protocol]
) -> Agreement:
    """Return the counts of a pair of protocols."""
    causes = Counter(change["cause"] for change in changes)
    first, second = pair
    return {
        "protocols": [first, second],
        "differ_in": list_setting_differences(cards[first], cards[second]),
        "n": n,
        "changes": changes,
        "changed": len(changes),
        "causes": {cause: causes[cause] for cause in CAUSES if causes[cause]},
        # an answer that neither protocol can parse has not changed
        "unparsed": [
            sum(change["first"]["parsed"] is None for change in changes),
            sum(change["second"]["parsed"] is None for change in changes),
        ],
        "gained": sum(change["second"]["correct"] and not change["first"]["correct"] for change in changes),
        "lost": sum(change["first"]["correct"] and not change["second"]["correct"] for change in changes),
    }
