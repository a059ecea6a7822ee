"""Cards of protocols: how answers are generated, parsed and scored."""

from typing import Any, Literal, TypedDict

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.params.base import AnswerForm, Dtype, Quantization, Strict, Template
from pipeline.params.templates import CHAT


class Decoding(TypedDict, total=False):
    """How answers are generated: it is part of their fingerprint, so an option that is not used is left out."""

    template: str
    num_beams: int
    max_new_tokens: int
    # of sampled answers to a question
    samples: int
    temperature: float
    top_p: float
    sampling_seed: int
    # of a likelihood protocol, instead of num_beams and max_new_tokens
    continuation: str
    # where the likelihood of each continuation behind this neutral prompt is needed too
    unconditional: str
    # where the continuation has the words of an option: with the punctuation at their ends
    option_text: Literal["whole"]
    # "unmasked" comes with batch_size
    padding: Literal["masked", "unmasked"]
    batch_size: int
    # of texts, instead of num_beams and max_new_tokens: tokens that the model reads at once
    window: int
    # padded tokens of a batch, new ones included, if not to be the default; changes no answer in float32
    batch_tokens: int
    # In which answers are computed, and to which the base's weights are rounded; each "float32" where missing.
    dtype: Dtype
    weights: Dtype
    # of the base's linear modules; missing: they are not quantized
    quantization: Quantization
    merge_adapter: bool
    # of a second stage: the end of its prompt, and parser and version of the first stage, which decide what is unparsed
    answer_trigger: str
    first_parser: str
    first_version: int


def rows_per_prompt(decoding: Decoding) -> int:
    """Return how many answers are generated at once to a prompt: its beams or samples; 0 where none is generated."""
    return decoding.get("samples") or decoding.get("num_beams", 0)


class SamplingSettings(Strict):
    """Several answers to each question, drawn at random; the most frequent parsed answer counts."""

    samples: int = Field(ge=2, description="answers per question")
    temperature: float = Field(
        gt=0, le=10, description="the logits are divided by it; 1: the model's own distribution"
    )
    top_p: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="draw only from the likeliest tokens that together have this probability; null: from all tokens",
    )
    seed: int = Field(0, ge=0, description="seed of the draws, which differ for each question and sample")


class Protocol(Strict):
    """How answers are generated and scored: a generated text that is parsed, or the likelihood of each choice."""

    name: str
    version: int = Field(
        gt=0, description="version of the card; raised when the scores of the same answers change"
    )
    template: Template = Field(description="template of the prompts")
    parser: Literal["paper", "strict", "math_verify", "likelihood"] = Field(
        description="rules that parse an answer; math_verify: those of the package math-verify, for numbers only; "
        "likelihood: the most likely choice is the answer"
    )
    num_beams: int = Field(1, gt=0, description="beams of beam search; 1: greedy decoding")
    max_new_tokens: dict[AnswerForm, int] = Field(
        default_factory=dict, description="answer form -> longest answer, in tokens"
    )
    continuation: dict[AnswerForm, str] = Field(
        default_factory=dict,
        description="for parser likelihood: answer form -> text to score, with {label} and {text} of a choice",
    )
    unconditional: str | None = Field(
        None,
        description="for parser likelihood: a neutral prompt, after which the continuations are scored too (PMI); empty: only the start token; null: no PMI",
    )
    headline: Literal["raw", "normalised", "pmi"] = Field(
        "raw",
        description="for parser likelihood: the accuracy that tables show; the score file has all. pmi: the log-likelihood minus that after the neutral prompt `unconditional`",
    )
    sampling: SamplingSettings | None = Field(
        None,
        description="sample several answers to each question and count the most frequent (self-consistency); null: a single answer",
    )
    padding: Literal["masked", "unmasked"] = Field(
        "masked",
        description="unmasked: the model attends to the padding on the left, as in the published code",
    )
    batch_size: int | None = Field(
        None,
        gt=0,
        description="examples in a batch, in the order of the data; null: chosen by length and memory",
    )
    shots: int = Field(0, ge=0, description="number of worked examples before the question")
    shots_split: str = Field("train", description="split of the task's dataset from which they are drawn")
    shots_seed: int = Field(0, description="seed of the draw, which differs for each question")
    first_stage: str | None = Field(
        None,
        description="a protocol with generated text; where its parser extracts no answer, the model is prompted again",
    )
    answer_trigger: dict[AnswerForm, str] = Field(
        default_factory=dict,
        description="with first_stage: answer form -> text after the prompt and the first answer; {first} and {last} are labels",
    )
    comparison_only: bool = Field(
        False,
        description="leave the protocol out of the headline tables, unless a study lists it in headline",
    )
    changelog: list[str] | dict[Any, str] = Field(default_factory=list, description="version -> what changed")
    source: str = Field("", description="publication or code that the protocol is from")
    notes: str = ""

    @property
    def forms(self) -> tuple[AnswerForm, ...]:
        """The answer forms that the protocol covers."""
        return tuple(self.continuation or self.max_new_tokens)

    def decoding(self, form: AnswerForm, *, max_new_tokens: int | None) -> Decoding:
        """Return how answers of one form are generated.

        Args:
            form: of the task's answers.
            max_new_tokens: replaces that of the card; None: the card's.
        """
        if self.continuation:
            frame = self.continuation[form]
            likelihoods: Decoding = {"template": self.template, "continuation": frame}
            if self.unconditional is not None:
                likelihoods["unconditional"] = self.unconditional
            # answers from before the words kept their commas have other names
            return likelihoods | ({"option_text": "whole"} if "{text}" in frame else {})
        tokens = max_new_tokens or self.max_new_tokens[form]
        if self.first_stage and max_new_tokens:
            # the study's limit is for answers with their reasoning; the closing words are never longer
            tokens = min(max_new_tokens, self.max_new_tokens[form])
        decoding: Decoding = {
            "num_beams": self.num_beams,
            "max_new_tokens": tokens,
            "template": self.template,
        }
        if sampling := self.sampling:
            decoding |= {
                "samples": sampling.samples,
                "temperature": sampling.temperature,
                "sampling_seed": sampling.seed,
            }
            if sampling.top_p is not None:
                decoding["top_p"] = sampling.top_p
        if self.first_stage:
            decoding["answer_trigger"] = self.answer_trigger[form]
        # masked padding is not mentioned: with it, no batch size changes an answer in float32
        if self.padding == "unmasked" and self.batch_size is not None:
            decoding |= {"padding": self.padding, "batch_size": self.batch_size}
        return decoding

    @model_serializer(mode="wrap")
    def _dump_without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # fields that were added later: the report's identity has the cards
        later = {"first_stage", "answer_trigger", "sampling"} | (
            {"unconditional"} if self.unconditional is None else set()
        )
        return {key: value for key, value in dump(self).items() if key not in later or value}

    @model_validator(mode="after")
    def _check_second_stage(self) -> "Protocol":
        if self.first_stage is None:
            if self.answer_trigger:
                raise ValueError(
                    "answer_trigger: only with first_stage; it ends the second prompt, for unparsed answers"
                )
            return self
        if self.parser == "likelihood" or self.padding == "unmasked":
            raise ValueError("first_stage: needs a parser of generated text, and masked padding")
        if missing := set(self.max_new_tokens) ^ set(self.answer_trigger):
            raise ValueError(
                f"answer_trigger and max_new_tokens: need the same answer forms ({', '.join(sorted(missing))})"
            )
        for form, text in self.answer_trigger.items():
            if set("{}") & set(text.replace("{first}", "").replace("{last}", "")):
                raise ValueError(
                    f"answer_trigger.{form}: may contain {{first}} and {{last}}, and no other braces"
                )
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> "Protocol":
        likelihood = self.parser == "likelihood"
        if bool(self.continuation) != likelihood or bool(self.max_new_tokens) == likelihood:
            raise ValueError(
                "parser likelihood needs continuation, any other parser max_new_tokens; not both"
            )
        if self.shots and self.template == CHAT:
            raise ValueError(f"shots: not with the template '{CHAT}', whose prompts have a single question")
        if self.parser == "math_verify" and set(self.max_new_tokens) != {"number"}:
            raise ValueError("max_new_tokens: parser math_verify reads numbers only")
        for form, text in self.continuation.items():
            if not _refers_to_choice(text):
                raise ValueError(
                    f"continuation.{form}: must contain {{label}} or {{text}}, and no other braces"
                )
        self._check_unconditional()
        if self.sampling:
            self._check_sampling()
        if self.padding == "unmasked" and (likelihood or self.batch_size is None):
            raise ValueError(
                "padding unmasked needs a batch_size and a parser of text: padding depends on the batch"
            )
        if self.padding == "masked" and self.batch_size is not None:
            raise ValueError(
                "batch_size: only with padding unmasked; with masked padding it is chosen by length and memory"
            )
        return self

    def _check_sampling(self) -> None:
        if self.parser == "likelihood":
            raise ValueError("sampling: only with a parser of generated text, not with likelihood")
        if self.first_stage:
            raise ValueError("sampling: not with first_stage; a second stage has one answer to each question")
        if self.num_beams > 1:
            raise ValueError(f"sampling: not with beams; set num_beams to 1 (got {self.num_beams})")
        if self.padding == "unmasked":
            raise ValueError("sampling: only with masked padding; a sample must not depend on its batch")

    def _check_unconditional(self) -> None:
        if self.unconditional is None:
            if self.headline == "pmi":
                raise ValueError("headline: pmi needs unconditional, a neutral prompt")
            return
        if self.parser != "likelihood":
            raise ValueError("unconditional: only with parser likelihood")
        if self.template == CHAT:
            raise ValueError(f"unconditional: not with the template '{CHAT}', which has no neutral prompt")


def _refers_to_choice(text: str) -> bool:
    remainder = text.replace("{label}", "").replace("{text}", "")
    return remainder != text and not set("{}") & set(remainder)
