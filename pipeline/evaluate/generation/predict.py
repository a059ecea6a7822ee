"""Answers to questions of one's own, asked as the evaluation asks: the same prompts, decoding and rounding."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.prompts.rows import question_row

TOGETHER = 32  # lines of stdin that are read, and answered, at once


def predict(
    base: Path,
    adapter: Path | None,
    questions: Iterable[Sequence[str]],
    *,
    input: str,
    decoding: Mapping[str, Any],
    device: str,
) -> Iterator[dict[str, Any]]:
    """Yield a model's answers, in the order of the questions.

    An answer is {"question", "input", "answer" (without white space around it), "tokens" (new ones), "stop" ("eos", "length"
    or "complete": it began another example), "prompt_cut" (its beginning was cut to the model's positions), "unknown_tokens" (of the prompt, that the
    tokenizer has no token for)}. The model is loaded before the first question is read.

    Args:
        base: directory of the base model.
        adapter: directory of the adapter; None: the bare base.
        questions: groups of questions; a group is answered together, which changes no answer.
        input: the instructions' input; empty: none.
        decoding: template, num_beams, max_new_tokens and, if it is not to be float32, dtype.
        device: torch's name of it.

    Raises:
        UserError: a number below 1, or what cannot be loaded.
    """
    for name in ("num_beams", "max_new_tokens"):
        if decoding[name] < 1:
            raise UserError(f"{name}: {decoding[name]} is below 1")
    answerer = _Answerer(base, adapter, decoding, device)
    for group in questions:
        yield from answerer.ask(group, input)


class _Answerer:
    """A loaded model with its decoding."""

    def __init__(self, base: Path, adapter: Path | None, decoding: Mapping[str, Any], device: str) -> None:
        import torch

        from pipeline.evaluate.generation.decoding import completed, settings
        from pipeline.evaluate.generation.loading import load_model

        if device == "cpu":
            torch.set_num_threads(1)  # as the generate stage has it: the same rounding, so the same answers
        torch.manual_seed(0)
        self.chosen = decoding
        self.model, self.tokenizer = load_model(base, adapter, decoding.get("dtype", "float32"), device)
        lengths = {name: decoding[name] for name in ("max_new_tokens", "num_beams")}
        self.config = settings(self.model, self.tokenizer, **lengths)
        self.complete = completed(self.tokenizer, self.config)

    def ask(self, group: Sequence[str], input: str) -> Iterator[dict[str, Any]]:
        from pipeline.evaluate.generation.decoding import decode, stop_reason
        from pipeline.evaluate.generation.generate import encode_prompts

        template = self.chosen["template"]
        examples = [question_row(question, input, template=template) for question in group]
        encoded = [
            encode_prompts(self.model, self.tokenizer, [example], self.chosen["max_new_tokens"])
            for example in examples
        ]
        found = decode(self.model, [ids[0] for ids, _ in encoded], self.config, self.complete)
        for question, (ids, cut), new in zip(group, encoded, found, strict=True):
            yield {
                "question": question,
                "input": input,
                "answer": self.tokenizer.decode(new, skip_special_tokens=True).strip(),
                "tokens": len(new),
                "stop": stop_reason(new, self.config, self.complete),
                "prompt_cut": bool(cut),
                "unknown_tokens": self._unknown(ids[0]),
            }

    def _unknown(self, ids: Sequence[int]) -> int:
        special = (
            self.tokenizer.bos_token_id,
            self.tokenizer.eos_token_id,
        )  # GPT-2 has one token for all of them
        unknown = self.tokenizer.unk_token_id
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
