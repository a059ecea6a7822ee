"""Scores of a model's answers: read, judged and counted. Imports no torch; never generates."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluate.extract import (
    LABELS,
    RESPONSE_MARK,
    gold_number,
    is_correct,
    parse,
    published_response,
)
from pipeline.io import atomic_file, read_jsonl
from pipeline.prompts import read_prompts
from pipeline.stats import wilson_interval


def score(
    answers: Path, *, tasks: Sequence[Mapping[str, Any]], output: Path, manifest: Mapping[str, Any]
) -> None:
    """Judge a run's answers and write its scores as JSON.

    Args:
        answers: directory that ``generate`` wrote, one NAME.jsonl a task.
        tasks: for each: name, task, protocol ("paper" or "strict"), protocol_version, answer_form and prompts, the
            file of the examples that were asked.
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
    numbers), "majority" the accuracy of always giving the commonest gold answer; both are of these very examples.
    "unparsable" counts texts without an answer, "truncated" those that reached the token limit.
    """
    examples = read_prompts(task["prompts"])
    if not examples:
        raise UserError(f"{task['prompts']}: no examples, so there is nothing to score")
    rows = read_jsonl(path)
    _check(examples, rows, path, task)
    items = [_item(example, row, task) for example, row in zip(examples, rows, strict=True)]
    n, correct = len(items), sum(item["correct"] for item in items)
    low, high = wilson_interval(correct, n)
    return {
        "task": task["task"],
        "protocol": task["protocol"],
        "protocol_version": task["protocol_version"],
        "answer_form": task["answer_form"],
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "low": low,
        "high": high,
        "unparsable": sum(item["parsed"] is None for item in items),
        "truncated": sum(row["stop"] == "length" for row in rows),
        "chance": sum(1 / len(example["choices"]) for example in examples if example["choices"]) / n,
        "majority": _majority(examples, task) / n,
        "items": items,
    }


def _item(example: Mapping[str, Any], row: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    text, protocol, form = row["text"], task["protocol"], task["answer_form"]
    if protocol == "paper" and RESPONSE_MARK in example["prompt"]:
        text = published_response(example["prompt"], text)
    parsed = parse(text, form=form, protocol=protocol, choices=example["choices"] or None)
    correct = is_correct(parsed, example["answer"], form=form, protocol=protocol)
    return {"id": row["id"], "parsed": parsed, "gold": example["answer"], "correct": correct}


def _majority(examples: Sequence[Mapping[str, Any]], task: Mapping[str, Any]) -> int:
    """Return how many examples have the commonest gold answer; "15" and "15.0" are one."""
    golds = (example["answer"] for example in examples)
    counts = Counter(gold_number(gold) if task["answer_form"] == "number" else gold for gold in golds)
    return counts.most_common(1)[0][1]


def _check(
    examples: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    task: Mapping[str, Any],
) -> None:
    """Refuse answers of other examples, and gold answers that no answer could equal."""
    if len(rows) != len(examples):
        raise UserError(
            f"{path}: {len(rows)} answers for the {len(examples)} examples of {task['prompts']}; ask again"
        )
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        if row.get("id") != example["id"]:
            raise UserError(
                f"{path}: row {number} answers '{row.get('id')}', not '{example['id']}' of {task['prompts']}"
            )
        if not _can_be_given(example, task["answer_form"]):
            raise UserError(
                f"{task['prompts']}: {example['id']}: gold answer '{example['answer']}' is no {task['answer_form']}"
                f" that could be given (choices: {', '.join(example['choices']) or 'any finite number'})"
            )


def _can_be_given(example: Mapping[str, Any], form: str) -> bool:
    gold = example["answer"]
    if form == "number":
        try:
            gold_number(gold)
        except ValueError:
            return False
        return True
    return gold in LABELS[form] and (not example["choices"] or gold in example["choices"])
