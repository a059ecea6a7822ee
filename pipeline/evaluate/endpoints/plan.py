"""What the missing answers of a study's endpoint models will take: calls, tokens and cost, before the first call. Imports no torch.

Where the prompts are written, calls are counted exactly and stored responses are left out. Before that, the rows that the
datasets' cards state stand for them. A second stage has at most a call for each first answer. Input tokens are a quarter of the
characters; output tokens are the most that the protocol allows, so the cost is an upper estimate, except where a text has more
tokens than that.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.evaluate.endpoints.exchanges import CHARACTERS_PER_TOKEN, Exchange, Request
from pipeline.evaluate.endpoints.journal import journal_path, list_stored, read_journal, read_stored
from pipeline.evaluate.endpoints.tasks import plan_likelihoods, plan_texts, render_for_endpoint
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.reading import read_card
from pipeline.prompts.write import read_prompts
from pipeline.study.costs.estimate import count_rows
from pipeline.study.grid import Study
from pipeline.study.run import Run, Task, is_endpoint

# of a prompt that is not written yet, without worked examples, and of each of them
PROMPT_TOKENS, SHOT_TOKENS = 200, 150
# choices of an example, where the prompts are not written yet
CHOICES = 4


class TaskPlan(NamedTuple):
    """What the answers to a task will take.

    Attributes:
        model: its card.
        task: TASK-PROTOCOL.
        calls: requests without a stored response; None: the number of examples is unknown until they are fetched.
        is_exact: whether the calls are counted, not estimated.
        input_tokens: of these calls, roughly.
        output_tokens: the most.
        cost: the most, at the card's price; None: it states none, or the calls are unknown.
        currency: of the price; empty without one.
    """

    model: str
    task: str
    calls: int | None
    is_exact: bool
    input_tokens: int
    output_tokens: int
    cost: float | None
    currency: str


def plan_endpoints(study: Study) -> list[TaskPlan]:
    """Return what each task of each endpoint model of a study will take; finished answers take nothing."""
    plans = []
    for run in study.evaluated_runs:
        if is_endpoint(run.model):
            plans += list(_plan_run(study, run))
    return plans


def _plan_run(study: Study, run: Run) -> Iterator[TaskPlan]:
    card = read_card("models", run.model)
    finished = {
        name for answers in study.results(run).all_answers if answers.path.exists() for name in answers.params
    }
    stored: dict[str, Exchange] = {}
    if len(finished) < len(study.tasks(run)):
        stored = read_stored(list_stored(study.answers(run).path.parent)) | read_journal(
            journal_path(run.model)
        )
    for task in study.tasks(run):
        if task.name in finished:
            yield _plan(card, run, task, 0, 0, 0, is_exact=True)
        elif task.prompts.path.is_file() and not task.first:
            requests = _list_requests(card, task)
            missing = {key: request for key, request in requests.items() if key not in stored}
            characters = sum(len(request.text) for request in missing.values())
            output = sum(request.output_limit for request in missing.values())
            yield _plan(
                card, run, task, len(missing), characters // CHARACTERS_PER_TOKEN, output, is_exact=True
            )
        else:
            yield _estimate(study, card, run, task)


def _list_requests(card: EndpointModel, task: Task) -> Mapping[str, Request]:
    examples = [render_for_endpoint(row) for row in read_prompts(task.prompts.path)]
    if "continuation" in task.decoding:
        rows = plan_likelihoods(card, examples, task.decoding).requests
        return {request.key: request for row in rows for request in row}
    return {request.key: request for request in plan_texts(card, examples, task.decoding).requests}


def _estimate(study: Study, card: EndpointModel, run: Run, task: Task) -> TaskPlan:
    calls = count_rows(task.task, study.card.split, study.card.limit)
    if calls is None:
        return _plan(card, run, task, None, 0, 0, is_exact=False)
    if "continuation" in task.decoding:
        calls *= CHOICES * (2 if "unconditional" in task.decoding else 1)
    tokens = PROMPT_TOKENS + SHOT_TOKENS * task.protocol.shots
    output = task.decoding.get("max_new_tokens", 0)
    return _plan(card, run, task, calls, calls * tokens, calls * output, is_exact=False)


def _plan(
    card: EndpointModel,
    run: Run,
    task: Task,
    calls: int | None,
    input_tokens: int,
    output_tokens: int,
    *,
    is_exact: bool,
) -> TaskPlan:
    price = card.price
    cost = (
        None
        if price is None or calls is None
        else price.cost(input_tokens=input_tokens, output_tokens=output_tokens)
    )
    currency = price.currency if price else ""
    return TaskPlan(run.model, task.name, calls, is_exact, input_tokens, output_tokens, cost, currency)


def describe_plans(plans: list[TaskPlan]) -> list[str]:
    """Return a line for each endpoint model: its calls, tokens and cost."""
    lines = []
    for model in dict.fromkeys(plan.model for plan in plans):
        parts = [plan for plan in plans if plan.model == model]
        counted = [plan for plan in parts if plan.calls is not None]
        calls = sum(plan.calls or 0 for plan in counted)
        if len(counted) == len(parts) and not calls:
            lines.append(f"{model}: 0 calls, every response is stored")
            continue
        count = f"{calls:,} calls" if all(plan.is_exact for plan in parts) else f"at most {calls:,} calls"
        if len(counted) < len(parts):
            count += f" and those of {', '.join(plan.task for plan in parts if plan.calls is None)}, unknown until they are fetched"
        tokens = (
            f"about {sum(plan.input_tokens for plan in parts):,} input and at most "
            f"{sum(plan.output_tokens for plan in parts):,} output tokens"
        )
        cost = sum(plan.cost or 0.0 for plan in parts)
        price = (
            f"at most about {cost:,.2f} {parts[0].currency}" if parts[0].currency else "no price in its card"
        )
        lines.append(f"{model}: {count}, {tokens}, {price}")
    return lines
