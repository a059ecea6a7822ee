"""Tie answers made elsewhere to our examples by their questions; never by a guess."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_jsonl, write_json, write_jsonl
from pipeline.core.numbers import gold_number, is_gold_number
from pipeline.data.rows import join_question
from pipeline.evaluate.references.rows import (
    GoldDifference,
    ReferenceAnswer,
    SourceAnswer,
    TaskTies,
    normalise_question,
    read_source,
)
from pipeline.params.published.references import ReferenceFormat
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts

# in the folder of the answers
TIES = "ties.json"


@dataclass(frozen=True)
class SourceTask:
    """A task that a reference has answers to.

    Attributes:
        task: the dataset.
        answer_form: of its gold answers.
        rows: the file of the source's rows, as ``fetch`` wrote it.
        prompts: the prompts file with our examples.
        known_malformed: numbers of rows that are left out.
    """

    task: str
    answer_form: str
    rows: Path
    prompts: Path
    known_malformed: Sequence[int] = ()


def tie_answers(
    name: str,
    tasks: Sequence[SourceTask],
    *,
    format: ReferenceFormat,
    output: Path,
    manifest: Mapping[str, object],
) -> None:
    """Write the answers of a reference to our examples: TASK.jsonl of each task, ties.json and manifest.json.

    Args:
        name: of the reference, for messages.
        tasks: that it has answers to.
        format: of the source's rows.
        output: the folder to write.
        manifest: the identity of the artifact.

    Raises:
        UserError: the rows are not in the format, or none of their questions is ours.
    """
    ties: dict[str, TaskTies] = {}
    with atomic_directory(output) as folder:
        for task in tasks:
            where = f"{name} ({task.task})"
            answers = read_source(
                read_jsonl(task.rows), format, name=where, known_malformed=task.known_malformed
            )
            examples = read_prompts(task.prompts)
            rows, ties[task.task] = tie_task(examples, answers, format, form=task.answer_form)
            if not rows:
                raise UserError(
                    f"{where}: none of its {len(answers)} questions is one of the {len(examples)} of '{task.task}'; its first is "
                    f"'{_excerpt(answers[0].question)}'; correct the card's format: question, or leave out the task"
                )
            write_jsonl(folder / f"{task.task}.jsonl", rows)
            print(describe_ties(where, ties[task.task]))
        write_json(folder / TIES, ties)
        write_json(folder / "manifest.json", manifest)


def _excerpt(text: str) -> str:
    text = normalise_question(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe_ties(where: str, ties: TaskTies) -> str:
    """Return the counts of a task in one line."""
    parts = [f"{ties['tied']} of {ties['examples']} examples have an answer"]
    counts = {
        "examples without an answer": len(ties["unanswered"]),
        "examples with several answers that differ, none used": len(ties["ambiguous"]),
        "rows without an example": len(ties["unknown"]),
        "rows that repeat another": len(ties["repeated"]),
        "gold labels that differ from ours, which counts": len(ties["gold_differs"]),
    }
    parts += [f"{count} {words}" for words, count in counts.items() if count]
    return f"{where}: {', '.join(parts)}"


def tie_task(
    examples: Sequence[PromptRow], answers: Sequence[SourceAnswer], format: ReferenceFormat, *, form: str
) -> tuple[list[ReferenceAnswer], TaskTies]:
    """Return the answers to the examples of a task, in the order of the examples, and what was tied to what.

    A question ties if it is equal to an example's, white space and the mark at its end apart. Where several examples have one question, and it
    has as many answers, these are tied in their order: the examples ask the same, so no order is better. Where it has
    more answers than examples, or fewer, only answers that all say the same are taken.

    Args:
        examples: of the task.
        answers: of the source.
        format: of the source's rows.
        form: the form of the task's gold answers.
    """
    positions: dict[str, list[int]] = {}
    for position, example in enumerate(examples):
        question = normalise_question(join_question(example["instruction"], example["input"]))
        positions.setdefault(question, []).append(position)
    by_question: dict[str, list[SourceAnswer]] = {}
    for answer in answers:
        by_question.setdefault(normalise_question(answer.question), []).append(answer)
    chosen: dict[int, SourceAnswer] = {}
    ambiguous: list[int] = []
    repeated: list[int] = []
    for question, indices in positions.items():
        if question not in by_question:
            continue
        taken, spare = _choose_answers(
            by_question[question], len(indices), is_one_question=_has_one_gold(examples, indices, form)
        )
        chosen |= dict(zip(indices, taken, strict=False))
        ambiguous += [] if taken else indices
        repeated += [answer.row for answer in spare]
    unanswered = set(range(len(examples))) - set(chosen) - set(ambiguous)
    rows = [_make_row(examples[position], chosen[position], format) for position in sorted(chosen)]
    ties: TaskTies = {
        "rows": len(answers),
        "examples": len(examples),
        "tied": len(rows),
        "unanswered": [examples[position]["id"] for position in sorted(unanswered)],
        "ambiguous": [examples[position]["id"] for position in sorted(ambiguous)],
        "unknown": [answer.row for answer in answers if normalise_question(answer.question) not in positions],
        "repeated": sorted(repeated),
        "gold_differs": list(_list_gold_differences(examples, chosen, form)),
    }
    return rows, ties


def _choose_answers(
    answers: Sequence[SourceAnswer], examples: int, *, is_one_question: bool
) -> tuple[list[SourceAnswer], list[SourceAnswer]]:
    """Return an answer for each of several examples with one question, and the answers that repeat another one."""
    first_of: dict[object, SourceAnswer] = {}
    for answer in answers:
        first_of.setdefault(answer.content, answer)
    if len(first_of) == 1:
        # a source may list its answer once for each example, and once for each way of reading it
        return list(answers[:1]) * examples, list(answers[max(examples, 1) :])
    if len(answers) == examples and is_one_question:
        return list(answers), []
    return [], []


def _has_one_gold(examples: Sequence[PromptRow], indices: Sequence[int], form: str) -> bool:
    first = examples[indices[0]]["answer"]
    return all(_is_equal(examples[index]["answer"], first, form) for index in indices)


def _make_row(example: PromptRow, answer: SourceAnswer, format: ReferenceFormat) -> ReferenceAnswer:
    row: ReferenceAnswer = {
        "id": example["id"],
        "row": answer.row,
        "question": answer.question,
        "text": answer.text,
        "cut": answer.cut,
    }
    if format.reading:
        row["reading"] = answer.reading
    elif format.correct:
        row["judgement"] = answer.judgement
    return row


def _list_gold_differences(
    examples: Sequence[PromptRow], chosen: Mapping[int, SourceAnswer], form: str
) -> Iterator[GoldDifference]:
    for position in sorted(chosen):
        example, answer = examples[position], chosen[position]
        if answer.gold is not None and not _is_equal(example["answer"], answer.gold, form):
            yield {
                "id": example["id"],
                "row": answer.row,
                "theirs": answer.gold,
                "ours": example["answer"],
            }


def _is_equal(ours: str, theirs: str, form: str) -> bool:
    """Whether two gold answers are the same; "15" and "15.0" are."""
    if form == "number" and is_gold_number(theirs):
        return gold_number(theirs) == gold_number(ours)
    return ours.strip() == theirs.strip()
