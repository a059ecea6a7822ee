"""Answers to questions of your own, generated as in the evaluation: the same prompts, decoding and rounding."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch

from pipeline.adapters.precision import compute_in
from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding, text_answers
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.generation.rows import StopReason
from pipeline.params.protocols import Decoding
from pipeline.prompts.rows import question_row


class Prediction(TypedDict):
    """The answer to a question."""

    question: str
    input: str
    # without white space around it
    answer: str
    # new tokens, the end token included
    tokens: int
    stop: StopReason
    # whether the beginning of the prompt was cut to the model's positions
    prompt_cut: bool
    # tokens of the prompt that the tokenizer does not know
    unknown_tokens: int


def predict(
    base: Path,
    adapter: Path | None,
    groups: Iterable[Sequence[str]],
    *,
    input: str,
    decoding: Decoding,
    device: str,
    gpus: int = 1,
) -> Iterator[Prediction]:
    """Yield a model's answers, in the order of the questions; the model is loaded before the first group is taken.

    Args:
        base: directory of the base model.
        adapter: directory of the adapter; None: the bare base.
        groups: of questions; a group is answered together, which in float32 does not change an answer.
        input: the instructions' input; empty: none.
        decoding: template, num_beams, max_new_tokens and, unless they are float32, dtype and weights; quantization of the base, if any.
        device: a torch device, such as "cpu" or "cuda:0".
        gpus: how many GPUs the base is split over.

    Raises:
        UserError: a number below 1, or a base or adapter that cannot be loaded.
    """
    for name, value in (("num_beams", decoding["num_beams"]), ("max_new_tokens", decoding["max_new_tokens"])):
        if value < 1:
            raise UserError(f"{name}: must be at least 1 (got {value})")
    if device == "cpu":
        # as in the generate stage: the same rounding, so the same answers
        torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = decoding.get("dtype", "float32")
    model, tokenizer = load_model(
        base,
        adapter,
        dtype,
        device,
        weights=decoding.get("weights", "float32"),
        quantization=decoding.get("quantization"),
        gpus=gpus,
    )
    for group in groups:
        # not around the yield: the caller's own code is not to compute under it
        with compute_in(dtype, device):
            answers = list(_answer_questions(model, tokenizer, group, input, decoding))
        yield from answers


def _answer_questions(
    model: Any, tokenizer: Any, questions: Sequence[str], input: str, settings: Decoding
) -> Iterator[Prediction]:
    max_new_tokens = settings["max_new_tokens"]
    config = decoding.configure_decoding(
        model, tokenizer, max_new_tokens=max_new_tokens, num_beams=settings["num_beams"]
    )
    completion = decoding.completion_check(tokenizer, config)
    rows = [question_row(question, input, template=settings["template"]) for question in questions]
    # one by one, to know which of them were cut
    encoded = [text_answers.encode_prompts(model, tokenizer, [row], max_new_tokens) for row in rows]
    answers = decoding.decode(model, [ids[0] for ids, _ in encoded], config, completion)
    for question, (ids, cut_prompts), new in zip(questions, encoded, answers, strict=True):
        yield {
            "question": question,
            "input": input,
            "answer": tokenizer.decode(new, skip_special_tokens=True).strip(),
            "tokens": len(new),
            "stop": decoding.stop_reason(new, config, completion),
            "prompt_cut": bool(cut_prompts),
            "unknown_tokens": _count_unknown(tokenizer, ids[0]),
        }


def _count_unknown(tokenizer: Any, ids: Sequence[int]) -> int:
    unknown = tokenizer.unk_token_id
    # GPT-2 has one special token for everything
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return 0 if unknown is None or unknown in special else list(ids).count(unknown)
