"""Cards of datasets: what params/datasets/NAME.yaml may say, each field with its meaning."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pipeline.params.base import AnswerForm, Strict


class Source(Strict):
    """Where a split can be had."""

    kind: Literal["local", "url", "world"]
    path: str = ""
    url: str = ""
    format: Literal["jsonl", "json"] = "jsonl"
    sha256: str | None = None
    git_blob: str | None = None
    task: str = ""
    split: Literal["train", "validation", "test"] = "test"
    n: int = 0
    world_seed: int = 0
    seed: int = 0

    @model_validator(mode="after")
    def _has_a_place(self) -> "Source":
        needed = {"local": "path", "url": "url"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"kind '{self.kind}' needs {needed}")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError("url: must begin with http:// or https://")
        return self


def _readable(name: str) -> str:
    if not name.endswith((".parquet", ".jsonl", ".json")):
        raise ValueError("must end in .parquet, .jsonl or .json")
    return name


class HubSource(Strict):
    """Where a split can be had on the Hugging Face hub."""

    kind: Literal["hub"]
    repo_id: str = Field(description="of a dataset repository: organisation/name")
    revision: str | None = Field(
        description="commit; null: the first download records it in params/lock.yaml"
    )
    files: list[Annotated[str, AfterValidator(_readable)]] = Field(
        min_length=1, description="of the repository; read one after the other"
    )
    convert: bool = Field(
        False, description="rows are put into the published instruction format (pipeline.data.originals)"
    )
    git_blob: str | None = Field(None, description="of the published file that the converted rows make up")


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


class Split(Strict):
    """One file of rows, and what it must be."""

    rows: int | None = Field(gt=0)
    sha256: str | None = Field(None, description="of the rows as fetch writes them")
    sources: list[AnySource] = Field(min_length=1, description="in order of preference")
    known_malformed: list[int] = Field(
        default_factory=list,
        description="rows, from 0, that are left out; any other malformed row is an error",
    )
    holds: dict[str, int] = Field(
        default_factory=dict,
        description="of a training split: dataset -> its test questions that stand here, by letters and digits",
    )
    holds_stems: dict[str, int] = Field(
        default_factory=dict,
        description="as holds, by what stands before the options, where the count is another",
    )


class Dataset(Strict):
    """A set of rows with one answer form, or a mixture of such sets."""

    name: str
    title: str
    answer_form: AnswerForm | None = None
    splits: dict[str, Split] = Field(default_factory=dict)
    parts: list[str] = Field(
        default_factory=list, description="of a mixture: the datasets it is put together from"
    )
    without: list[str] = Field(
        default_factory=list, description="tests whose questions the training rows must not hold"
    )
    method: Literal["exact", "number-masked", "8-gram", "stem", "any"] | None = Field(
        None, description="by which they are found (pipeline.audit)"
    )
    licence: str = ""
    citation: str = ""
    defects: list[str] = Field(default_factory=list)
    notes: str = ""
    version: int = Field(1, gt=0, description="raised where the same files are read otherwise")
    changelog: dict[int, str] = Field(
        default_factory=dict, description="version -> what changed; each but the first has its entry"
    )

    @model_validator(mode="after")
    def _every_version_is_explained(self) -> "Dataset":
        missing = next((one for one in range(2, self.version + 1) if one not in self.changelog), None)
        if missing:
            raise ValueError(f"changelog: says nothing of version {missing}")
        if self.changelog and max(self.changelog) > self.version:
            raise ValueError(f"changelog: version {max(self.changelog)} is not there yet")
        return self

    @model_validator(mode="after")
    def _cleaned_by_a_method(self) -> "Dataset":
        if bool(self.without) != bool(self.method):
            raise ValueError("a cleaned training set has both, without (tests) and method")
        return self
