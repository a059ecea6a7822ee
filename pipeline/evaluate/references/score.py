"""Score answers made elsewhere: by the parsers of our protocols, and by what their authors read in them."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pipeline.core.io import atomic_file, read_json, read_jsonl
from pipeline.core.numbers import gold_number, is_gold_number
from pipeline.evaluate.generation.rows import TextAnswer
from pipeline.evaluate.parsing.extract import is_correct
from pipeline.evaluate.references.rows import ReferenceAnswer, TaskTies
from pipeline.evaluate.references.tie import TIES
from pipeline.evaluate.scoring.gold import refuse_unanswerable
from pipeline.evaluate.scoring.rows import JudgedItem, Outcome, ParsedAnswer, ScoringTask, TaskScore
from pipeline.evaluate.scoring.score import judge_text, summarise_items
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts

# what stands for a reading where the authors stored their judgement alone
JUDGED = "(as its authors judged)"


def score_references(
    answers: Path,
    *,
    tasks: Sequence[ScoringTask],
    stored: Sequence[ScoringTask],
    output: Path,
    manifest: Mapping[str, object],
) -> None:
    """Judge the answers of a reference and write its score file; n is the number of examples with an answer.

    Args:
        answers: folder that ``tie_answers`` wrote.
        tasks: under the protocols that read generated text.
        stored: tasks whose stored reading is scored too.
        output: file to write, a ``ScoreFile``.
        manifest: the keys of ``ScoreFile`` other than "tasks".

    Raises:
        UserError: a gold answer that no answer could equal.
    """
    ties: dict[str, TaskTies] = read_json(answers / TIES)
    scores: dict[str, TaskScore] = {}
    for task in tasks:
        scores[task.name] = _score_task(answers, task, partial(_judge_text, task=task))
    for task in stored:
        others = frozenset(difference["id"] for difference in ties[task.task]["gold_differs"])
        judge = partial(_judge_stored, task=task, other_gold=others)
        scores[task.name] = _score_task(answers, task, judge)
    with atomic_file(output) as temporary:
        text = json.dumps({**manifest, "tasks": scores}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _score_task(
    answers: Path, task: ScoringTask, judge: Callable[[PromptRow, ReferenceAnswer], JudgedItem]
) -> TaskScore:
    rows: list[ReferenceAnswer] = read_jsonl(answers / f"{task.task}.jsonl")
    by_id = {row["id"]: row for row in rows}
    examples = [example for example in read_prompts(task.prompts) if example["id"] in by_id]
    refuse_unanswerable(examples, path=task.prompts, form=task.answer_form)
    items = [judge(example, by_id[example["id"]]) for example in examples]
    return summarise_items(items, examples, task, truncated=sum(row["cut"] for row in rows))


def _judge_text(example: PromptRow, row: ReferenceAnswer, task: ScoringTask) -> JudgedItem:
    """Return the judged item of a text, read as our own answers are."""
    answer: TextAnswer = {
        "id": row["id"],
        "prompt": row["question"],
        "text": row["text"],
        # not known, and no parser asks
        "tokens": 0,
        "stop": "length" if row["cut"] else "eos",
    }
    return judge_text(example, answer, task)


def _judge_stored(
    example: PromptRow, row: ReferenceAnswer, task: ScoringTask, other_gold: frozenset[str]
) -> JudgedItem:
    """Return the judged item of a stored reading: compared with our gold answer, or as its authors judged.

    A judgement by another gold answer than ours (``other_gold`` has these examples) says nothing, and counts as unparsed.
    """
    form = task.answer_form
    parsed: ParsedAnswer
    if "reading" in row:
        parsed = _parse_reading(row["reading"], form)
        correct = is_correct(parsed, example["answer"], form=form, parser="strict")
    else:
        judgement = None if row["id"] in other_gold else row.get("judgement")
        parsed = None if judgement is None else JUDGED
        correct = bool(judgement)
    outcome: Outcome = "unparsable" if parsed is None else "right" if correct else "wrong"
    return {
        "id": row["id"],
        "protocol": task.protocol,
        "parsed": parsed,
        "gold": example["answer"],
        "correct": correct,
        "outcome": outcome,
    }


def _parse_reading(reading: str | None, form: str) -> ParsedAnswer:
    if reading is None or not reading.strip():
        return None
    if form == "number":
        return gold_number(reading) if is_gold_number(reading) else None
    return reading.strip()
