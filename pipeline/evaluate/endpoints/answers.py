"""The generate stage for a model behind an endpoint: its answers, made of stored responses and of those that are missing.

A result has the rows that a model on this machine would have, and beside them, in ``responses/``, each request with its
response. Scores never need the endpoint again, and neither does a result that shares requests with this one.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.core.environment import run_info
from pipeline.core.io import replace_directory, write_json, write_jsonl
from pipeline.core.work_folder import locked_work_folder
from pipeline.evaluate.endpoints.exchanges import Exchange, ExchangeId, Request
from pipeline.evaluate.endpoints.journal import RESPONSES, journal_path, list_stored, read_stored
from pipeline.evaluate.endpoints.send import SendStats, send_requests
from pipeline.evaluate.endpoints.tasks import (
    plan_likelihoods,
    plan_texts,
    read_likelihoods,
    read_texts,
    render_for_endpoint,
)
from pipeline.evaluate.generation.rows import (
    GenerationRequest,
    GenerationTask,
    LikelihoodAnswer,
    TaskCost,
    TextAnswer,
)
from pipeline.evaluate.generation.text_answers import divide_first_answers, extend_prompt
from pipeline.evaluate.scoring.gold import refuse_unanswerable
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.machine import MachineSettings
from pipeline.prompts.write import read_prompts


def answer_by_endpoint(
    name: str,
    card: EndpointModel,
    request: GenerationRequest,
    *,
    manifest: Mapping[str, object],
    machine: MachineSettings,
) -> None:
    """Write the answers of a model behind an endpoint: NAME.jsonl of each task, responses, manifest.json and run.json.

    Args:
        name: of the model card.
        card: the card.
        request: the tasks.
        manifest: which answers these are.
        machine: settings of this machine; ``max_cost`` counts.

    Raises:
        UserError: the endpoint cannot be used, keeps failing or costs too much; what came is stored.
    """
    started = time.time()
    for task in request.tasks:
        refuse_unanswerable(read_prompts(task.prompts), path=task.prompts)
    with locked_work_folder(request.output) as work:
        stored = read_stored(list_stored(request.siblings))
        costs: dict[str, TaskCost] = {}
        for task in request.tasks:
            costs[task.name] = _answer_task(_Endpoint(name, card, stored, machine.max_cost), task, work)
        info = run_info(
            started=started, device="cpu", machine=machine.chosen(), endpoint=card.base_url, tasks=costs
        )
        write_json(work / "run.json", info)
        fingerprints = {task.name: task.fingerprint for task in request.tasks}
        write_json(work / "manifest.json", {**manifest, "answers": fingerprints})
        replace_directory(work, request.output)


class _Endpoint(NamedTuple):
    """What the requests of all tasks have in common."""

    name: str
    card: EndpointModel
    stored: Mapping[ExchangeId, Exchange]
    max_cost: float | None

    def send(self, requests: Sequence[Request], *, label: str) -> tuple[list[Exchange], SendStats]:
        return send_requests(
            self.name,
            self.card,
            requests,
            journal=journal_path(self.name),
            stored=self.stored,
            max_cost=self.max_cost,
            label=label,
        )


def _answer_task(endpoint: _Endpoint, task: GenerationTask, work: Path) -> TaskCost:
    """Write the answers file of a task and its requests with their responses."""
    started, card = time.time(), endpoint.card
    rows = read_prompts(task.prompts)
    examples = [render_for_endpoint(row) for row in rows]
    answers: list[TextAnswer] | list[LikelihoodAnswer]
    if "continuation" in task.decoding:
        likelihoods = plan_likelihoods(card, examples, task.decoding)
        requests = [request for row in likelihoods.requests for request in row]
        exchanges, stats = endpoint.send(requests, label=task.name)
        where = f"params/models/{endpoint.name}.yaml"
        answers = list(read_likelihoods(likelihoods, exchanges, where=where))
    else:
        first = divide_first_answers(rows, task.first, task.decoding) if task.first else None
        if task.first and first:
            trigger = task.decoding["answer_trigger"]
            examples = [
                extend_prompt(row, first.unparsed[row["id"]], trigger=trigger, form=task.first.form)
                for row in examples
                if row["id"] in first.unparsed
            ]
        texts = plan_texts(card, examples, task.decoding)
        exchanges, stats = endpoint.send(texts.requests, label=task.name)
        generated = {answer["id"]: answer for answer in read_texts(card, texts, exchanges)}
        for identifier, unparsed in (first.unparsed if first else {}).items():
            generated[identifier]["first"] = {"text": unparsed["text"], "stop": unparsed["stop"]}
        by_id = {**generated, **first.parsed} if first else generated
        answers = [by_id[row["id"]] for row in rows]
    write_jsonl(work / f"{task.name}.jsonl", answers)
    if exchanges:
        write_jsonl(work / RESPONSES / f"{task.name}.jsonl", exchanges)
    return _describe_cost(stats, card, seconds=time.time() - started)


def _describe_cost(stats: SendStats, card: EndpointModel, *, seconds: float) -> TaskCost:
    cost: TaskCost = {
        "calls": stats.calls,
        "rows_at_once": 1,
        "largest_batch": 1,
        "cut_prompts": 0,
        "seconds": round(seconds, 3),
        "input_tokens": stats.input_tokens,
        "output_tokens": stats.output_tokens,
    }
    if stats.cost is not None and card.price:
        cost["cost"], cost["currency"] = round(stats.cost, 6), card.price.currency
    return cost
