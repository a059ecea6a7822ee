"""A study as plain values and paths: everything that its report reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.params.base import AnswerForm
from pipeline.params.datasets import ClusterKey
from pipeline.params.protocols import Protocol
from pipeline.params.published.cards import Published
from pipeline.params.published.references import Reference
from pipeline.study.distillation.description import DistilledDescription
from pipeline.study.followups.match import FollowupDescription

# From this many seeds on, a method's own tell enough of their variance.
FEW_SEEDS = 5


@dataclass(frozen=True)
class TaskDescription:
    """A task of an arm, with the protocols that it is evaluated under and the prompts file of each.

    ``clusters`` says which examples belong together; ``raw`` is the file of raw rows where a field of them says so.
    """

    name: str
    title: str
    answer_form: AnswerForm
    protocols: Sequence[str]
    prompts: Mapping[str, Path]
    clusters: ClusterKey | None = None
    raw: Path | None = None
    normalisation: str | None = None


@dataclass(frozen=True)
class TextDescription:
    """A dataset of texts: the name of its file of likelihoods, its title, and whether it holds passages or references."""

    name: str
    title: str
    answer_form: AnswerForm


@dataclass(frozen=True)
class ArmDescription:
    """A training set, its contamination audit, and the tasks of the adapters that are trained on it.

    ``recipe`` is JSON of the arm's own settings of training and of its limit: arms with equal recipes differ in
    their training sets and tasks alone.
    """

    name: str
    training_set: str
    audit: Path
    tasks: Sequence[TaskDescription]
    recipe: str = ""


@dataclass(frozen=True)
class ModelDescription:
    """A base model: its card's name, and its title in tables."""

    name: str
    title: str


SourceRole = Literal["base model", "training set", "task", "text"]


@dataclass(frozen=True)
class SourceDescription:
    """Where a dataset or a base model comes from, as its card states it.

    Attributes:
        name: of the card.
        title: in tables.
        role: in the study.
        licence: empty where the card states none.
        citation: the publication or page; empty where the card states none.
        made_here: whether the pipeline generates the dataset, or pretrains the model, itself; of a distilled set, its questions
            and its teacher.
    """

    name: str
    title: str
    role: SourceRole
    licence: str
    citation: str
    made_here: bool


@dataclass(frozen=True)
class MethodDescription:
    """A method of the study.

    Attributes:
        name: in paths, unique in the study.
        title: in tables.
        card: its method card.
        as_card: whether the study uses the card unchanged, so that published figures of the card apply.
    """

    name: str
    title: str
    card: str
    as_card: bool


@dataclass(frozen=True)
class RunDescription:
    """An evaluated model with its result files; a bare base has no training set, arm, seed or adapter."""

    model: str
    method: str
    training_set: str | None
    arm: str | None
    seed: int | None
    fingerprint: str
    adapter: Path | None
    answers: Path
    scores: Path
    # None: the study has no second stage
    second_answers: Path | None = None
    # None: the study has no texts
    text_likelihoods: Path | None = None
    # of a combination: the training sets of its members
    combined_sets: Sequence[str] = ()
    # the audits of these training sets, with the limits of the members' arms
    combined_audits: Sequence[Path] = ()


@dataclass(frozen=True)
class ReferenceDescription:
    """Answers made elsewhere, with their result files.

    Attributes:
        name: of the card.
        card: params/references/NAME.yaml.
        protocols: by task, those that read its answers.
        answers: the folder with the answers to our examples.
        scores: the score file; its protocol "stored" is the reading of the authors.
        published: the publication with the row that is shown beside; None: there is none.
    """

    name: str
    card: Reference
    protocols: Mapping[str, Sequence[str]]
    answers: Path
    scores: Path
    published: Published | None = None


@dataclass(frozen=True)
class PointDescription:
    """A point of the study's figure; ``line`` is the title of its method card."""

    method: str
    card: str
    field: str
    setting: float | int | str
    line: str


@dataclass(frozen=True)
class FigureDescription:
    """The figure of a study that varies a setting; ``x`` maps each setting to the title of its axis."""

    title: str
    x: Mapping[str, str]
    points: Sequence[PointDescription]


@dataclass(frozen=True)
class ChoiceDescription:
    """The choice between the trials of a model, method and arm, and its file."""

    model: str
    method: str
    arm: str
    path: Path


@dataclass(frozen=True)
class TuningDescription:
    """How settings were chosen by trials; ``validation`` says in words which examples judged them."""

    rule: Literal["loss", "accuracy"]
    trials: int
    max_steps: int
    seed: int
    validation: str
    choices: Sequence[ChoiceDescription]


@dataclass(frozen=True)
class StudyDescription:
    """A study for its report.

    Attributes:
        headline: the protocols of the main tables, a subset of ``protocols``.
        protocol_cards: by protocol.
        audits: the audit files of all arms.
        figure: None for a study that varies no setting.
        published: None where the study has no published figures to compare with.
        seed_variance: whether the variance between seeds is pooled over the methods of a model, or each method's own.
        sources: of the models, the training sets, the tasks and the texts.
        references: answers made elsewhere; a study may have these alone, without models.
        distilled: training sets that a teacher wrote.
        published_titles: the titles of the models and methods of published rows, by card; without references empty.
        seed_count: how many of the seeds of the study's file these are; None: all.
        tuning: the trials that chose settings; None: all settings are as written.
        followups: publications whose rows are compared with runs of the same settings.
    """

    name: str
    title: str
    description: str
    arms: Sequence[ArmDescription]
    models: Sequence[ModelDescription]
    methods: Sequence[MethodDescription]
    seeds: Sequence[int]
    protocols: Sequence[str]
    headline: Sequence[str]
    protocol_cards: Mapping[str, Protocol]
    runs: Sequence[RunDescription]
    audits: Sequence[Path]
    figure: FigureDescription | None = None
    published: Published | None = None
    seed_variance: Literal["pooled", "own"] = "pooled"
    texts: Sequence[TextDescription] = ()
    sources: Sequence[SourceDescription] = ()
    references: Sequence[ReferenceDescription] = ()
    published_titles: Mapping[str, str] = field(default_factory=dict)
    distilled: Sequence[DistilledDescription] = ()
    seed_count: int | None = None
    tuning: TuningDescription | None = None
    followups: Sequence[FollowupDescription] = ()
