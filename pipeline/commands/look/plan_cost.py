"""The command `plan-cost`: what the missing answers of endpoint models will take."""

from typing import Annotated

import typer

from pipeline.commands.options import JsonOption, SeedsOption
from pipeline.core.errors import UserError
from pipeline.core.text import print_json, print_table
from pipeline.study import load_study


def plan_cost_command(
    study: Annotated[
        str | None,
        typer.Argument(help="Study in params/study/ (default: the one that params/params.yaml names)."),
    ] = None,
    seeds: SeedsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the calls, tokens and cost of a study's models and teachers behind an endpoint. Nothing is sent."""
    from pipeline.evaluate.endpoints.plan import describe_plans, plan_endpoints

    loaded = load_study(study, seeds=seeds)
    plans = plan_endpoints(loaded)
    if not plans:
        raise UserError(
            f"{loaded.where}: neither a model nor a teacher is behind an endpoint, so there is no cost to plan"
        )
    if as_json:
        print_json([plan._asdict() for plan in plans])
        return
    columns = ("MODEL", "TASK-PROTOCOL", "CALLS", "INPUT TOKENS", "OUTPUT TOKENS", "COST")
    cells = [
        (
            plan.model,
            plan.task,
            "?" if plan.calls is None else f"{'' if plan.is_exact else '<= '}{plan.calls:,}",
            f"{plan.input_tokens:,}",
            f"<= {plan.output_tokens:,}",
            "-" if plan.cost is None else f"{plan.cost:.4f} {plan.currency}",
        )
        for plan in plans
    ]
    print_table(columns, cells)
    for line in describe_plans(plans):
        print(line)
