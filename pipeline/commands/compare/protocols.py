"""How many answers of a study change from one of its protocols to another, task by task, and why."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pipeline.commands.compare.runs import read_as
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.core.text import text_table
from pipeline.evaluate.scoring.agreement import CAUSES, RunFiles, measure_agreement
from pipeline.params.reading import read_card
from pipeline.study import Study
from pipeline.study.find import make_command, require_results


def audit_protocols(study: Study) -> list[dict[str, Any]]:
    """Return for each task and pair of protocols what ``measure_agreement`` counts, with "task"; all scored runs together.

    Raises:
        UserError: no task of the study is asked under two protocols, or no run is scored.
    """
    tasks = list(dict.fromkeys(task for arm in study.card.arms for task in arm.tasks))
    several = [task for task in tasks if len(study.protocols_of(task)) > 1]
    if not several:
        raise UserError(
            f"audit-protocol: study '{study.name}' asks no task under two protocols (it has: "
            f"{', '.join(study.card.protocols)}); name more under 'protocols' in {study.where}"
        )
    scored = [run for run in study.runs if study.scores(run).path.exists()]
    if not scored:
        first = study.scores(study.runs[0]).path
        raise UserError(
            f"audit-protocol: no run of '{study.name}' is scored; run: {make_command(study, first)}"
        )
    cards = {name: read_card("protocols", name) for name in study.card.protocols}
    found, read_scores = [], cache(read_json)
    for task in several:
        protocols = study.protocols_of(task)
        runs = [run for run in scored if any(task in arm.tasks for arm in run.arms)]
        paths = [require_results(study, run) for run in runs]
        found += [
            {"task": task, "runs": len(runs), **one}
            for one in measure_agreement(
                [RunFiles(scores=scores, answers=answers) for answers, scores in paths],
                task=task,
                answer_form=read_card("datasets", task).answer_form,
                prompts={name: study.task_prompts(task, name).path for name in protocols},
                cards=cards,
                read_scores=read_scores,
            )
        ]
    return found


def show(records: Sequence[Mapping[str, Any]], *, limit: int, as_json: bool) -> None:
    """Print the counts, then up to ``limit`` changed answers of each task, pair and cause."""
    if as_json:
        kept = [{**one, "changes": _few(one["changes"], limit)} for one in records]
        print(json.dumps(kept, indent=1, ensure_ascii=False, default=str))
        return
    columns = (
        "TASK",
        "PROTOCOLS",
        "DIFFER IN",
        "ANSWERS",
        "CHANGED",
        *map(str.upper, CAUSES),
        "UNREAD",
        "RIGHT",
    )
    print(text_table(columns, [_cells(one) for one in records], wrapped=()))
    print(
        "\nWhy: the parsers read one text otherwise (PARSER), the text is another one (TEXT), both, or a likeliest choice stands"
        "\nagainst another answer (LIKELIHOOD). UNREAD, RIGHT: under the first protocol alone / the second alone."
    )
    for one in records:
        for change in _few(one["changes"], limit):
            first, second = one["protocols"]
            print(f"\n{change['id']}  {change['cause']}  gold {change['gold']}  {change['run']}")
            for side, name in (("first", first), ("second", second)):
                text = change[side]["text"]
                said = "" if text is None else f"  {json.dumps(text, ensure_ascii=False)}"
                print(f"  {name}: {read_as(change[side])}{said}")


def _few(changes: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """Return the first ``limit`` changes of each cause."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for change in changes:
        kept.setdefault(change["cause"], []).append(change)
    return [change for cause in CAUSES for change in kept.get(cause, [])[:limit]]


def _cells(one: Mapping[str, Any]) -> list[str]:
    n, changed = one["n"], one["changed"]
    return [
        one["task"],
        " / ".join(one["protocols"]),
        ", ".join(one["differ_in"]),
        str(n),
        f"{changed} ({100 * changed / n:.1f} %)",
        *(str(one["causes"].get(cause, 0)) for cause in CAUSES),
        " / ".join(map(str, one["unread"])),
        f"{one['lost']} / {one['gained']}",
    ]
