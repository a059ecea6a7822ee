"""What a planned or starting run says about models behind an endpoint: what they will cost, and whether their keys are there."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.params.reading import read_card
from pipeline.study import Study
from pipeline.study.distillation.teacher import list_bought_answers
from pipeline.study.run import is_endpoint

if TYPE_CHECKING:
    # only a study with endpoint models imports it when a run is planned
    from pipeline.evaluate.endpoints.plan import TaskPlan


def plan_missing(study: Study) -> "list[TaskPlan]":
    """Return what the missing answers of endpoint models take, those of teachers included; empty where all are there."""
    if not _lacks_answers(study):
        return []
    from pipeline.evaluate.endpoints.plan import plan_endpoints

    return plan_endpoints(study)


def print_plan(plans: "Sequence[TaskPlan]", *, study: str) -> None:
    """Print calls, tokens and cost of each endpoint model to stderr."""
    if not plans:
        return
    from pipeline.evaluate.endpoints.plan import describe_plans

    for line in describe_plans(plans):
        print(f"estimate: {line} (python -m pipeline plan-cost {study})", file=sys.stderr)


def check_keys(plans: "Sequence[TaskPlan]") -> None:
    """Refuse a run that lacks the key of an endpoint with missing responses.

    Raises:
        UserError: naming the variable.
    """
    from pipeline.evaluate.endpoints.journal import journal_path
    from pipeline.evaluate.endpoints.send import REPLAY, read_key

    if os.environ.get(REPLAY):
        return
    for plan in plans:
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
