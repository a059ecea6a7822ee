"""The rows of a score file (``results/scores/**/*.json``), and what the score stage is given for each task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, Self, TypedDict

from pipeline.params.protocols import Protocol

ParsedAnswer = str | float | None
"""A label as the data has it, a number, or None: the text states no answer."""

Parser = Literal["paper", "strict", "math_verify", "likelihood"]
Outcome = Literal["right", "wrong", "unparsable", "truncated", "empty"]


class JudgedItem(TypedDict):
    """One answer, parsed and compared with the gold answer of its example.

    "raw", "normalised" and "by_bytes" are present under a likelihood protocol only: the choice of greatest
    log-likelihood, as it is, per character and per UTF-8 byte; "pmi" where the protocol has a neutral prompt. Under a
    sampling protocol "samples" has the parsed answer of each sample, and "right_samples" counts those that are right.
    """

    id: str
    protocol: str
    parsed: ParsedAnswer
    gold: str
    correct: bool
    outcome: Outcome
    raw: NotRequired[str | None]
    normalised: NotRequired[str | None]
    by_bytes: NotRequired[str | None]
    pmi: NotRequired[str | None]
    samples: NotRequired[list[ParsedAnswer]]
    right_samples: NotRequired[int]


class LikelihoodAccuracies(TypedDict, total=False):
    """The part of a task's score that only likelihood protocols have.

    "headline" ("raw", "normalised" or "pmi") selects what "accuracy" is. The accuracies have their names in
    lm-evaluation-harness.
    """

    headline: str
    acc: float
    acc_norm: float
    acc_bytes: float
    acc_mutual_info: float


class TaskScore(LikelihoodAccuracies):
    """The score of one task under one protocol.

    "low" and "high" bound the 95 % Wilson interval of "accuracy". "unparsable" counts answers without a parsed answer,
    for whatever reason; "truncated" counts answers that reached the token limit, whatever they say. "chance" is the
    mean of 1 / number of choices (0 for numbers); "majority" is the accuracy of always giving "majority_answer", the
    most common gold answer. Both are computed on the examples of this task.
    """

    task: str
    protocol: str
    protocol_version: int
    answer_form: str
    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    unparsable: int
    truncated: int
    outcomes: dict[Outcome, int]
    chance: float
    majority: float
    majority_answer: str
    items: list[JudgedItem]


class ScoreFile(TypedDict):
    """A run's scores: which run this is, the identity of the artifact, and a score by TASK-PROTOCOL."""

    model: str
    method: str
    training_set: str | None
    seed: int | None
    fingerprint: str
    stage: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str]
    tasks: dict[str, TaskScore]


@dataclass(frozen=True)
class ScoringTask:
    """A task of a run, as the score stage needs it.

    Attributes:
        name: TASK-PROTOCOL, the stem of the answers file and the key in the score file.
        task: the dataset's name.
        answer_form: "number", "letter", "boolean", ...
        prompts: the prompts file whose examples the model answered.
        protocol: the protocol's name.
        protocol_version: of the protocol's card.
        parser: "paper", "strict" or "likelihood".
        headline: under parser "likelihood", which accuracy is "accuracy": "raw", "normalised" or "pmi".
        shots: number of worked examples in each prompt.
        answers: the file of its answers; None: NAME.jsonl in the folder of the run's answers.
    """

    name: str
    task: str
    answer_form: str
    prompts: Path
    protocol: str
    protocol_version: int
    parser: Parser
    headline: Literal["raw", "normalised", "pmi"] = "raw"
    shots: int = 0
    answers: Path | None = None

    @classmethod
    def under(
        cls,
        protocol: Protocol,
        *,
        name: str,
        task: str,
        answer_form: str,
        prompts: Path,
        answers: Path | None = None,
    ) -> Self:
        """Return a task under the protocol of a card."""
        return cls(
            name=name,
            task=task,
            answer_form=answer_form,
            prompts=prompts,
            protocol=protocol.name,
            protocol_version=protocol.version,
            parser=protocol.parser,
            headline=protocol.headline,
            shots=protocol.shots,
            answers=answers,
        )
