"""Generate the text answers to a task: its prompts as tokens, in batches, and the rows of its answers file.

A second stage prompts again where the first answer could not be parsed: its prompt is the first prompt, the first answer
and the closing words of the protocol's card. Parsed answers are copied, so that both stages have a row for every example.

Source of second stages: Kojima et al. 2022, arXiv:2205.11916, section 3 (2nd prompt: answer extraction).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

from transformers import GenerationConfig

from pipeline.core.io import read_jsonl
from pipeline.data.options import LABELS
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.resume import BatchStats, write_answers
from pipeline.evaluate.generation.rows import (
    ContinuousBatchingOutcome,
    FirstStage,
    Sample,
    TaskCost,
    TextAnswer,
)
from pipeline.evaluate.generation.search.continuous import GROUP_CACHES, Pages, continuous_refusal
from pipeline.evaluate.generation.search.sampling import Sampling, draw_numbers
from pipeline.evaluate.generation.search.stepwise import CompletionCheck
from pipeline.evaluate.parsing.turns import cut_to_first_answer
from pipeline.evaluate.scoring.rows import Parser
from pipeline.evaluate.scoring.score import parse_row
from pipeline.params.protocols import Decoding
from pipeline.prompts.encode import encode_example
from pipeline.prompts.rows import PromptRow, RenderedExample


class FirstAnswers(NamedTuple):
    """The answers of a first stage by id: those that its parser can parse, and the others."""

    parsed: dict[str, TextAnswer]
    unparsed: dict[str, TextAnswer]


def divide_first_answers(
    examples: Sequence[PromptRow], first: FirstStage, settings: Decoding
) -> FirstAnswers:
    """Return the answers of a first stage, divided into parsed and unparsed ones.

    Args:
        examples: rows of the prompts file, in the order of the answers.
        first: the first stage.
        settings: of the second stage, with ``first_parser``.
    """
    answers = FirstAnswers({}, {})
    parser = cast(Parser, settings["first_parser"])
    for example, row in zip(examples, cast(list[TextAnswer], read_jsonl(first.answers)), strict=True):
        parsed = parse_row(example, row, parser=parser, form=first.form, shots=first.shots)
        (answers.unparsed if parsed is None else answers.parsed)[row["id"]] = row
    return answers


def extend_prompt(
    example: RenderedExample, answer: TextAnswer, *, trigger: str, form: str
) -> RenderedExample:
    """Return an example with the first answer and, on a new line, the closing words added to its prompt.

    The first answer ends where the model began another example; an empty one adds nothing.

    Args:
        example: of the first stage.
        answer: the first answer to it.
        trigger: the protocol's ``answer_trigger``; {first} and {last} stand for the first and the last label.
        form: the answer form, for an example without choices.
    """
    labels = example["choices"] or LABELS[form] or ("", "")
    words = trigger.replace("{first}", labels[0]).replace("{last}", labels[-1])
    text = cut_to_first_answer(answer["text"]).text
    return {**example, "prompt": example["prompt"] + (f"{text}\n{words}" if text else words)}


def write_text_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RenderedExample],
    settings: Decoding,
    *,
    budget: int,
    continuous: bool = False,
    output: Path,
    label: str,
    first: FirstAnswers | None = None,
) -> TaskCost:
    """Generate the answers to a task that are still missing, and write its file.

    Args:
        model: a bare base or a PeftModel with any method, in eval mode.
        tokenizer: the model's.
        examples: rendered rows of a prompts file.
        settings: num_beams, max_new_tokens and perhaps padding and batch_size, or samples and their settings.
        budget: padded tokens of a batch, new ones included; each row may have several beams or samples.
        continuous: whether transformers' continuous batching generates them, where it answers as our own search does.
        output: file to write, with ``TextAnswer`` rows in the order of the examples.
        label: of the progress bar.
        first: for a second stage, the answers of the first stage; unparsed ones are prompted again. The examples have
            their prompts from ``extend_prompt``.

    Raises:
        UserError: a single example, or a batch that the protocol sets, does not fit in memory.
    """
    config = decoding.configure_decoding(
        model, tokenizer, max_new_tokens=settings["max_new_tokens"], num_beams=settings["num_beams"]
    )
    known = first.parsed if first else {}
    prompts, cut_prompts = _encode_missing(
        model, tokenizer, examples, known, settings["max_new_tokens"], label=label
    )
    is_masked, dtype = _masks_padding(settings), settings.get("dtype", "float32")
    refusal = continuous_refusal(
        model, num_beams=settings["num_beams"], sampled="samples" in settings, masked=is_masked, dtype=dtype
    )
    pages = Pages(budget, dtype) if continuous and refusal is None else None
    unparsed = first.unparsed if first else {}
    generator = _TaskGenerator(model, tokenizer, settings, config, examples, prompts, unparsed, pages)
    stats = write_answers(
        examples,
        _divide_prompts(prompts, settings, budget * GROUP_CACHES if pages else budget),
        generator.answer_batch,
        output=output,
        label=label,
        fixed_batches=not is_masked,
        known=known,
    )
    cost = _describe_cost(stats, cut_prompts)
    if is_masked:
        cost["batch_tokens"] = budget
    if continuous:
        cost["continuous_batching"] = _continuous_outcome(refusal)
    return cost


def _encode_missing(
    model: Any,
    tokenizer: Any,
    examples: Sequence[RenderedExample],
    known: Mapping[str, TextAnswer],
    max_new_tokens: int,
    *,
    label: str,
) -> tuple[dict[int, list[int]], int]:
    """Return the prompts without a known answer as tokens, by index, and how many were cut."""
    missing = [index for index, example in enumerate(examples) if example["id"] not in known]
    encoded, cut_prompts = encode_prompts(
        model, tokenizer, [examples[index] for index in missing], max_new_tokens, label=label
    )
    return dict(zip(missing, encoded, strict=True)), cut_prompts


def _describe_cost(stats: BatchStats, cut_prompts: int) -> TaskCost:
    return {
        "answered": stats.answered,
        "rows_at_once": stats.smallest,
        "largest_batch": stats.largest,
        "cut_prompts": cut_prompts,
    }


def _masks_padding(settings: Decoding) -> bool:
    return settings.get("padding", "masked") == "masked"


@dataclass(frozen=True)
class _TaskGenerator:
    """Generates the answers to batches of a task's examples.

    Attributes:
        model: that answers.
        tokenizer: the model's.
        settings: of the task's decoding.
        config: the settings as transformers has them.
        examples: all of the task.
        prompts: as tokens, by the index of their example.
        unparsed: answers of the first stage by id; empty without a first stage.
        pages: how continuous batching runs; None: our own search generates.
    """

    model: Any
    tokenizer: Any
    settings: Decoding
    config: GenerationConfig
    examples: Sequence[RenderedExample]
    prompts: Mapping[int, list[int]]
    unparsed: Mapping[str, TextAnswer]
    pages: Pages | None

    @cached_property
    def completion(self) -> CompletionCheck | None:
        """The check for an end of the answer before the end token."""
        # unmasked padding repeats the published evaluation, in which only the end token or the limit ends an answer
        return (
            decoding.completion_check(self.tokenizer, self.config) if _masks_padding(self.settings) else None
        )

    def answer_batch(self, batch: Sequence[int]) -> list[TextAnswer]:
        """Return the answers to the examples with these indices."""
        generated = [self._describe_sample(tokens) for tokens in self._decode(batch)]
        samples = self.settings.get("samples", 1)
        rows = [
            _text_answer(self.examples[index], generated[number * samples : (number + 1) * samples])
            for number, index in enumerate(batch)
        ]
        if self.unparsed:
            for row in rows:
                first = self.unparsed[row["id"]]
                row["first"] = {"text": first["text"], "stop": first["stop"]}
        return rows

    def _decode(self, batch: Sequence[int]) -> list[list[int]]:
        """Return the new tokens of each sample, those of an example in a row."""
        prompts = [self.prompts[index] for index in batch]
        if not _masks_padding(self.settings):
            return decoding.decode_unmasked(self.model, prompts, self.config)
        sampling = _sample_examples([self.examples[index]["id"] for index in batch], self.settings)
        return decoding.decode(
            self.model, prompts, self.config, self.completion, pages=self.pages, sampling=sampling
        )

    def _describe_sample(self, tokens: list[int]) -> Sample:
        return {
            "text": self.tokenizer.decode(tokens, skip_special_tokens=True),
            "tokens": len(tokens),
            "stop": decoding.stop_reason(tokens, self.config, self.completion),
        }


def _divide_prompts(
    prompts: Mapping[int, Sequence[int]], settings: Decoding, budget: int
) -> Iterator[Sequence[int]]:
    """Yield the indices of the prompts of each batch."""
    indices = list(prompts)
    if _masks_padding(settings):
        lengths = [len(prompt) for prompt in prompts.values()]
        for batch in decoding.batch_by_length(lengths, new_tokens=settings["max_new_tokens"], budget=budget):
            yield [indices[number] for number in batch]
        return
    # as in the published code, which takes its batches in the order of the data
    for start in range(0, len(indices), settings["batch_size"]):
        yield indices[start : start + settings["batch_size"]]


def _continuous_outcome(refusal: str | None) -> ContinuousBatchingOutcome:
    outcome: ContinuousBatchingOutcome = {"used": refusal is None}
    if refusal is not None:
        outcome["why"] = refusal
    return outcome


def encode_prompts(
    model: Any,
    tokenizer: Any,
    examples: Sequence[PromptRow | RenderedExample],
    max_new_tokens: int,
    *,
    label: str = "",
) -> tuple[list[list[int]], int]:
    """Return prompts as token ids, as in training, and how many were cut to the model's positions.

    With the ``label`` of a task, cut prompts are reported on stderr.
    """
    limit = decoding.max_prompt_tokens(model, max_new_tokens=max_new_tokens, label=label)
    full = [encode_example(tokenizer, example, with_response=False)[0] for example in examples]
    if limit is None:
        return full, 0
    fitting = [decoding.truncate_prompt(row, limit=limit, start=tokenizer.bos_token_id) for row in full]
    cut = sum(len(row) < len(before) for row, before in zip(fitting, full, strict=True))
    if label and cut:
        decoding.report_cut_prompts(cut, longest=max(map(len, full)), limit=limit, label=label)
    return fitting, cut


def _text_answer(example: RenderedExample, samples: Sequence[Sample]) -> TextAnswer:
    first = samples[0]
    answer: TextAnswer = {
        "id": example["id"],
        "prompt": example["prompt"],
        "text": first["text"],
        "tokens": first["tokens"],
        "stop": first["stop"],
    }
    if len(samples) > 1:
        answer["further_samples"] = list(samples[1:])
    return answer


def _sample_examples(ids: Sequence[str], settings: Decoding) -> Sampling | None:
    """Return how the answers to examples are sampled; None: they are not."""
    if "samples" not in settings:
        return None
    draws = [
        draw_numbers(
            example,
            seed=settings["sampling_seed"],
            samples=settings["samples"],
            steps=settings["max_new_tokens"],
        )
        for example in ids
    ]
    return Sampling(settings["temperature"], settings.get("top_p"), draws)
