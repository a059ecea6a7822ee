"""The score stage: parse a model's answers, compare them with the gold answers and count.

Imports no torch and never generates.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file, read_jsonl
from pipeline.core.numbers import gold_number
from pipeline.data.rows import join_question
from pipeline.evaluate.generation.rows import LikelihoodAnswer, TextAnswer, list_samples
from pipeline.evaluate.parsing.extract import (
    RESPONSE_MARK,
    is_correct,
    parse,
    published_response,
)
from pipeline.evaluate.parsing.options import find_option_texts
from pipeline.evaluate.scoring.choices import find_likeliest, harness_accuracies
from pipeline.evaluate.scoring.gold import refuse_unanswerable
from pipeline.evaluate.scoring.rows import (
    JudgedItem,
    LikelihoodAccuracies,
    Outcome,
    ParsedAnswer,
    Parser,
    ScoringTask,
    TaskScore,
)
from pipeline.evaluate.scoring.voting import elect_answer
from pipeline.evaluate.stats import wilson_interval
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts

# Every answer has exactly one outcome. "right" and "wrong" answers were parsed. The others were not: "empty" (nothing
# but padding and special tokens), "truncated" (reached the token limit before it stated an answer) or "unparsable".
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def score(
    answers: Path, *, tasks: Sequence[ScoringTask], output: Path, manifest: Mapping[str, object]
) -> None:
    """Judge a run's answers and write its score file.

    Args:
        answers: directory that the generate stage wrote, with a NAME.jsonl for each task that names no file.
        tasks: the tasks of the run.
        output: file to write, a ``ScoreFile``.
        manifest: the keys of ``ScoreFile`` other than "tasks".

    Raises:
        UserError: the answers do not belong to the prompts, a task has no examples, or a gold answer that no answer
            could equal.
    """
    scores = {task.name: score_task(task.answers or answers / f"{task.name}.jsonl", task) for task in tasks}
    with atomic_file(output) as temporary:
        text = json.dumps({**manifest, "tasks": scores}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def score_task(path: Path, task: ScoringTask) -> TaskScore:
    """Return the score of the answers in ``path``, a JSONL file with a row for each example of the task."""
    examples = read_prompts(task.prompts)
    refuse_unanswerable(examples, path=task.prompts, form=task.answer_form)
    rows = read_jsonl(path)
    _check_ids(examples, rows, path, task)
    is_likelihood = task.parser == "likelihood"
    # The parser says which kind of rows the generate stage wrote.
    items = [
        _judge_likelihoods(example, cast(LikelihoodAnswer, row), task)
        if is_likelihood
        else judge_text(example, cast(TextAnswer, row), task)
        for example, row in zip(examples, rows, strict=True)
    ]
    likelihood_part: LikelihoodAccuracies = (
        harness_accuracies(items, headline=task.headline) if is_likelihood else {}
    )
    truncated = 0 if is_likelihood else sum(_reached_limit(cast(TextAnswer, row)) for row in rows)
    return summarise_items(items, examples, task, truncated=truncated, likelihood_part=likelihood_part)


def summarise_items(
    items: list[JudgedItem],
    examples: Sequence[PromptRow],
    task: ScoringTask,
    *,
    truncated: int,
    likelihood_part: LikelihoodAccuracies | None = None,
) -> TaskScore:
    """Return the score of judged items.

    Args:
        items: one for each example.
        examples: in the order of the items.
        task: under its protocol.
        truncated: number of answers that reached the token limit.
        likelihood_part: of a likelihood protocol.
    """
    n, correct = len(items), sum(item["correct"] for item in items)
    low, high = wilson_interval(correct, n)
    counts = Counter(item["outcome"] for item in items)
    majority_answer, majority_count = _most_common_gold(examples, task.answer_form)
    return {
        "task": task.task,
        "protocol": task.protocol,
        "protocol_version": task.protocol_version,
        "answer_form": task.answer_form,
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "low": low,
        "high": high,
        **(likelihood_part or {}),
        "unparsable": sum(item["parsed"] is None for item in items),
        "truncated": truncated,
        "outcomes": {outcome: counts[outcome] for outcome in OUTCOMES},
        "chance": sum(1 / len(example["choices"]) for example in examples if example["choices"]) / n,
        "majority": majority_count / n,
        "majority_answer": majority_answer,
        "items": items,
    }


def parse_row(example: PromptRow, row: TextAnswer, *, parser: Parser, form: str, shots: int) -> ParsedAnswer:
    """Return the answer that a text parser finds in a row of an answers file.

    Of a second stage that is the first answer where the parser reads it, and else the text behind "The answer is". Of
    several samples it is the most frequent answer.

    Args:
        example: the row of the prompts file that was answered.
        row: the model's answer.
        parser: "paper" or "strict".
        form: the task's answer form.
        shots: number of worked examples in the prompt.
    """
    if "further_samples" in row:
        return elect_answer(parse_samples(example, row, parser=parser, form=form, shots=shots))
    if "first" in row:
        first: TextAnswer = {**row, "text": row["first"]["text"], "stop": row["first"]["stop"]}
        del first["first"]
        parsed = parse_row(example, first, parser=parser, form=form, shots=shots)
        if parsed is not None:
            return parsed
    # The words that the model continued differ between cards and forms; these introduce an answer for every parser.
    text: str = f"The answer is {row['text']}" if "first" in row else row["text"]
    # A chat template's prompt is null: the tokenizer writes it, and it has no response mark.
    prompt = example["prompt"] or ""
    # With worked examples the first mark is an example's, so the published rule would judge that example.
    if parser == "paper" and RESPONSE_MARK in prompt and not shots:
        text = published_response(prompt, text)
    question = join_question(example["instruction"], example["input"])
    choices = find_option_texts(question, example["choices"]) or example["choices"] or None
    ended = row["stop"] != "length"
    return parse(text, form=form, parser=parser, choices=choices, ended=ended)


def parse_samples(
    example: PromptRow, row: TextAnswer, *, parser: Parser, form: str, shots: int
) -> list[ParsedAnswer]:
    """Return the answer that a text parser finds in each sample of a row; the arguments are those of ``parse_row``."""
    return [parse_row(example, sample, parser=parser, form=form, shots=shots) for sample in list_samples(row)]


def judge_text(example: PromptRow, row: TextAnswer, task: ScoringTask) -> JudgedItem:
    """Return the judged item of a generated text, or of the vote of several samples."""
    form, parser = task.answer_form, task.parser
    samples = parse_samples(example, row, parser=parser, form=form, shots=task.shots)
    parsed = elect_answer(samples)
    correct = is_correct(parsed, example["answer"], form=form, parser=parser)
    item: JudgedItem = {
        "id": row["id"],
        "protocol": task.protocol,
        "parsed": parsed,
        "gold": example["answer"],
        "correct": correct,
        "outcome": outcome_of(row, parsed is not None, correct),
    }
    if "further_samples" in row:
        item["samples"] = samples
        item["right_samples"] = sum(
            is_correct(sample, example["answer"], form=form, parser=parser) for sample in samples
        )
    return item


def outcome_of(row: TextAnswer, is_parsed: bool, correct: bool) -> Outcome:
    """Return the outcome of an answer, from whether the parser found an answer in it and whether that is correct."""
    if is_parsed:
        return "right" if correct else "wrong"
    if not any(sample["text"].strip() for sample in list_samples(row)):
        return "empty"
    return "truncated" if _reached_limit(row) else "unparsable"


def _reached_limit(row: TextAnswer) -> bool:
    """Return whether an answer, or one of its samples, reached the token limit."""
    return any(sample["stop"] == "length" for sample in list_samples(row))


def _judge_likelihoods(example: PromptRow, row: LikelihoodAnswer, task: ScoringTask) -> JudgedItem:
    """Return the judged item of a row of log-likelihoods."""
    best, gold = find_likeliest(row), example["answer"]
    parsed = {"raw": best.raw, "normalised": best.normalised, "pmi": best.pmi}[task.headline]
    correct = parsed == gold
    item: JudgedItem = {
        "id": row["id"],
        "protocol": task.protocol,
        "parsed": parsed,
        "gold": gold,
        "correct": correct,
        "outcome": "unparsable" if parsed is None else "right" if correct else "wrong",
        "raw": best.raw,
        "normalised": best.normalised,
        "by_bytes": best.by_bytes,
    }
    if "unconditional" in row:
        item["pmi"] = best.pmi
    return item


def _most_common_gold(examples: Sequence[PromptRow], form: str) -> tuple[str, int]:
    """Return the most common gold answer and its count; of equal counts the first. "15" and "15.0" are one answer."""
    spelling: dict[str | float, str] = {}
    counts: Counter[str | float] = Counter()
    for example in examples:
        gold = gold_number(example["answer"]) if form == "number" else example["answer"]
        spelling.setdefault(gold, example["answer"])
        counts[gold] += 1
    value, count = counts.most_common(1)[0]
    return spelling[value], count


def _check_ids(
    examples: Sequence[PromptRow],
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    task: ScoringTask,
) -> None:
    """Refuse answers that belong to other examples."""
    if len(rows) != len(examples):
        raise UserError(
            f"{path}: {len(rows)} answers for the {len(examples)} examples of {task.prompts}; generate them again"
        )
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        if row.get("id") != example["id"]:
            raise UserError(
                f"{path}: row {number} answers '{row.get('id')}', not '{example['id']}' of {task.prompts}"
            )
