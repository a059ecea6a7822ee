"""Cards of datasets: what params/datasets/NAME.yaml may contain."""

from itertools import combinations
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pipeline.params.base import AnswerForm, Dtype, Name, Strict, Template

# Formats of tables that a local file or a download may not have.
UNREAD_ENDINGS = (".parquet", ".tsv", ".xls", ".xlsx")


class Source(Strict):
    """A source of a split: a local file, a download, or rows that the built-in world generates."""

    kind: Literal["local", "url", "world"]
    path: str = Field("", description="for kind local: path of the file, relative to --data-root")
    url: str = Field("", description="for kind url: address of the file")
    format: Literal["jsonl", "json", "csv"] = Field(
        "jsonl", description="format of the file; .gz files are unpacked"
    )
    sha256: str | None = Field(None, description="checksum of the file")
    git_blob: str | None = Field(None, description="git's checksum of the file")
    task: str = Field("", description="for kind world: the task of the rows")
    split: Literal["train", "validation", "test"] = Field(
        "test", description="for kind world: split of the task"
    )
    n: int = Field(0, description="for kind world: number of rows")
    world_seed: int = Field(0, description="for kind world: seed of the facts and names")
    seed: int = Field(0, description="for kind world: seed of the rows")

    @model_validator(mode="after")
    def _check_location(self) -> "Source":
        needed = {"local": "path", "url": "url"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"kind '{self.kind}' needs {needed}")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError("url: must begin with http:// or https://")
        self._check_format()
        return self

    def _check_format(self) -> None:
        """Refuse a file whose name says that it has another format."""
        location = self.path or urlsplit(self.url).path
        ending = PurePosixPath(location.removesuffix(".gz")).suffix
        if ending == ".csv" and self.format != "csv":
            raise ValueError(f"format: must be csv for {location} (got {self.format})")
        if ending in UNREAD_ENDINGS:
            raise ValueError(
                f"{'path' if self.path else 'url'}: {location} is not jsonl, json or csv; convert it"
                + (", or use kind: hub" if ending == ".parquet" else "")
            )


def _check_file_format(name: str) -> str:
    if not name.endswith((".parquet", ".jsonl", ".json", ".csv")):
        raise ValueError("must end in .parquet, .jsonl, .json or .csv")
    return name


class HubSource(Strict):
    """A source of a split: files of a dataset repository on the Hugging Face hub."""

    kind: Literal["hub"]
    repo_id: str = Field(description="dataset repository, ORGANISATION/NAME")
    revision: str | None = Field(
        description="commit; null: recorded in params/lock.yaml at the first download"
    )
    files: list[Annotated[str, AfterValidator(_check_file_format)]] = Field(
        min_length=1, description="files of the repository, read in this order"
    )
    convert: bool = Field(
        False, description="convert the rows into the published instruction format (pipeline.data.originals)"
    )
    git_blob: str | None = Field(
        None, description="git's checksum of the published file that the converted rows must equal"
    )


# a function, since three of the kinds share one class
def _source_kind(data: Any) -> str | None:
    kind = data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)
    return {"hub": "hub", "local": "plain", "url": "plain", "world": "plain"}.get(str(kind))


AnySource = Annotated[
    Annotated[HubSource, Tag("hub")] | Annotated[Source, Tag("plain")],
    Discriminator(
        _source_kind,
        custom_error_type="source_kind",
        custom_error_message="kind must be local, url or hub",
    ),
]


class HashedPart(Strict):
    """A part of a source's rows, selected by a hash of the question. Two splits of a source share no question if their parts do not overlap."""

    start: float = Field(0.0, ge=0, lt=1, description="the part begins at this share of all hashes")
    end: float = Field(1.0, gt=0, le=1, description="the part ends before this share")
    seed: int = Field(0, ge=0, description="seed of the hash")

    @model_validator(mode="after")
    def _check_order(self) -> "HashedPart":
        if self.start >= self.end:
            raise ValueError(f"end: must be above start (got {self.start:g} and {self.end:g})")
        return self


class Split(Strict):
    """A split of a dataset: its sources, and the rows that they must contain."""

    rows: int | None = Field(gt=0, description="number of rows; null: any")
    sha256: str | None = Field(None, description="checksum of the rows as fetch writes them")
    sources: list[AnySource] = Field(min_length=1, description="in order of preference")
    known_malformed: list[int] = Field(
        default_factory=list,
        description="numbers of malformed rows to leave out, counted from 0; any other malformed row is an error",
    )
    part: HashedPart | None = Field(
        None,
        description="selects rows of the sources by a hash of the question; null: all rows. `rows` counts the rows of the sources",
    )
    holds: dict[str, int] = Field(
        default_factory=dict,
        description="for a training split: dataset -> number of its test questions that this split contains (equal letters and digits)",
    )
    holds_stems: dict[str, int] = Field(
        default_factory=dict,
        description="like `holds`, but for questions that are equal up to their options; only where that number differs",
    )


class Teacher(Strict):
    """The writer of a distilled training set: a model, or an adapter that the same study trains on it."""

    model: str = Field(description="a card of params/models/")
    arm: str | None = Field(
        None, description="with method: an arm of the study; its adapter with the first seed is the teacher"
    )
    method: str | None = Field(None, description="with arm: the name of one of the study's methods")

    @model_validator(mode="after")
    def _check_adapter(self) -> "Teacher":
        if bool(self.arm) != bool(self.method):
            raise ValueError("arm and method go together: set both, or neither for the bare model")
        return self


class DistillationSource(Strict):
    """Training questions that a teacher answers."""

    dataset: str = Field(description="a card of params/datasets/ with a training split")
    split: str = Field("train", description="must be train")
    limit: int | None = Field(
        None, gt=0, description="number of questions, drawn with the seed of the distillation; null: all"
    )

    @model_validator(mode="after")
    def _check_split(self) -> "DistillationSource":
        if self.split != "train":
            raise ValueError(
                f"split: '{self.split}' of '{self.dataset}' is not for training; only a split 'train' may be a source"
            )
        return self


class Distillation(Strict):
    """How a teacher writes a training set: its questions, prompt and sampling, and which answers are kept."""

    teacher: Teacher = Field(
        description="the model that answers: a card of params/models/, or such a card with an arm and a method"
    )
    sources: list[DistillationSource] = Field(
        min_length=1,
        description="datasets; the teacher answers their training questions. Each entry is a name, or a name with a limit",
    )
    prompt: Template = Field("zero-shot-cot-v1", description="template of the prompts to the teacher")
    temperature: float = Field(0.7, ge=0, description="the logits are divided by it; 0: greedy")
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="draw only from the likeliest tokens that together have this probability; null: from all tokens",
    )
    samples: int = Field(1, ge=1, description="answers per question")
    seed: int = Field(0, ge=0, description="seed of the draws")
    max_new_tokens: int = Field(512, gt=0, description="longest answer, in tokens; a longer one is dropped")
    dtype: Dtype = Field("float32", description="precision in which a local teacher computes")
    protocol: str = Field(
        "strict",
        description="a card of params/protocols/ with generated text; its parser parses the teacher's answers",
    )
    filter: Literal["right", "all"] = Field(
        "right",
        description="right: keep only answers that equal the gold label when parsed; all: keep wrong and unparsed answers too",
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_names(cls, data: Any) -> Any:
        """Turn the short forms of the teacher and of sources, their names, into sections."""
        if not isinstance(data, dict):
            return data
        expanded = dict(data)
        if isinstance(data.get("teacher"), str):
            expanded["teacher"] = {"model": data["teacher"]}
        if isinstance(data.get("sources"), list):
            expanded["sources"] = [
                {"dataset": source} if isinstance(source, str) else source for source in data["sources"]
            ]
        return expanded

    @model_validator(mode="after")
    def _check_sampling(self) -> "Distillation":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples: {self.samples} at temperature 0 would repeat the same answer {self.samples} times; set samples to 1, or a "
                "temperature above 0"
            )
        if self.temperature == 0 and self.top_p is not None:
            raise ValueError("top_p: only with a temperature above 0")
        names = [source.dataset for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sources: '{name}' is repeated")
        return self


ClusterRule = Literal["number-masked", "opening", "twins", "alike"]


class ClusterKey(Strict):
    """Which test examples of a dataset are related: by a rule on their questions, or by a field of the raw rows."""

    rule: ClusterRule | None = Field(
        None,
        description="number-masked: the same words, apart from numbers; opening: the same sentences before the last one, apart from numbers; twins: the same options and nearly the same words; alike: most of their words (docs/statistics.md)",
    )
    field: str | None = Field(None, description="rows with the same value in this field form a cluster")

    @model_validator(mode="after")
    def _check_choice(self) -> "ClusterKey":
        if bool(self.rule) == bool(self.field):
            raise ValueError("set either rule or field")
        return self


class Dataset(Strict):
    """A dataset with one answer form, or a mixture of such datasets."""

    name: str = Field(description="name of the dataset, which is also the name of the card's file")
    title: str = Field(description="as it appears in tables")
    answer_form: AnswerForm | None = Field(
        None, description="form of the gold labels; null: the dataset is not a task"
    )
    splits: dict[Name, Split] = Field(default_factory=dict, description="split -> sources and number of rows")
    passage_characters: int | None = Field(
        None,
        gt=0,
        description="for answer_form passage: rows are joined until a passage has this many characters; null: each row is a passage",
    )
    normalisation: Literal["raw", "characters", "pmi"] | None = Field(
        None, description="how OLMES (arXiv:2406.08446) normalises the log-likelihoods of the options' words"
    )
    distilled: Distillation | None = Field(
        None,
        description="how a teacher writes this training set (docs/distillation.md); null: the rows come from files",
    )
    parts: list[str] = Field(
        default_factory=list, description="for a mixture: the datasets that it consists of"
    )
    without: list[str] = Field(
        default_factory=list, description="datasets whose test questions are removed from the training rows"
    )
    method: Literal["exact", "number-masked", "8-gram", "stem", "any"] | None = Field(
        None, description="how these questions are matched (pipeline.audit)"
    )
    licence: str = ""
    citation: str = ""
    clusters: ClusterKey | None = Field(
        None,
        description="which examples are related, so that the report's bootstrap draws them together; null: examples are independent",
    )
    defects: list[str] = Field(default_factory=list, description="known defects of the data")
    notes: str = ""
    version: int = Field(1, gt=0, description="raised when the same files give different rows")
    changelog: dict[int, str] = Field(
        default_factory=dict, description="version -> what changed; required for every version but the first"
    )

    @model_validator(mode="after")
    def _check_changelog(self) -> "Dataset":
        for version in range(2, self.version + 1):
            if version not in self.changelog:
                raise ValueError(f"changelog: no entry for version {version}")
        if self.changelog and max(self.changelog) > self.version:
            raise ValueError(
                f"changelog: entry for version {max(self.changelog)}, but the version is {self.version}"
            )
        return self

    @model_validator(mode="after")
    def _check_mixture(self) -> "Dataset":
        for key in ("parts", "without"):
            names = getattr(self, key)
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key}: '{name}' is repeated")
        if self.parts and self.answer_form is not None:
            raise ValueError("answer_form: not allowed for a mixture, whose parts have their own")
        if self.passage_characters and self.answer_form != "passage":
            raise ValueError("passage_characters: only for a dataset with answer_form passage")
        if self.clusters and self.answer_form is None:
            raise ValueError("clusters: only for a dataset with an answer_form")
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> "Dataset":
        parts = [(name, split.part, split.sources) for name, split in self.splits.items()]
        if any(part for _, part, _ in parts) and self.answer_form == "passage":
            raise ValueError("part: passages have no question to hash")
        for (first, part, sources), (second, other, other_sources) in combinations(parts, 2):
            if sources != other_sources or not (part or other):
                continue
            if not part or not other or part.seed != other.seed:
                raise ValueError(
                    f"splits: {first} and {second} have the same source, so both need a part, with the same seed"
                )
            if part.start < other.end and other.start < part.end:
                raise ValueError(
                    f"splits: the parts of {first} and {second} overlap, so they would share rows"
                )
        return self

    @model_validator(mode="after")
    def _check_cleaning(self) -> "Dataset":
        if bool(self.without) != bool(self.method):
            raise ValueError("without and method go together: set both, or neither")
        return self

    @model_validator(mode="after")
    def _check_distilled(self) -> "Dataset":
        if self.distilled is None:
            return self
        for key in ("splits", "parts"):
            if getattr(self, key):
                raise ValueError(f"{key}: not with distilled, whose teacher writes the rows")
        if self.answer_form in (None, "text", "passage"):
            raise ValueError(
                "answer_form: must be that of the sources, or mixed, because answers are compared with gold labels"
            )
        if not self.without:
            raise ValueError("without: list the tests whose questions are removed from a distilled set")
        return self
