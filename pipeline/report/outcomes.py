"""The outcomes of the answers: their counts, and where the protocols of a study disagree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.core.text import format_percent
from pipeline.evaluate.scoring.agreement import CAUSES, Agreement, RunFiles, measure_agreement
from pipeline.evaluate.scoring.metrics import ACCURACY, BOUND, NORMALISATIONS, PMI, Metric
from pipeline.evaluate.scoring.rows import Outcome
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.report.data import Cell, ReportData, Selection, list_sections, score_key
from pipeline.report.tables import MACRO, Table, format_interval


def build_outcome_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of outcomes, of unparsed answers and, for several protocols, of their agreement, by file name."""
    tables = {"outcomes": _build_outcome_table(data)}
    if (unparsed := _build_unparsed_table(data)) is not None:
        tables["unparsed"] = unparsed
    if (normalisations := _build_normalisation_table(data)) is not None:
        tables["normalisations"] = normalisations
    if len(data.study.protocols) > 1:
        tables["agreement"] = _build_agreement_table(data)
    return tables


def _build_outcome_table(data: ReportData) -> Table:
    """Build the number of answers by outcome for each task, protocol, model and method, all seeds together."""
    rows, anchors = [], []
    for section in list_sections(data.study, data.study.protocols):
        for task, key in zip(section.tasks, section.keys, strict=True):
            for model in data.study.models:
                for method, title in data.method_titles(model.name).items():
                    cell = Cell(model.name, method, section.arm.name)
                    scores = [data.get_task_score(run, key) for run in data.find_runs(*cell)]
                    row = {
                        "Task": data.describe_task(task, section.arm.name),
                        "Protocol": section.protocol,
                        "Model": model.title,
                    }
                    row |= {"Method": title, "answers": str(sum(score["n"] for score in scores))}
                    row |= {
                        outcome: str(sum(score["outcomes"][outcome] for score in scores))
                        for outcome in OUTCOMES
                    }
                    rows.append(row)
                    anchors.append(cell.anchor)
    caption = (
        "Answers by outcome, all seeds together: right, wrong (parsed, but not the gold label), and unparsed, which counts as "
        "wrong: truncated (the token limit came before an answer), empty (only padding and special tokens) or unparsable."
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _build_unparsed_table(data: ReportData) -> Table | None:
    """Build accuracy as scored, its bound and that of a second stage, under each protocol that parses a text."""
    cards = data.study.protocol_cards
    first_stages = [
        name for name, card in cards.items() if card.parser != "likelihood" and not card.first_stage
    ]
    rows, anchors = [], []
    for section in list_sections(data.study, first_stages):
        # of several second stages, such as two wordings, each has a column
        later = [name for name, card in cards.items() if card.first_stage == section.protocol]
        parts = [(MACRO, section.tasks)] if len(section.tasks) > 1 else []
        parts += [(data.describe_task(task, section.arm.name), [task]) for task in section.tasks]
        for title, tasks in parts:
            for model in data.study.models:
                for method, method_title in data.method_titles(model.name).items():
                    cell = Cell(model.name, method, section.arm.name)
                    row = {"Arm": section.arm.name, "Task": title, "Protocol": section.protocol}
                    row |= {"Model": model.title, "Method": method_title}
                    row |= _format_unparsed(data, cell, [score_key(task, section.protocol) for task in tasks])
                    for name in later:
                        keys = [score_key(task, name) for task in tasks if name in task.protocols]
                        complete = len(keys) == len(tasks)
                        row[name] = _format_mean(data, ACCURACY, cell, keys) if complete else ""
                    rows.append(row)
                    anchors.append(cell.anchor)
    if not rows:
        return None
    caption = (
        "Effect of unparsed answers, in percent with 95 % intervals: the share of unparsed answers, accuracy as scored (an "
        "unparsed answer is wrong), accuracy if all unparsed answers were right"
    )
    caption += (
        ", and accuracy under a second stage, which prompts the same model again where its answer was not parsed."
        if any(card.first_stage for card in cards.values())
        else "."
    )
    caption += (
        " Where an adapter is no better than its bare base would be if all the base's unparsed answers were right, the parser may "
        "explain the gain."
    )
    return Table(caption, pd.DataFrame(rows).fillna(""), anchors)


def _build_normalisation_table(data: ReportData) -> Table | None:
    """Build accuracy by the normalisations of the log-likelihoods, under each likelihood protocol."""
    cards = data.study.protocol_cards
    has_pmi = any(card.unconditional is not None for card in cards.values())
    measures = [metric for metric in NORMALISATIONS if has_pmi or metric is not PMI]
    rows, anchors = [], []
    for section in list_sections(
        data.study, [name for name, card in cards.items() if card.parser == "likelihood"]
    ):
        for task, key in zip(section.tasks, section.keys, strict=True):
            for model in data.study.models:
                for method, title in data.method_titles(model.name).items():
                    cell = Cell(model.name, method, section.arm.name)
                    row = {"Task": data.describe_task(task, section.arm.name), "Protocol": section.protocol}
                    row |= {"Model": model.title, "Method": title}
                    for metric in measures:
                        is_measured = metric is not PMI or cards[section.protocol].unconditional is not None
                        row[metric.name] = _format_mean(data, metric, cell, [key]) if is_measured else ""
                    rows.append({**row, "the task's own": task.normalisation or ""})
                    anchors.append(cell.anchor)
    if not rows:
        return None
    caption = (
        "Accuracy in percent with 95 % intervals, by how the log-likelihoods of the choices are compared: as they are (raw), per "
        "character, per UTF-8 byte. The task's own: the normalisation that OLMES (arXiv:2406.08446) uses for the words of its "
        "options. pmi: the log-likelihood less that after a neutral prompt, for protocols that have one. The other tables use the "
        "normalisation that the protocol's card names."
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _format_unparsed(data: ReportData, cell: Cell, keys: Sequence[str]) -> dict[str, str]:
    scores = [data.get_task_score(run, key) for key in keys for run in data.find_runs(*cell)]
    # every task counts the same, as in the accuracies beside it
    unparsed = sum(score["unparsable"] / score["n"] for score in scores) / len(scores)
    return {
        "unparsed (%)": format_percent(unparsed),
        "as scored": _format_mean(data, ACCURACY, cell, keys),
        "if all unparsed were right": _format_mean(data, BOUND, cell, keys),
    }


def _format_mean(data: ReportData, metric: Metric, cell: Cell, keys: Sequence[str]) -> str:
    """Format the macro average of a proportion over tasks, with its interval."""
    return format_interval(data.estimate(cell, Selection(tuple(keys), metric=metric)))


@dataclass(frozen=True)
class TaskOutcomes:
    """The outcomes of all runs' answers to a task under a protocol, without those that no answer has.

    Attributes:
        task: its title, with the arm where several have the task.
        title: without the arm.
        protocol: its name.
        counts: answers by outcome.
        shares: the same in percent.
        parts: answers by outcome, for each title of a model and a method.
    """

    task: str
    title: str
    protocol: str
    counts: Mapping[Outcome, int]
    shares: Mapping[Outcome, float]
    parts: Mapping[tuple[str, str], Counter[Outcome]]


def list_task_outcomes(data: ReportData) -> list[TaskOutcomes]:
    """Return the outcomes of each task and protocol, all runs together."""
    task_outcomes = []
    models = {model.name: model.title for model in data.study.models}
    for section in list_sections(data.study, data.study.protocols):
        runs = data.find_evaluated(section.arm.name)
        for task, key in zip(section.tasks, section.keys, strict=True):
            parts: dict[tuple[str, str], Counter[Outcome]] = {}
            for run in runs:
                titles = models[run.model], data.method_titles(run.model)[run.method]
                items = data.get_task_score(run, key)["items"]
                parts.setdefault(titles, Counter()).update(item["outcome"] for item in items)
            sums = sum(parts.values(), Counter[Outcome]())
            counts = {outcome: sums[outcome] for outcome in OUTCOMES if sums[outcome]}
            total = sum(counts.values())
            task_outcomes.append(
                TaskOutcomes(
                    task=data.describe_task(task, section.arm.name),
                    title=task.title,
                    protocol=section.protocol,
                    counts=counts,
                    shares={outcome: n / total for outcome, n in counts.items()},
                    parts=parts,
                )
            )
    return task_outcomes


def _build_agreement_table(data: ReportData) -> Table:
    """Build how many answers to a task change from protocol to protocol, and the causes, all runs together."""
    rows = []
    for arm in data.study.arms:
        runs = [
            RunFiles(run.scores, run.answers, run.second_answers) for run in data.find_evaluated(arm.name)
        ]
        for task in arm.tasks:
            agreements = measure_agreement(
                runs,
                task=task.name,
                answer_form=task.answer_form,
                prompts=task.prompts,
                cards=data.study.protocol_cards,
                read_scores=data.scores.__getitem__,
            )
            rows += [
                _format_agreement(data.describe_task(task, arm.name), agreement) for agreement in agreements
            ]
    caption = (
        "Answers that change from one protocol to another, all runs together, with the cause: the parsers parse the same text "
        "differently (parser), the text differs (text), both, or one protocol takes the likeliest choice and the other parses a "
        "text (likelihood). 'unparsed under one' and 'right under one': under the first alone / under the second alone. "
        "python -m pipeline audit-protocol prints the answers."
    )
    return Table(caption, pd.DataFrame(rows))


def _format_agreement(task: str, agreement: Agreement) -> dict[str, str]:
    causes: dict[str, str] = {cause: str(agreement["causes"].get(cause, 0)) for cause in CAUSES}
    return {
        "Task": task,
        "Protocols": " / ".join(agreement["protocols"]),
        "differ in": ", ".join(agreement["differ_in"]),
        "answers": str(agreement["n"]),
        "agree (%)": format_percent(1 - agreement["changed"] / agreement["n"]),
        "changed": str(agreement["changed"]),
        **causes,
        "unparsed under one": " / ".join(map(str, agreement["unparsed"])),
        "right under one": f"{agreement['lost']} / {agreement['gained']}",
    }
