"""A teacher behind an endpoint, against a server on loopback: what its rationales will cost, and what they cost."""

import pytest
import yaml

from pipeline.commands.app import run_command
from pipeline.commands.run.endpoint_plan import check_keys, plan_missing, print_plan
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.evaluate.endpoints.journal import journal_path, read_journal
from pipeline.evaluate.endpoints.plan import plan_endpoints
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.results.disk.responses import copy_responses
from pipeline.study import load_study
from pipeline.study.distillation.teacher import list_bought_answers, list_distilled_sets
from tests.e2e.conftest import MODEL
from tests.integration.conftest import enter, leave_out_mlflow, write_project
from tests.loopback_endpoint import KEY, LoopbackEndpoint

pytest.importorskip("openai")

STUDY = """
title: Taught
description: by a model behind an endpoint
models: [small-llama]
methods: [lora]
seeds: [0]
arms:
  - {name: taught, training_set: taught, tasks: [world-addsub]}
protocols: [strict]
"""
TAUGHT = """
name: taught
title: Taught
answer_form: number
distilled:
  teacher: remote
  sources: [{dataset: world-addsub, limit: 4}, {dataset: world-svamp, limit: 3}]
  prompt: zero-shot-cot-v1
  samples: 2
  max_new_tokens: 30
  filter: all
without: [world-addsub]
method: exact
"""
REMOTE = {
    "name": "Remote",
    "kind": "endpoint",
    "api": "chat",
    "model": "tiny",
    "key_variable": "TEST_KEY",
    "price": {"input": 1.0, "output": 2.0},
}


@pytest.fixture
def endpoint():
    with LoopbackEndpoint(lambda body: f"The answer is {body['seed'] % 20}.") as running:
        yield running


@pytest.fixture
def project(endpoint, tmp_path, monkeypatch):
    cards = {
        "models/small-llama": MODEL,
        "models/remote": yaml.safe_dump({**REMOTE, "base_url": endpoint.base_url}),
        "study/taught": STUDY,
        "params": "study: taught\n",
    }
    write_project(tmp_path / "project", cards)
    (tmp_path / "project/params/datasets/taught.yaml").write_text(TAUGHT)
    enter(monkeypatch, tmp_path / "project")
    leave_out_mlflow(monkeypatch)
    monkeypatch.setenv("TEST_KEY", KEY)
    yield tmp_path / "project"
    read_card.cache_clear()


def write_questions():
    for answers in list_bought_answers(load_study()):
        run_inputs(answers)


def run_inputs(artifact):
    for source in artifact.inputs.values():
        run_inputs(source)
        if not source.path.exists():
            run_job(source.stage, source.fingerprint, options=JobOptions(device="cpu"))


def teach(**machine):
    options = JobOptions(device="cpu", machine=MachineSettings(**machine))
    for answers in list_bought_answers(load_study()):
        run_job("distill", answers.fingerprint, options=options)


def count_calls():
    return {plan.task: (plan.calls, plan.is_exact) for plan in plan_endpoints(load_study())}


def test_the_calls_of_a_teacher_are_planned_before_and_after_its_questions_are_written(project, capsys):
    names = ("world-addsub rationales", "world-svamp rationales")
    assert count_calls() == dict(zip(names, [(8, False), (6, False)], strict=True))
    assert run_command(["plan-cost", "taught"]) == 0
    assert (
        "remote: at most 14 calls, about 2,800 input and at most 420 output tokens" in capsys.readouterr().out
    )
    write_questions()
    assert count_calls() == dict(zip(names, [(8, True), (6, True)], strict=True))
    # what a run prints, also a dry one
    print_plan(plan_missing(load_study()), study="taught")
    assert capsys.readouterr().err.startswith("estimate: remote: 14 calls, ")


def test_what_is_planned_is_what_is_sent_and_costs_at_most_that(project, endpoint, capsys):
    write_questions()
    planned = plan_endpoints(load_study())
    teach()
    assert len(endpoint.bodies) == sum(plan.calls for plan in planned) == 14
    tasks = [read_json(answers.path / "run.json")["tasks"] for answers in list_bought_answers(load_study())]
    assert 0 < sum(cost["cost"] for task in tasks for cost in task.values()) <= sum(p.cost for p in planned)
    assert set(count_calls().values()) == {(0, True)}
    capsys.readouterr()
    print_plan(plan_missing(load_study()), study="taught")
    assert capsys.readouterr().err == ""
    (distilled,) = list_distilled_sets(load_study()).values()
    run_inputs(distilled)
    run_job("distill", distilled.fingerprint, options=JobOptions(device="cpu"))
    assert (
        sum(source["answers"] for source in read_json(distilled.path / "yield.json")["sources"].values())
        == 14
    )


def test_max_cost_stops_a_teacher_and_what_is_bought_is_not_planned_again(project, endpoint):
    write_questions()
    with pytest.raises(UserError, match=r"max_cost=0\.0006: the next request could exceed it"):
        teach(max_cost=0.0006)
    bought = len(endpoint.bodies)
    assert 0 < bought < 14
    assert sum(calls for calls, _ in count_calls().values()) == 14 - bought
    teach()
    assert len(endpoint.bodies) == 14


def test_rationales_are_reproduced_from_their_responses(project, tmp_path):
    write_questions()
    teach()
    worktree = tmp_path / "worktree"
    notes = copy_responses(list_bought_answers(load_study()), worktree, project)
    assert notes == ["remote: answers are replayed from 14 stored responses; its endpoint is not called"]
    assert len(read_journal(worktree / journal_path("remote"))) == 14


def test_the_missing_key_of_a_teacher_is_one_line_before_any_job(project, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(UserError, match=r"remote\.yaml: key_variable: TEST_KEY is not set"):
        check_keys(plan_missing(load_study()))


def test_a_chat_prompt_for_completions_is_one_line_before_the_dag(project, capsys):
    for file, old, new in (
        ("datasets/taught", "zero-shot-cot-v1", "chat"),
        ("models/remote", "api: chat", "api: completions"),
    ):
        card = project / f"params/{file}.yaml"
        card.write_text(card.read_text().replace(old, new))
    read_card.cache_clear()
    assert run_command(["check"]) == 1
    error = capsys.readouterr().err
    assert "params/datasets/taught.yaml: distilled.prompt: 'chat' needs a teacher with api: chat" in error
    assert error.count("\n") == 1


def test_a_study_without_endpoints_has_no_plan(project, capsys):
    card = project / "params/datasets/taught.yaml"
    card.write_text(card.read_text().replace("teacher: remote", "teacher: small-llama"))
    read_card.cache_clear()
    assert run_command(["plan-cost", "taught"]) == 1
    assert "neither a model nor a teacher is behind an endpoint" in capsys.readouterr().err
