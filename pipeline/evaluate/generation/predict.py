"""Answers to questions of your own, generated as in the evaluation: the same prompts, decoding and rounding."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import torch

from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding, text_answers
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.generation.rows import StopReason
from pipeline.params.protocols import Decoding
from pipeline.prompts.rows import question_row

TOGETHER = 32  # lines of stdin that are read, and answered, at once


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
) -> Iterator[Prediction]:
    """Yield a model's answers, in the order of the questions; the model is loaded before the first group is taken.

    Args:
        base: directory of the base model.
        adapter: directory of the adapter; None: the bare base.
        groups: of questions; a group is answered together, which does not change an answer.
        input: the instructions' input; empty: none.
        decoding: template, num_beams, max_new_tokens and, unless it is float32, dtype.
        device: torch's name of it.

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
    model, tokenizer = load_model(base, adapter, decoding.get("dtype", "float32"), device)
    for group in groups:
        yield from _answer_questions(model, tokenizer, group, input, decoding)


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


def asked(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Return the questions of a command line in groups: its arguments, the lines of stdin for "-", or a conversation.

    Raises:
        UserError: an empty question, or none and no terminal to ask for one.
    """
    if list(words) == ["-"]:
        return _lines()
    if any(not word.strip() for word in words):
        raise UserError("a question is empty; ask something")
    if words:
        return iter([words])
    if not sys.stdin.isatty():
        raise UserError("no question: give one or several in quotes, or - to read one a line from stdin")
    return _typed()


def _lines() -> Iterator[Sequence[str]]:
    lines = (line.strip() for line in sys.stdin)
    given = (line for line in lines if line)
    while group := list(islice(given, TOGETHER)):
        yield group


def _typed() -> Iterator[Sequence[str]]:
    with suppress(ImportError):
        import_module("readline")  # gives input() its line editing
    print("one question a line; an empty line ends", file=sys.stderr)
    while True:
        try:
            line = input("? ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        yield [line]


def show(answers: Iterable[Mapping[str, Any]], *, as_json: bool, with_questions: bool) -> None:
    """Print answers as they come: the text alone, under its question, or a line of JSON each."""
    for answer in answers:
        if as_json:
            print(json.dumps(answer, ensure_ascii=False), flush=True)
            continue
        if with_questions:
            print(f"> {answer['question']}")
        print(answer["answer"], end="\n\n" if with_questions else "\n", flush=True)
        for note in _notes(answer):
            print(f"note: {note}", file=sys.stderr, flush=True)


def _notes(answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["unknown_tokens"]:
        yield f"the tokenizer does not know {answer['unknown_tokens']} words or signs of the question"
    if answer["prompt_cut"]:
        yield "the prompt was too long; its beginning was cut"
    if answer["stop"] == "length":
        yield f"stopped after {answer['tokens']} tokens; --max-new-tokens allows more"
