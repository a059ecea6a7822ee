"""Cards of answers made elsewhere: what params/references/NAME.yaml may contain."""

import re

from pydantic import Field, model_validator

from pipeline.params.base import Name, Strict
from pipeline.params.datasets import AnySource

# Where the sample logs of lm-evaluation-harness (--log_samples) have what a format names.
LM_EVAL_KEYS = {"question": "doc.question", "text": "resps.0.0", "gold": "target"}
PATH = r"[^.]+(\.[^.]+)*"


class ReferenceFormat(Strict):
    """The keys under which a source's rows have the question, the text of the answer and the rest.

    A key may lead into an object or a list: ``doc.question``, ``resps.0.0``.
    """

    lm_eval: bool = Field(
        False,
        description="sample logs of lm-evaluation-harness (--log_samples): question, text and gold have their places there unless set",
    )
    question: str = Field("", description="key of the question")
    text: str = Field("", description="key of the generated text")
    gold: str | None = Field(
        None, description="key of the gold answer, which is compared with ours; null: none"
    )
    gold_mark: str | None = Field(
        None, description='the gold answer follows the last such mark, as in "#### 18"'
    )
    reading: str | None = Field(
        None, description="key of the answer that the authors extracted from the text; null: not stored"
    )
    correct: str | None = Field(
        None, description="key of the authors' judgement, true or false; used if they stored no reading"
    )
    choose: dict[str, str | int] = Field(
        default_factory=dict, description="only rows with these values: key -> value"
    )
    cut: dict[str, str | int] = Field(
        default_factory=dict,
        description="rows with these values were cut at a token limit: key -> value; empty: not stated",
    )

    @property
    def has_stored_reading(self) -> bool:
        """Whether the rows have what their authors read in the text, or whether it was right."""
        return bool(self.reading or self.correct)

    @model_validator(mode="before")
    @classmethod
    def _fill_lm_eval(cls, data: object) -> object:
        return {**LM_EVAL_KEYS, **data} if isinstance(data, dict) and data.get("lm_eval") is True else data

    @model_validator(mode="after")
    def _check_keys(self) -> "ReferenceFormat":
        for field in ("question", "text"):
            if not getattr(self, field):
                raise ValueError(f"{field}: missing; name the key of the rows that holds it")
        for field in ("question", "text", "gold", "reading", "correct"):
            path = getattr(self, field)
            if path is not None and not re.fullmatch(PATH, path):
                raise ValueError(f"{field}: must be a key, or keys joined by dots (got '{path}')")
        if self.gold_mark and not self.gold:
            raise ValueError("gold_mark: only with gold")
        return self


class ReferenceFile(Strict):
    """The file of the answers to one dataset."""

    rows: int | None = Field(None, gt=0, description="number of rows; null: any")
    sha256: str | None = Field(None, description="checksum of the rows as fetch writes them")
    sources: list[AnySource] = Field(min_length=1, description="in order of preference")
    known_malformed: list[int] = Field(
        default_factory=list,
        description="numbers of malformed rows to leave out, counted from 0; any other malformed row is an error",
    )

    @model_validator(mode="after")
    def _check_kinds(self) -> "ReferenceFile":
        if any(source.kind == "world" for source in self.sources):
            raise ValueError("sources: kind must be local, url or hub; the built-in world has no answers")
        return self


class PublishedReference(Strict):
    """The published row to show beside a reference."""

    card: str = Field(description="a card of params/published/")
    model: str = Field(description="the model of its row without a method")
    difference: str = Field(description="why the two differ: prompts, reading, number of questions")


class Reference(Strict):
    """Published answers of another model to the questions of our tasks."""

    name: str = Field(description="as it appears in tables")
    model: str = Field(description="the model that answered")
    size: str = Field("", description='number of parameters in words, such as "175B"; empty: not stated')
    prompting: str = Field(
        description="how the model was trained for the tasks, if at all, and how it was prompted"
    )
    reading: str = Field("", description="how the authors parsed the answers")
    source: str = Field(description="where the answers are published: repository and commit")
    licence: str = Field(description="as its source states it; the answers are fetched, never shipped")
    format: ReferenceFormat
    answers: dict[Name, ReferenceFile] = Field(
        min_length=1, description="a card of params/datasets/ -> the file of the answers to its test split"
    )
    published: PublishedReference | None = Field(
        None, description="a published row to show beside the reference; null: none"
    )
    notes: str = ""
