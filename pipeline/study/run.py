"""A run of a study, which is one evaluated model, and the tasks that it is evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.params.base import AnswerForm, TrainingOverlay
from pipeline.params.models import architecture_of_modules
from pipeline.params.protocols import Decoding, Protocol
from pipeline.params.reading import read_card
from pipeline.params.resolve import (
    check_training,
    resolve_method,
    resolve_training,
)
from pipeline.params.studies import Arm, Entry, StudyCard
from pipeline.study.artifacts import Artifact, compute_fingerprint

BARE = "bare"
# the last folder of the answers of second stages
SECOND_STAGE = "second-stage"
# the last folder of the likelihoods of texts
TEXTS = "texts"


@dataclass(frozen=True)
class Run:
    """A row of the tables: a trained adapter on the tasks of its arm, or (without a method) a bare base on all tasks.

    ``name`` is what people call it, unique in the study: MODEL/METHOD/TRAINSET/seedN, TRAINSET@ARM where several arms have
    the training set, or MODEL/bare. ``members`` are the runs that a combination is made of: its training sets are theirs.
    """

    name: str
    model: str
    base: Artifact
    arms: tuple[Arm, ...]
    entry: Entry | None = None
    seed: int | None = None
    adapter: Artifact | None = None
    members: tuple["Run", ...] = ()

    @property
    def trainings(self) -> list[Artifact]:
        """The trained adapters behind the run: its own, or those of its members; none for a bare base."""
        adapters = [member.adapter for member in self.members] or [self.adapter]
        return [adapter for adapter in adapters if adapter]

    @property
    def training_sets(self) -> list[str]:
        """What its adapter was trained on: several for a combination, none for a bare base."""
        arms = [arm for member in self.members or (self,) if member.adapter for arm in member.arms]
        return list(dict.fromkeys(arm.training_set for arm in arms))

    @property
    def training_set(self) -> str | None:
        """The training sets in tables and records; None for a bare base."""
        return " + ".join(self.training_sets) or None

    @property
    def training_params(self) -> Mapping[str, Any] | None:
        """The params of the training that decides the precision of the answers; None for a bare base.

        Members of a combination were trained in the same precision.
        """
        return self.trainings[0].params if self.trainings else None

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
        return rules | ({"headline": self.protocol.headline} if self.protocol.headline != "raw" else {})


@dataclass(frozen=True)
class Text:
    """A dataset of texts whose likelihood is measured: passages, or references of instructions.

    Attributes:
        name: unique among the tasks and texts of a run.
        dataset: its card.
        prompts: the file of prompts, whose responses are the texts.
        decoding: how the likelihood is measured.
        fingerprint: of the likelihoods of this dataset alone.
    """

    name: str
    dataset: str
    prompts: Artifact
    decoding: Decoding
    fingerprint: str


class RunResults(NamedTuple):
    """What a run leads to: its tasks and texts, and the artifacts of its answers and scores.

    ``second_answers`` are those of second stages, made from ``answers``; ``text_likelihoods`` those of the texts. None: the
    study has no such protocol, or no texts.
    """

    tasks: list[Task]
    answers: Artifact
    second_answers: Artifact | None
    scores: Artifact
    texts: Sequence[Text] = ()
    text_likelihoods: Artifact | None = None

    @property
    def all_answers(self) -> list[Artifact]:
        """All artifacts of the generate stage: answers, those of second stages, and likelihoods of texts."""
        return [part for part in (self.answers, self.second_answers, self.text_likelihoods) if part]

    def answers_file(self, task: str) -> Path:
        """Return the file of the answers to a task; ``task`` is TASK-PROTOCOL."""
        answers = next(artifact for artifact in self.all_answers if task in artifact.params)
        return answers.path / f"{task}.jsonl"


def is_second_stage(protocol: str) -> bool:
    """Return whether a protocol prompts again where another protocol's answers are unparsed."""
    return read_card("protocols", protocol).first_stage is not None


def is_endpoint(model: str) -> bool:
    """Return whether a model is behind an endpoint."""
    return bool(read_card("models", model).kind == "endpoint")


def is_computed(artifact: Artifact) -> bool:
    """Return whether a model is trained or evaluated for an artifact, so that its numbers depend on the machine of its job.

    They do not for bases that are only fetched or converted, for answers made elsewhere or behind an endpoint, and for training
    sets that a teacher's answers become.
    """
    if artifact.stage == "base":
        return bool(read_card("models", artifact.path.parent.name).kind == "pretrained")
    if artifact.stage in ("train", "combine"):
        return True
    if artifact.stage not in ("distill", "generate") or "base" not in artifact.inputs:
        return False
    return not is_endpoint(artifact.inputs["base"].path.parent.name)


def endpoint_resource(model: str) -> str:
    """Return the name of Snakemake's resource that stands for a model's endpoint; models at one address share it."""
    return f"endpoint_{compute_fingerprint(read_card('models', model).base_url)}"


def resolve_adapter_params(
    card: StudyCard,
    model: str,
    entry: Entry,
    arm: Arm,
    seed: int,
    *,
    where: str,
    tuned: TrainingOverlay | None = None,
) -> dict[str, Any]:
    """Return the params of an adapter: its method, training and seed, checked to go together.

    ``tuned`` has the settings of a trial, which win over all others.

    Raises:
        UserError: they do not; with the study's file ``where``.
    """
    architecture = architecture_of_modules(read_card("models", model))
    method = resolve_method(entry, architecture=architecture, where=where)
    # Later layers win, so the most general comes first and the study's own entry of the method last.
    training = resolve_training(
        (f"params/methods/{entry.method}.yaml", read_card("methods", entry.method).training),
        (where, card.training),
        (f"{where}: arms.{arm.name}", arm.training),
        (f"{where}: arms.{arm.name}: {model}", arm.training_by_model.get(model, TrainingOverlay())),
        (f"{where}: methods.{entry.method}", entry.training),
        (f"{where}: tune", tuned or TrainingOverlay()),
    )
    check_training(method, training, architecture=architecture, where=f"{where}: methods.{entry.name}")
    params = {"method": method, "training": training.model_dump(), "seed": seed}
    # trained weights are float32: an adapter whose trained weights were in 16 bits is another
    return params | ({"precision": "autocast"} if training.dtype != "float32" else {})
