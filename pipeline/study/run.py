"""A run of a study, which is one evaluated model, and the tasks that it is evaluated on."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.params.base import AnswerForm
from pipeline.params.protocols import Decoding, Protocol
from pipeline.params.reading import read_card
from pipeline.params.studies import Arm, Entry
from pipeline.study.artifacts import Artifact

BARE = "bare"
# the last folder of the answers of second stages
SECOND_STAGE = "second-stage"


@dataclass(frozen=True)
class Run:
    """A row of the tables: a trained adapter on the tasks of its arm, or (without a method) a bare base on all tasks.

    ``name`` is what people call it, unique in the study: MODEL/METHOD/TRAINSET/seedN, TRAINSET@ARM where several arms have
    the training set, or MODEL/bare.
    """

    name: str
    model: str
    base: Artifact
    arms: tuple[Arm, ...]
    entry: Entry | None = None
    seed: int | None = None
    adapter: Artifact | None = None

    @property
    def method(self) -> str:
        """The method's name in paths and in the keys of tables."""
        return BARE if self.entry is None else self.entry.name

    @property
    def label(self) -> str:
        """The folders of the run's results: of runs that share an adapter, those of the first."""
        return self.adapter.label if self.adapter else f"{self.model}/{BARE}/"

    @property
    def evaluated_model(self) -> Artifact:
        """The artifact whose answers are the run's: its adapter, or the bare base."""
        return self.adapter or self.base


@dataclass(frozen=True)
class Task:
    """A dataset on which a run is evaluated, under one protocol.

    Attributes:
        name: DATASET-PROTOCOL, unique within a run.
        task: the dataset.
        protocol: the card of the protocol.
        answer_form: the form of the dataset's answers.
        prompts: the file of prompts.
        decoding: how answers are generated, as far as it is part of their fingerprint.
        fingerprint: of the answers to this task alone, from the model, the prompts and the decoding.
        first: for a second stage, the same dataset under its first stage's protocol.
    """

    name: str
    task: str
    protocol: Protocol
    answer_form: AnswerForm
    prompts: Artifact
    decoding: Decoding
    fingerprint: str
    first: "Task | None" = None

    @property
    def scoring(self) -> dict[str, str | int]:
        """How the answers are scored, as far as it is part of the scores' fingerprint."""
        rules: dict[str, str | int] = {"parser": self.protocol.parser, "version": self.protocol.version}
        # the default is left out: scores from before it counted keep their fingerprints
        return rules | ({"headline": "normalised"} if self.protocol.headline == "normalised" else {})


class RunResults(NamedTuple):
    """What a run leads to: its tasks, and the artifacts of its answers and scores.

    ``second_answers`` are those of second stages, made from ``answers``; None: the study has no such protocol.
    """

    tasks: list[Task]
    answers: Artifact
    second_answers: Artifact | None
    scores: Artifact

    @property
    def all_answers(self) -> list[Artifact]:
        """All artifacts of answers, that of second stages last."""
        return [self.answers, *([self.second_answers] if self.second_answers else [])]

    def answers_file(self, task: str) -> Path:
        """Return the file of the answers to a task; ``task`` is TASK-PROTOCOL."""
        answers = next(artifact for artifact in self.all_answers if task in artifact.params)
        return answers.path / f"{task}.jsonl"


def is_second_stage(protocol: str) -> bool:
    """Return whether a protocol prompts again where another protocol's answers are unparsed."""
    return read_card("protocols", protocol).first_stage is not None


def resolve_results(run: Run, tasks: list[Task]) -> RunResults:
    """Return the results of a run on its tasks.

    The answers of second stages are separate artifacts, made from the first answers: a new parser may change which of them
    are prompted again, and never the first answers.
    """
    model = {"base": run.base} | ({"adapter": run.adapter} if run.adapter else {})

    def resolve_answers(label: str, chosen: list[Task], sources: dict[str, Artifact]) -> Artifact:
        decodings = {task.name: task.decoding for task in chosen}
        prompts = {task.name: task.prompts for task in chosen}
        return Artifact("generate", label, decodings, sources | prompts)

    answers = resolve_answers(run.label, [task for task in tasks if not task.first], model)
    later = [task for task in tasks if task.first]
    second = (
        resolve_answers(f"{run.label}{SECOND_STAGE}/", later, {"answers": answers, **model})
        if later
        else None
    )
    sources = {"answers": answers} | ({"second answers": second} if second else {})
    rules = {task.name: task.scoring for task in tasks}
    scores = Artifact("score", run.label, rules, sources | {task.name: task.prompts for task in tasks})
    return RunResults(tasks, answers, second, scores)
