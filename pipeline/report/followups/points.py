"""How many points of accuracy lie between two protocols on the same runs, and how many of them belong to the parser alone."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from pipeline.core.io import read_jsonl
from pipeline.evaluate import stats
from pipeline.evaluate.generation.rows import TextAnswer
from pipeline.evaluate.parsing.extract import is_correct
from pipeline.evaluate.scoring.agreement import reparse
from pipeline.evaluate.stats import Difference, Estimate
from pipeline.prompts.write import read_prompts
from pipeline.report.data import Cell, ReportData, Selection, score_key
from pipeline.study.description import RunDescription, TaskDescription


class ProtocolPoints(NamedTuple):
    """From the accuracy under one protocol to that under another, the macro average of the same tasks and examples.

    ``first`` + ``parser`` + ``text`` = ``second``. The differences are over examples, of the mean over seeds: both sides are the
    same runs.

    Attributes:
        first: the accuracy under the first protocol.
        second: the accuracy under the second.
        total: second less first.
        parser: the first protocol's texts parsed by the second's parser, less first; None: one of them parses no text, so the
            two parts cannot be told apart.
        text: second less that, the part of prompt and decoding; None as above.
    """

    first: Estimate
    second: Estimate
    total: Difference
    parser: Difference | None
    text: Difference | None


def measure_points(
    data: ReportData, cell: Cell, tasks: Sequence[TaskDescription], *, first: str, second: str
) -> ProtocolPoints:
    """Return the points between two protocols.

    Args:
        data: the study's results.
        cell: the runs.
        tasks: the tasks that both protocols cover.
        first: a protocol of the study.
        second: another protocol of the study.
    """
    keys = {name: [score_key(task, name) for task in tasks] for name in (first, second)}
    values = {name: [data.get_correctness(cell, key) for key in keys[name]] for name in keys}
    clusters = data.list_clusters(Selection(tuple(keys[second])))

    def compare(larger: Sequence[list[list[float]]], smaller: Sequence[list[list[float]]]) -> Difference:
        pairs = [(_average(one), _average(other)) for one, other in zip(larger, smaller, strict=True)]
        return stats.estimate_mean_difference(pairs, clusters=clusters)

    parser = text = None
    cards = data.study.protocol_cards
    if "likelihood" not in {cards[first].parser, cards[second].parser}:
        parsed = [_parse_again(data, cell, task, first=first, second=second) for task in tasks]
        parser, text = compare(parsed, values[first]), compare(values[second], parsed)
    return ProtocolPoints(
        first=data.average_accuracy(cell, keys[first]),
        second=data.average_accuracy(cell, keys[second]),
        total=compare(values[second], values[first]),
        parser=parser,
        text=text,
    )


def _average(runs: list[list[float]]) -> list[list[float]]:
    """Return the mean over seeds, shape (1, examples)."""
    return [[float(value) for value in np.mean(runs, axis=0)]]


def _parse_again(
    data: ReportData, cell: Cell, task: TaskDescription, *, first: str, second: str
) -> list[list[float]]:
    """Return which answers to one protocol's prompts are right by the parser of another, shape (seeds, examples)."""
    cards = data.study.protocol_cards
    if cards[first].parser == cards[second].parser:
        return data.get_correctness(cell, score_key(task, first))
    return [_parse_run(data, run, task, first=first, second=second) for run in data.find_runs(*cell)]


def _parse_run(
    data: ReportData, run: RunDescription, task: TaskDescription, *, first: str, second: str
) -> list[float]:
    written, read = (data.study.protocol_cards[name] for name in (first, second))
    form = task.answer_form
    rows = read_jsonl(data.answers_file(run, score_key(task, first)))
    right = []
    for example, row in zip(read_prompts(task.prompts[first]), rows, strict=True):
        parsed = reparse(example, cast(TextAnswer, row), written=written, read=read, form=form)
        right.append(float(is_correct(parsed, example["answer"], form=form, parser=read.parser)))
    return right
