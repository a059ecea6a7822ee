"""What a planned or starting run says about models behind an endpoint: what they will cost, and whether their keys are there."""

import os
import sys

from pipeline.params.reading import read_card
from pipeline.study import Study
from pipeline.study.distillation.teacher import list_bought_answers
from pipeline.study.run import is_endpoint


def print_plan(study: Study) -> None:
    """Print calls, tokens and cost of each endpoint model whose answers are missing, those of teachers included, to stderr."""
    if not _lacks_answers(study):
        return
    from pipeline.evaluate.endpoints.plan import describe_plans, plan_endpoints

    for line in describe_plans(plan_endpoints(study)):
        print(f"estimate: {line} (python -m pipeline plan-cost {study.name})", file=sys.stderr)


def check_keys(study: Study) -> None:
    """Refuse a run that lacks the key of an endpoint with missing responses.

    Raises:
        UserError: naming the variable.
    """
    from pipeline.evaluate.endpoints.journal import journal_path
    from pipeline.evaluate.endpoints.plan import plan_endpoints
    from pipeline.evaluate.endpoints.send import REPLAY, read_key

    if os.environ.get(REPLAY) or not _lacks_answers(study):
        return
    for plan in plan_endpoints(study):
        # what is only estimated may be stored, where there is a journal; the job looks again
        if plan.calls and (plan.is_exact or not journal_path(plan.model).exists()):
            read_key(plan.model, read_card("models", plan.model))


def _lacks_answers(study: Study) -> bool:
    evaluated = (
        answers
        for run in study.evaluated_runs
        if is_endpoint(run.model)
        for answers in study.results(run).all_answers
    )
    return any(not answers.path.exists() for answers in (*list_bought_answers(study), *evaluated))
