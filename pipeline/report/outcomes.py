"""What became of the answers: counts by outcome, a sample of each, and where the protocols of a study disagree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

from pipeline.core.io import read_jsonl
from pipeline.evaluate.scoring.agreement import CAUSES, RunFiles, measure_agreement
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.params.templates import question
from pipeline.report.tables import Data, Table, parts_of, percent, place
from pipeline.study.description import RunDescription, TaskDescription

SAMPLE = 3  # answers of an outcome that the page shows
WIDTH = 400  # characters of a question or a text that it shows


def outcome_tables(data: Data) -> dict[str, Table]:
    """The tables of outcomes and of the protocols' agreement, by file name; the latter where there are several."""
    made = {"outcomes": outcomes(data)}
    if len(data.study.protocols) > 1:
        made["agreement"] = protocol_agreement(data)
    return made


def outcomes(data: Data) -> Table:
    """Answers by outcome for each task, protocol, model and method, all seeds together."""
    rows, places = [], []
    for arm, protocol in parts_of(data.study, data.study.protocols):
        for task in arm.tasks:
            for model in data.study.models:
                for method, title in data.methods:
                    runs = data.runs(model.name, method, arm.name)
                    found = [_score(data, run, task, protocol) for run in runs]
                    counts: dict[str, str] = {
                        what: str(sum(one["outcomes"][what] for one in found)) for what in OUTCOMES
                    }
                    row = {"Task": task.title, "Protocol": protocol, "Model": model.title}
                    answers = str(sum(one["n"] for one in found))
                    rows.append({**row, "Method": title, "answers": answers, **counts})
                    places.append(place(model.name, method, arm.name))
    caption = (
        "Answers by outcome, all seeds together: right, wrong (read, but not the gold answer), and not read: truncated "
        "(the token limit came before an answer), empty (nothing but padding and special tokens) or unparsable. What is not "
        "read counts as wrong."
    )
    return Table(caption, pd.DataFrame(rows), places)


def _score(data: Data, run: RunDescription, task: TaskDescription, protocol: str) -> Any:
    return data.scores[run.scores]["tasks"][f"{task.name}-{protocol}"]


def browsed(data: Data) -> list[dict[str, Any]]:
    """What the page unfolds for each task and protocol.

    Returns:
        For each {"task" and "protocol" (titles), "counts": outcome -> answers of all runs, "shares": outcome -> percent,
        "samples": outcome -> [{"run", "id", "question", "text", "parsed", "gold"}], up to ``SAMPLE`` each}.
    """
    found = []
    for arm, protocol in parts_of(data.study, data.study.protocols):
        for task in arm.tasks:
            runs = [run for run in data.study.runs if run.arm in (None, arm.name)]
            counts: Counter[str] = Counter()
            for run in runs:
                counts.update(_score(data, run, task, protocol)["outcomes"])
            kept = {what: counts[what] for what in OUTCOMES if counts[what]}
            answers = cache(read_jsonl)  # of this task alone: all of a large study would not fit in memory
            found.append(
                {
                    "task": task.title,
                    "protocol": protocol,
                    "counts": kept,
                    "shares": {what: 100 * n / counts.total() for what, n in kept.items()},
                    "samples": {
                        what: [
                            _shown(*one, answers(one[0].answers / f"{task.name}-{protocol}.jsonl"))
                            for one in _spread(data, runs, task, protocol, what)
                        ]
                        for what in kept
                    },
                }
            )
    return found


def _spread(
    data: Data,
    runs: Sequence[RunDescription],
    task: TaskDescription,
    protocol: str,
    outcome: str,
) -> list[tuple[Any, int, Any]]:
    """Return answers of an outcome (run, row, item), evenly spread over all: the first, the last, those between."""
    every = [
        (run, row, item)
        for run in runs
        for row, item in enumerate(_score(data, run, task, protocol)["items"])
        if item["outcome"] == outcome
    ]
    last = len(every) - 1
    return [
        every[place] for place in dict.fromkeys(round(last * step / (SAMPLE - 1)) for step in range(SAMPLE))
    ]


def _shown(
    run: RunDescription, row: int, item: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    answer = answers[row]
    label = [run.model, run.method, *([f"seed {run.seed}"] if run.seed is not None else [])]
    return {
        "run": " ".join(label),
        "id": item["id"],
        "question": _cut(question(answer["prompt"])),
        "text": _cut(said(answer)),
        "parsed": "" if item["parsed"] is None else f"{item['parsed']}",
        "gold": item["gold"],
    }


def said(answer: Mapping[str, Any]) -> str:
    """Return what a model answered: its text, or under a likelihood protocol each choice with its log-likelihood."""
    if "text" in answer:
        return str(answer["text"])
    values = zip(answer["choices"], answer["loglikelihoods"], strict=True)
    return ", ".join(f"{choice} {'-' if value is None else f'{value:.2f}'}" for choice, value in values)


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[:WIDTH]} …"


def protocol_agreement(data: Data) -> Table:
    """How many answers change from protocol to protocol, by task, and why; all models, methods and seeds together."""
    rows = []
    for arm in data.study.arms:
        runs = [run for run in data.study.runs if run.arm in (None, arm.name)]
        for task in arm.tasks:
            for one in measure_agreement(
                [RunFiles(run.scores, run.answers) for run in runs],
                task=task.name,
                answer_form=task.answer_form,
                prompts=task.prompts,
                cards=data.study.protocol_cards,
                read_scores=data.scores.__getitem__,
            ):
                causes: dict[str, str] = {cause: str(one["causes"].get(cause, 0)) for cause in CAUSES}
                rows.append(
                    {
                        "Task": task.title,
                        "Protocols": " / ".join(one["protocols"]),
                        "differ in": ", ".join(one["differ_in"]),
                        "answers": str(one["n"]),
                        "agree (%)": percent(1 - one["changed"] / one["n"]),
                        "changed": str(one["changed"]),
                        **causes,
                        "unread under": " / ".join(map(str, one["unread"])),
                        "right under one": f"{one['lost']} / {one['gained']}",
                    }
                )
    caption = (
        "Answers that change from one protocol to another, all runs together, and why: the parsers read one text "
        "otherwise (parser), the text is another one (text), both, or a likeliest choice stands against a text (likelihood). "
        "'unread under' and 'right under one': under the first alone / the second alone. "
        "python -m pipeline audit-protocol prints the answers."
    )
    return Table(caption, pd.DataFrame(rows))
