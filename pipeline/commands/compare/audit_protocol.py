"""The command `audit-protocol`: how many answers change from one protocol of a study to another, and why."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.compare.compare import format_answer
from pipeline.commands.options import JsonOption
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.core.text import format_percent, print_json, print_table
from pipeline.params.reading import read_card
from pipeline.study import Study, load_study
from pipeline.study.find import make_command, require_results

if TYPE_CHECKING:
    # Loads pyarrow, which a command loads only when it runs.
    from pipeline.evaluate.scoring.agreement import Agreement, Cause, ChangedAnswer


def audit_protocol_command(
    study: Annotated[str, typer.Argument(help="Study in params/study/.")],
    limit: Annotated[
        int,
        typer.Option(
            "--limit", min=0, help="How many examples to print for each task, pair of protocols and cause."
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Count the answers that change between a study's protocols, with the causes."""
    records = audit_protocols(load_study(study))
    if as_json:
        print_json(
            [
                {
                    "task": record.task,
                    "runs": record.runs,
                    **record.agreement,
                    "changes": _first_changes(record.agreement["changes"], limit),
                }
                for record in records
            ]
        )
    else:
        _print_protocol_audit(records, limit=limit)


@dataclass(frozen=True)
class TaskAgreement:
    """How a task's answers change from one protocol to another, over a number of scored runs."""

    task: str
    runs: int
    agreement: "Agreement"


def audit_protocols(study: Study) -> list[TaskAgreement]:
    """Return the agreement for each task and pair of protocols, all scored runs together.

    Raises:
        UserError: the study has no runs, or evaluates no task under two protocols, or no run is scored.
    """
    from pipeline.evaluate.scoring.agreement import RunFiles, measure_agreement

    if not study.runs:
        raise UserError(
            f"audit-protocol: study '{study.name}' evaluates no model, so it has no runs to compare"
        )
    tasks = list(dict.fromkeys(task for arm in study.card.arms for task in arm.tasks))
    compared_tasks = [task for task in tasks if len(study.protocols_of(task)) > 1]
    if not compared_tasks:
        raise UserError(
            f"audit-protocol: study '{study.name}' evaluates no task under two protocols (it has: "
            f"{', '.join(study.card.protocols)}); add one under 'protocols' in {study.where}"
        )
    scored_runs = [run for run in study.evaluated_runs if study.scores(run).path.exists()]
    if not scored_runs:
        first = study.scores(study.runs[0]).path
        raise UserError(
            f"audit-protocol: no run of '{study.name}' is scored; run: {make_command(study, first)}"
        )
    cards = {name: read_card("protocols", name) for name in study.card.protocols}
    records: list[TaskAgreement] = []
    # A run has one file of scores for all its tasks.
    cached_scores = cache(read_json)
    for task in compared_tasks:
        protocols = study.protocols_of(task)
        runs = [run for run in scored_runs if any(part.task == task for part in study.tasks(run))]
        paths = [require_results(study, run) for run in runs]
        agreements = measure_agreement(
            [RunFiles(*part) for part in paths],
            task=task,
            answer_form=read_card("datasets", task).answer_form,
            prompts={name: study.task_prompts(task, name).path for name in protocols},
            cards=cards,
            read_scores=cached_scores,
        )
        records += [TaskAgreement(task, len(runs), agreement) for agreement in agreements]
    return records


def _print_protocol_audit(records: Sequence[TaskAgreement], *, limit: int) -> None:
    """Print the counts, then up to ``limit`` changed answers of each task, pair and cause."""
    from pipeline.evaluate.scoring.agreement import CAUSES

    columns = (
        *("TASK", "PROTOCOLS", "DIFFER IN", "ANSWERS", "CHANGED"),
        *map(str.upper, CAUSES),
        *("UNPARSED", "RIGHT"),
    )
    print_table(columns, [_audit_cells(record, CAUSES) for record in records])
    print(
        "\nCauses: the parsers parse the same text differently (PARSER), the texts differ (TEXT), both, or a protocol takes the"
        "\nlikeliest choice (LIKELIHOOD). UNPARSED, RIGHT: only under the first protocol / only under the second."
    )
    for record in records:
        first, second = record.agreement["protocols"]
        for change in _first_changes(record.agreement["changes"], limit):
            print(f"\n{change['id']}  {change['cause']}  gold {change['gold']}  {change['run']}")
            for protocol, answer in ((first, change["first"]), (second, change["second"])):
                text = answer["text"]
                quoted = "" if text is None else f"  {json.dumps(text, ensure_ascii=False)}"
                print(f"  {protocol}: {format_answer(answer)}{quoted}")


def _first_changes(changes: Sequence["ChangedAnswer"], limit: int) -> list["ChangedAnswer"]:
    """Return the first ``limit`` changes of each cause."""
    from pipeline.evaluate.scoring.agreement import CAUSES

    by_cause: dict[str, list[ChangedAnswer]] = {}
    for change in changes:
        by_cause.setdefault(change["cause"], []).append(change)
    return [change for cause in CAUSES for change in by_cause.get(cause, [])[:limit]]


def _audit_cells(record: TaskAgreement, causes: Sequence["Cause"]) -> list[str]:
    agreement = record.agreement
    n, changed = agreement["n"], agreement["changed"]
    return [
        record.task,
        " / ".join(agreement["protocols"]),
        ", ".join(agreement["differ_in"]),
        str(n),
        f"{changed} ({format_percent(changed / n)} %)",
        *(str(agreement["causes"].get(cause, 0)) for cause in causes),
        " / ".join(map(str, agreement["unparsed"])),
        f"{agreement['lost']} / {agreement['gained']}",
    ]
