"""What is left of a teacher's answers: right ones, or all, without duplicates and without test questions.

Source: arXiv:2304.01933 made math_10k so: a teacher's rationales, of which those with wrong answers were left out.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pipeline.audit import find_leaks, find_repeats
from pipeline.audit.rows import Question, RemovedRows
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_jsonl, sha256_file, write_json, write_jsonl
from pipeline.core.text import format_percent
from pipeline.evaluate.distillation.rows import (
    AnsweredSource,
    DistillationYield,
    DistilledRow,
    Fate,
    SourceYield,
)
from pipeline.evaluate.generation.rows import TextAnswer, list_samples
from pipeline.evaluate.parsing.extract import is_correct
from pipeline.evaluate.parsing.turns import cut_to_first_answer
from pipeline.evaluate.scoring.rows import Outcome, Parser
from pipeline.evaluate.scoring.score import outcome_of, parse_row
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts
from pipeline.study.distillation.resolve import LEFT_OUT, ROWS, YIELD


class Cleaning(NamedTuple):
    """The test questions that a set must not contain.

    Attributes:
        tests: names of the tests.
        questions: of all tests.
        method: of the audit, or "any".
    """

    tests: Sequence[str]
    questions: Iterable[Question]
    method: str


class _Judged(NamedTuple):
    """An answer with its judgement, and why its question may not be used, if so."""

    example: PromptRow
    sample: int
    answer: TextAnswer
    outcome: Outcome
    obstacle: Fate | None


def write_distilled_set(
    sources: Sequence[AnsweredSource],
    cleaning: Cleaning,
    *,
    filter: Literal["right", "all"],
    parser: Parser,
    output: Path,
    manifest: Mapping[str, object],
) -> None:
    """Write a distilled set: train.jsonl (``DistilledRow``), yield.json (``DistillationYield``), left_out.json (``RemovedRows``) and manifest.json.

    A question that repeats an earlier one, of any source, is used once. Of equal answers to a question, the first stays.

    Args:
        sources: in the order of the rows.
        cleaning: the test questions to remove.
        filter: "right": answers that the parser finds equal to the gold label; "all": also others. Empty answers and those
            that reached the token limit are left out under both, so that the two differ in correctness alone.
        parser: of generated text.
        output: the folder to write.
        manifest: which set this is.

    Raises:
        UserError: answers of other questions, or nothing is left.
    """
    examples = {source.dataset: read_prompts(source.questions) for source in sources}
    questions = [row for rows in examples.values() for row in rows]
    leaks = find_leaks(lambda: questions, cleaning.questions, method=cleaning.method)
    obstacles: dict[str, Fate] = {row: "repeated question" for row, _ in find_repeats(questions)["repeats"]}
    obstacles |= dict.fromkeys(leaks, "test question")
    rows: list[DistilledRow] = []
    yields: dict[str, SourceYield] = {}
    for source in sources:
        answers = _judge_answers(source, examples[source.dataset], obstacles, parser=parser)
        own_rows, yields[source.dataset] = _select_rows(answers, filter=filter)
        yields[source.dataset]["questions"] = len(examples[source.dataset])
        rows += own_rows
    if not rows:
        fates = sum((Counter(source["fates"]) for source in yields.values()), Counter())
        counts = ", ".join(f"{fate} {count}" for fate, count in fates.items() if count)
        raise UserError(
            f"{output.parent.name}: none of the teacher's answers became a row ({counts}); use a better teacher, more samples or another filter"
        )
    left_out: RemovedRows = {
        "method": cleaning.method,
        "tests": list(cleaning.tests),
        "rows": [list(pair) for pair in leaks.items()],
    }
    with atomic_directory(output) as folder:
        write_jsonl(folder / ROWS, rows)
        content: DistillationYield = {
            "filter": filter,
            "parser": parser,
            "sha256": sha256_file(folder / ROWS),
            "sources": yields,
        }
        write_json(folder / YIELD, content)
        write_json(folder / LEFT_OUT, left_out)
        write_json(folder / "manifest.json", manifest)
    print(json.dumps({name: describe_yield(source) for name, source in yields.items()}, indent=1))


def describe_yield(source: SourceYield) -> str:
    """Return a source's yield in words: "120 of 400 answers (30.0 %) to 400 questions"."""
    rows = source["fates"].get("row", 0)
    share = format_percent(rows / source["answers"])
    return f"{rows:,} of {source['answers']:,} answers ({share} %) to {source['questions']:,} questions"


def _judge_answers(
    source: AnsweredSource, examples: Sequence[PromptRow], obstacles: Mapping[str, Fate], *, parser: Parser
) -> Iterator[_Judged]:
    """Yield every sample of every answer, in the order of the questions.

    Raises:
        UserError: the answers are not those to the questions.
    """
    rows: list[TextAnswer] = read_jsonl(source.answers)
    if [row["id"] for row in rows] != [example["id"] for example in examples]:
        raise UserError(
            f"{source.answers}: not the answers to {source.questions}; delete them, then run again"
        )
    for example, row in zip(examples, rows, strict=True):
        form = example["answer_form"]
        for number, answer in enumerate(list_samples(row)):
            parsed = parse_row(example, answer, parser=parser, form=form, shots=0)
            correct = is_correct(parsed, example["answer"], form=form, parser=parser)
            outcome = outcome_of(answer, parsed is not None, correct)
            yield _Judged(example, number, answer, outcome, obstacles.get(example["id"]))


def _select_rows(
    answers: Iterable[_Judged], *, filter: Literal["right", "all"]
) -> tuple[list[DistilledRow], SourceYield]:
    outcomes: Counter[Outcome] = Counter()
    fates: Counter[Fate] = Counter()
    rows: list[DistilledRow] = []
    tokens = 0
    # question and words of each answer: signs count, since 3 + 4 is not 3 - 4
    texts: set[tuple[str, str]] = set()
    for judged in answers:
        tokens += judged.answer["tokens"]
        outcomes[judged.outcome] += 1
        text = cut_to_first_answer(judged.answer["text"]).text.strip()
        key = judged.example["id"], " ".join(text.split()).casefold()
        fate = _find_fate(judged, text, filter=filter)
        if fate == "row" and key in texts:
            fate = "duplicate"
        fates[fate] += 1
        if fate != "row":
            continue
        texts.add(key)
        rows.append(
            {
                "instruction": judged.example["instruction"],
                "input": judged.example["input"],
                "output": text,
                "answer": judged.example["answer"],
                "source": judged.example["id"],
                "sample": judged.sample,
                "outcome": judged.outcome,
            }
        )
    return rows, {
        "questions": 0,
        "answers": outcomes.total(),
        "tokens": tokens,
        "outcomes": {outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        "fates": {fate: fates[fate] for fate in get_args(Fate)},
        "questions_with_rows": len({row["source"] for row in rows}),
    }


def _find_fate(judged: _Judged, text: str, *, filter: Literal["right", "all"]) -> Fate:
    if judged.obstacle:
        return judged.obstacle
    if not text:
        return "empty"
    if judged.answer["stop"] == "length":
        return "unfinished"
    if filter == "all" or judged.outcome == "right":
        return "row"
    return "wrong" if judged.outcome == "wrong" else "unparsable"
