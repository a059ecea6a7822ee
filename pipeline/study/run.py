"""A run of a study, which is one evaluated model, and the tasks that it is evaluated on."""

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.params.base import AnswerForm
from pipeline.params.protocols import Decoding, Protocol
from pipeline.params.studies import Arm, Entry
from pipeline.study.artifacts import Artifact

BARE = "bare"


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
    """

    name: str
    task: str
    protocol: Protocol
    answer_form: AnswerForm
    prompts: Artifact
    decoding: Decoding
    fingerprint: str

    @property
    def scoring(self) -> dict[str, str | int]:
        """How the answers are scored, as far as it is part of the scores' fingerprint."""
        rules: dict[str, str | int] = {"parser": self.protocol.parser, "version": self.protocol.version}
        # the default is left out: scores from before it counted keep their fingerprints
        return rules | ({"headline": "normalised"} if self.protocol.headline == "normalised" else {})


class RunResults(NamedTuple):
    """What a run leads to: its tasks, and the artifacts of its answers and scores."""

    tasks: list[Task]
    answers: Artifact
    scores: Artifact
