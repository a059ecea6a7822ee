"""The command `question`: what every model of a study answers to one question."""

from collections.abc import Iterator
from typing import Annotated, TypedDict, cast

import typer

from pipeline.commands.compare.compare import format_answer, indent_text
from pipeline.commands.options import JsonOption
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.core.text import print_json
from pipeline.evaluate.scoring.rows import ScoreFile
from pipeline.evaluate.scoring.sides import SideAnswer, read_side_answer
from pipeline.params.templates import extract_question
from pipeline.study import Study, load_study
from pipeline.study.find import require_results
from pipeline.study.run import Run


class QuestionAnswer(TypedDict):
    """The answer of one run under one protocol; ``run`` is its name as `compare` takes it."""

    run: str
    protocol: str
    question: str
    gold: str
    answer: SideAnswer


def question_command(
    study: Annotated[str, typer.Argument(help="Study in params/study/.")],
    id: Annotated[str, typer.Argument(help="Id of a question, such as gsm8k/test/7.")],
    protocol: Annotated[str, typer.Option("--protocol", help="Only under this protocol.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print the answers of all runs of a study to one question."""
    answers = list_question_answers(load_study(study), id, protocol=protocol)
    if as_json:
        print_json(answers)
    else:
        _print_answers(id, answers)


def list_question_answers(study: Study, id: str, *, protocol: str = "") -> list[QuestionAnswer]:
    """Return the answers of all scored runs to a question, in the order of the study.

    Args:
        study: with scored runs.
        id: of the question, TASK/SPLIT/ROW.
        protocol: "" for all of the task.

    Raises:
        UserError: the study does not evaluate the question or the protocol, or no run that does is scored.
    """
    task = id.partition("/")[0]
    tasks = list(dict.fromkeys(name for arm in study.card.arms for name in arm.tasks))
    if task not in tasks:
        raise UserError(
            f"question '{id}': study '{study.name}' does not evaluate '{task}' (it has: {', '.join(tasks)})"
        )
    protocols = study.protocols_of(task)
    if protocol and protocol not in protocols:
        raise UserError(
            f"question '{id}': '{task}' is not evaluated under '{protocol}' (evaluated under: {', '.join(protocols)})"
        )
    runs = [
        run
        for run in study.evaluated_runs
        if study.scores(run).path.exists() and any(part.task == task for part in study.tasks(run))
    ]
    if not runs:
        raise UserError(f"question '{id}': no run of '{study.name}' that evaluates '{task}' is scored yet")
    chosen = [protocol] if protocol else protocols
    answers = [
        answer for run in runs for name in chosen for answer in _find_answers(study, run, id, task, name)
    ]
    if not answers:
        raise UserError(f"question '{id}': not among the questions of '{task}' that '{study.name}' evaluates")
    return answers


def _find_answers(study: Study, run: Run, id: str, task: str, protocol: str) -> Iterator[QuestionAnswer]:
    scores: ScoreFile = read_json(require_results(study, run).scores)
    key = f"{task}-{protocol}"
    rows = read_jsonl(study.results(run).answers_file(key))
    for item, row in zip(scores["tasks"][key]["items"], rows, strict=True):
        if item["id"] == id:
            yield {
                "run": run.name,
                "protocol": protocol,
                "question": extract_question(cast(str, row["prompt"])),
                "gold": item["gold"],
                "answer": read_side_answer(item, row),
            }


def _print_answers(id: str, answers: list[QuestionAnswer]) -> None:
    first = answers[0]
    print(f"{id}  gold {first['gold']}\n{indent_text(first['question'], 2)}")
    for entry in answers:
        print(f"\n{entry['run']}  {entry['protocol']}: {format_answer(entry['answer'])}")
        if entry["answer"]["text"] is not None:
            print(indent_text(entry["answer"]["text"], 4))
