"""Scores of a model's answers: read, judged and counted. Imports no torch; never generates."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file, read_jsonl
from pipeline.evaluate.scoring.choices import accuracies, likeliest
from pipeline.evaluate.scoring.extract import (
    RESPONSE_MARK,
    Answer,
    gold_number,
    is_correct,
    parse,
    published_response,
)
from pipeline.evaluate.scoring.gold import refuse_unanswerable
from pipeline.evaluate.scoring.options import option_texts
from pipeline.evaluate.stats import wilson_interval
from pipeline.prompts.write import read_prompts

# What becomes of an answer, each exactly one: right; wrong (read, and not the gold answer); or not read, since it is
# empty (nothing but padding and special tokens), truncated (reached the token limit before an answer) or unparsable.
OUTCOMES = ("right", "wrong", "unparsable", "truncated", "empty")


def score(
    answers: Path, *, tasks: Sequence[Mapping[str, Any]], output: Path, manifest: Mapping[str, Any]
) -> None:
    """Judge a run's answers and write its scores as JSON.

    Args:
        answers: directory that ``generate`` wrote, one NAME.jsonl a task.
        tasks: for each: name, task, answer_form, prompts (the file of the examples that were asked), and of its protocol
            protocol (its name), protocol_version, parser ("paper", "strict" or "likelihood"), and if they are not to be
            the default, shots (worked examples in the prompts) and headline (of "likelihood": "raw" or "normalised").
        output: file to write: the manifest's keys, and under "tasks" for each name what ``score_task`` returns.
        manifest: which run this is.

    Raises:
        UserError: answers that are not those of the prompts, no example, or a gold answer that no answer could equal.
    """
    scores = {task["name"]: score_task(answers / f"{task['name']}.jsonl", task) for task in tasks}
    with atomic_file(output) as temporary:
        text = json.dumps({**manifest, "tasks": scores}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def score_task(path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return one task's score.

    "accuracy" comes with "low" and "high" (Wilson, 95 %). "chance" is the mean of 1 / number of choices (0 for
    numbers), "majority" the accuracy of always giving the commonest gold answer, "majority_answer"; both are of these
    very examples. "outcomes" has the number of examples of each outcome (``OUTCOMES``), "unparsable" counts texts without
    an answer, whatever the reason, and "truncated" those that reached the token limit, whatever they say.

    Under a likelihood protocol "accuracy" is the one that "headline" names, raw or normalised, and "acc", "acc_norm" and
    "acc_bytes" are lm-evaluation-harness's. An item's "raw", "normalised" and "by_bytes" are the choices found so.
    """
    examples = read_prompts(task["prompts"])
    refuse_unanswerable(examples, path=task["prompts"], form=task["answer_form"])
    rows = read_jsonl(path)
    _check(examples, rows, path, task)
    likelihood = task["parser"] == "likelihood"
    judge = _choice if likelihood else _item
    items = [judge(example, row, task) for example, row in zip(examples, rows, strict=True)]
    n, correct = len(items), sum(item["correct"] for item in items)
    low, high = wilson_interval(correct, n)
    counts = Counter(item["outcome"] for item in items)
    answer, majority = _majority(examples, task)
    return {
        **{key: task[key] for key in ("task", "protocol", "protocol_version", "answer_form")},
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "low": low,
        "high": high,
        **({"headline": task["headline"], **accuracies(items)} if likelihood else {}),
        "unparsable": sum(item["parsed"] is None for item in items),
        "truncated": sum(row.get("stop") == "length" for row in rows),
        "outcomes": {outcome: counts[outcome] for outcome in OUTCOMES},
        "chance": sum(1 / len(example["choices"]) for example in examples if example["choices"]) / n,
        "majority": majority / n,
        "majority_answer": answer,
        "items": items,
    }


def read(example: Mapping[str, Any], row: Mapping[str, Any], task: Mapping[str, Any]) -> Answer:
    """Return what the parser of a task's protocol reads in an answer; ``task`` as for ``score`` (parser, answer_form)."""
    text, parser = row["text"], task["parser"]
    prompt = example["prompt"] or ""  # a model's own chat template has no such mark
    if parser == "paper" and RESPONSE_MARK in prompt and not task.get("shots"):
        text = published_response(prompt, text)
    choices = option_texts(example["instruction"], example["choices"]) or example["choices"] or None
    ended = row["stop"] != "length"
    return parse(text, form=task["answer_form"], protocol=parser, choices=choices, ended=ended)


def _item(example: Mapping[str, Any], row: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    parsed = read(example, row, task)
    correct = is_correct(parsed, example["answer"], form=task["answer_form"], protocol=task["parser"])
    outcome = _outcome(row, parsed is not None, correct)
    return _judged(row["id"], task, parsed=parsed, gold=example["answer"], correct=correct, outcome=outcome)


def _outcome(row: Mapping[str, Any], is_read: bool, correct: bool) -> str:
    if is_read:
        return "right" if correct else "wrong"
    if not row["text"].strip():
        return "empty"
    return "truncated" if row["stop"] == "length" else "unparsable"


def _choice(example: Mapping[str, Any], row: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    found, gold = likeliest(row), example["answer"]
    parsed = found[task["headline"]]
    outcome = "unparsable" if parsed is None else "right" if parsed == gold else "wrong"
    return _judged(
        row["id"], task, parsed=parsed, gold=gold, correct=parsed == gold, outcome=outcome, **found
    )


def _judged(id: str, task: Mapping[str, Any], **found: Any) -> dict[str, Any]:
    return {"id": id, "protocol": task["protocol"], **found}


def _majority(examples: Sequence[Mapping[str, Any]], task: Mapping[str, Any]) -> tuple[str, int]:
    """Return the commonest gold answer, the first of equals, and how many examples have it; "15" and "15.0" are one."""
    as_written: dict[str | float, str] = {}
    counts: Counter[str | float] = Counter()
    for example in examples:
        gold = gold_number(example["answer"]) if task["answer_form"] == "number" else example["answer"]
        as_written.setdefault(gold, example["answer"])
        counts[gold] += 1
    value, count = counts.most_common(1)[0]
    return as_written[value], count


def _check(
    examples: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    task: Mapping[str, Any],
) -> None:
    """Refuse answers of other examples."""
    if len(rows) != len(examples):
        raise UserError(
            f"{path}: {len(rows)} answers for the {len(examples)} examples of {task['prompts']}; ask again"
        )
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        if row.get("id") != example["id"]:
            raise UserError(
                f"{path}: row {number} answers '{row.get('id')}', not '{example['id']}' of {task['prompts']}"
            )
