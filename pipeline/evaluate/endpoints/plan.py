"""What the missing answers of endpoint models, teachers among them, will take: calls, tokens and cost, before the first call. Imports no torch.

Where the prompts are written, calls are counted exactly and stored responses are left out. Before that, the rows that the
datasets' cards state stand for them. A second stage has at most a call for each first answer. Input tokens are a quarter of the
characters; output tokens are the most that the protocol allows, so the cost is an upper estimate, except where a text has more
tokens than that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from pipeline.evaluate.endpoints.exchanges import CHARACTERS_PER_TOKEN, Exchange, ExchangeId, Request
from pipeline.evaluate.endpoints.journal import journal_path, list_stored, read_journal, read_stored
from pipeline.evaluate.endpoints.tasks import plan_likelihoods, plan_texts, render_for_endpoint
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.protocols import Decoding
from pipeline.params.reading import read_card
from pipeline.prompts.write import read_prompts
from pipeline.study.artifacts import Artifact
from pipeline.study.costs.estimate import count_rows
from pipeline.study.datasets import TRAIN
from pipeline.study.distillation.teacher import list_bought_answers, model_of_teacher
from pipeline.study.grid import Study
from pipeline.study.run import Run, is_endpoint

# of a prompt that is not written yet, without worked examples, and of each of them
PROMPT_TOKENS, SHOT_TOKENS = 200, 150
# choices of an example, where the prompts are not written yet
CHOICES = 4

Stored = Mapping[ExchangeId, Exchange]
# returns the journal of a model
ReadJournal = Callable[[str], Stored]


class TaskPlan(NamedTuple):
    """What the answers to a task, or a teacher's answers to a source, will take.

    Attributes:
        model: its card.
        task: TASK-PROTOCOL, or "SOURCE rationales".
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


class _Questions(NamedTuple):
    """What a model is asked: a task of its run, or the training questions of a source that it teaches.

    Attributes:
        model: its card.
        name: of the row of the plan.
        prompts: the file of prompts.
        decoding: how answers are generated.
        rows: examples, as far as cards state them; None: unknown.
        shots: worked examples in each prompt.
        is_second_stage: whether the first answers decide which examples are asked.
    """

    model: str
    name: str
    prompts: Artifact
    decoding: Decoding
    rows: int | None
    shots: int = 0
    is_second_stage: bool = False


def plan_endpoints(study: Study) -> list[TaskPlan]:
    """Return what each task of each endpoint model takes, and each source of a teacher behind one; finished answers take nothing."""

    # several sources and runs read a journal, which may be long
    @cache
    def read(model: str) -> Stored:
        return read_journal(journal_path(model))

    plans = [plan for answers in list_bought_answers(study) for plan in _plan_teaching(answers, read)]
    for run in study.evaluated_runs:
        if is_endpoint(run.model):
            plans += list(_plan_run(study, run, read))
    return plans


def _plan_teaching(answers: Artifact, read: ReadJournal) -> Iterator[TaskPlan]:
    model, prompts = model_of_teacher(answers), answers.inputs["questions"]
    stored = {} if answers.path.exists() else _list_responses(model, answers, read)
    for source, decoding in answers.params.items():
        rows = count_rows(source, TRAIN, prompts.params.get("limit"))
        questions = _Questions(model, f"{source} rationales", prompts, decoding, rows)
        yield _plan_questions(questions, stored, is_finished=answers.path.exists())


def _plan_run(study: Study, run: Run, read: ReadJournal) -> Iterator[TaskPlan]:
    finished = {
        name for answers in study.results(run).all_answers if answers.path.exists() for name in answers.params
    }
    stored: Stored = {}
    if len(finished) < len(study.tasks(run)):
        stored = _list_responses(run.model, study.answers(run), read)
    for task in study.tasks(run):
        rows = count_rows(task.task, study.card.split, study.card.limit)
        questions = _Questions(
            run.model, task.name, task.prompts, task.decoding, rows, task.protocol.shots, bool(task.first)
        )
        yield _plan_questions(questions, stored, is_finished=task.name in finished)


def _list_responses(model: str, answers: Artifact, read: ReadJournal) -> Stored:
    return {**read_stored(list_stored(answers.path.parent)), **read(model)}


def _plan_questions(questions: _Questions, stored: Stored, *, is_finished: bool) -> TaskPlan:
    if is_finished:
        return _plan(questions, 0, 0, 0, is_exact=True)
    if not questions.prompts.path.is_file() or questions.is_second_stage:
        return _estimate(questions)
    card: EndpointModel = read_card("models", questions.model)
    requests = _list_requests(card, questions)
    missing = [request for key, request in requests.items() if (key, card.expected_model) not in stored]
    characters = sum(len(request.text) for request in missing)
    output = sum(request.output_limit for request in missing)
    return _plan(questions, len(missing), characters // CHARACTERS_PER_TOKEN, output, is_exact=True)


def _list_requests(card: EndpointModel, questions: _Questions) -> Mapping[str, Request]:
    examples = [render_for_endpoint(row) for row in read_prompts(questions.prompts.path)]
    if "continuation" in questions.decoding:
        rows = plan_likelihoods(card, examples, questions.decoding).requests
        return {request.key: request for row in rows for request in row}
    return {request.key: request for request in plan_texts(card, examples, questions.decoding).requests}


def _estimate(questions: _Questions) -> TaskPlan:
    decoding, calls = questions.decoding, questions.rows
    if calls is None:
        return _plan(questions, None, 0, 0, is_exact=False)
    calls *= decoding.get("samples", 1)
    if "continuation" in decoding:
        calls *= CHOICES * (2 if "unconditional" in decoding else 1)
    tokens = PROMPT_TOKENS + SHOT_TOKENS * questions.shots
    output = decoding.get("max_new_tokens", 0)
    return _plan(questions, calls, calls * tokens, calls * output, is_exact=False)


def _plan(
    questions: _Questions, calls: int | None, input_tokens: int, output_tokens: int, *, is_exact: bool
) -> TaskPlan:
    price = read_card("models", questions.model).price
    cost = (
        None
        if price is None or calls is None
        else price.cost(input_tokens=input_tokens, output_tokens=output_tokens)
    )
    currency = price.currency if price else ""
    return TaskPlan(
        questions.model, questions.name, calls, is_exact, input_tokens, output_tokens, cost, currency
    )


def describe_plans(plans: Sequence[TaskPlan]) -> list[str]:
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
