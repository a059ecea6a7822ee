"""A study of a model behind an endpoint, from `check` to its report, against a server on loopback."""

import re
import shutil
from types import SimpleNamespace

import pytest
import yaml

from pipeline.commands.app import run_command
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.endpoints.send import REPLAY
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.results.disk.responses import copy_responses
from pipeline.results.mlflow import runs
from pipeline.study import grid, load_study
from tests.integration.conftest import enter, write_project
from tests.loopback_endpoint import KEY, LoopbackEndpoint

pytest.importorskip("openai")

STUDY = """
title: Remote
description: a model behind an endpoint
models: [remote]
methods: []
seeds: []
arms:
  - {name: all, tasks: [world-addsub, world-obqa]}
protocols: [strict, second-stage, paper, two-shot, likelihood-text]
limit: 6
"""
STAGES = ("fetch", "prompts", "base", "generate", "score", "report")


def answer(body):
    """Answer right where the question states its numbers, ramble or be cut elsewhere; and with echo, log-probabilities."""
    prompt = body["prompt"]
    if body.get("echo"):
        words = list(re.finditer(r"\s*\S+", prompt))
        values = [None] + [-1.0 * len(word[0].strip()) for word in words[1:]]
        offsets = [word.start() for word in words]
        return {"text": prompt, "logprobs": {"token_logprobs": values, "text_offset": offsets}}
    if prompt.endswith(" is"):
        return " 12."
    return {"text": "Let me see", "finish_reason": "length"} if len(prompt) % 2 else "The answer is 12."


def card_of(endpoint, **changes):
    return {
        "name": "Remote",
        "kind": "endpoint",
        "base_url": endpoint.base_url,
        "api": "completions",
        "model": "tiny",
        "key_variable": "TEST_KEY",
        "echo": True,
        "price": {"input": 1.0, "output": 2.0},
        **changes,
    }


def write_card(root, card):
    (root / "params/models/remote.yaml").write_text(yaml.safe_dump(card))
    read_card.cache_clear()


@pytest.fixture
def endpoint():
    with LoopbackEndpoint(answer) as running:
        yield running


@pytest.fixture
def project(endpoint, tmp_path, monkeypatch):
    shots = yaml.safe_load((grid.PARAMS / "protocols/strict.yaml").read_text())
    shots |= {"name": "two-shot", "shots": 2, "shots_split": "validation"}
    cards = {
        "models/remote": yaml.safe_dump(card_of(endpoint)),
        "protocols/two-shot": yaml.safe_dump(shots),
        "study/remote": STUDY,
        "params": "study: remote\n",
    }
    write_project(tmp_path / "project", cards)
    enter(monkeypatch, tmp_path / "project")
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(runs, "_write", lambda *_: True)
    yield tmp_path / "project"
    read_card.cache_clear()


def run_stages(*stages, **settings):
    options = JobOptions(device="cpu", machine=MachineSettings(**settings))
    for stage in stages or STAGES:
        for artifact in load_study().artifacts[stage]:
            if not artifact.path.exists():
                run_job(stage, artifact.fingerprint, options=options)


def test_a_study_from_check_to_report(project, endpoint):
    assert run_command(["check"]) == 0
    run_stages()
    study = load_study()
    results = study.results(study.runs[0])
    calls = len(endpoint.bodies)
    answers = results.answers.path
    # every answer that was bought is part of the result, with its request
    stored = [row for path in study.paths("generate") for row in _responses(path)]
    assert len({row["key"] for row in stored}) == calls
    strict = read_jsonl(answers / "world-addsub-strict.jsonl")
    assert {row["stop"] for row in strict} == {"eos", "length"}
    items = read_json(results.scores.path)["tasks"]["world-addsub-strict"]
    assert items["outcomes"]["truncated"] == sum(row["stop"] == "length" for row in strict) > 0
    second = read_jsonl(results.second_answers.path / "world-addsub-second-stage.jsonl")
    assert [row.get("first", {}).get("stop") for row in second] == [
        "length" if row["stop"] == "length" else None for row in strict
    ]
    # the second example of the prompt is the question's
    shots = read_jsonl(answers / "world-addsub-two-shot.jsonl")
    assert all(row["prompt"].count("### Instruction:") == 3 for row in shots)
    info = read_json(answers / "run.json")
    cost = info["tasks"]["world-addsub-strict"]
    assert info["endpoint"] == endpoint.base_url
    assert cost["calls"] == 6
    assert cost["cost"] == pytest.approx((cost["input_tokens"] + 2 * cost["output_tokens"]) / 1e6)
    assert "Remote" in (project / "reports/remote/index.html").read_text()
    _check_no_key(project)
    # a second run, a lost result and a changed parser send nothing
    run_stages()
    for path in study.paths("generate") + study.paths("score"):
        shutil.rmtree(path) if not path.endswith(".json") else (project / path).unlink()
    strict_card = project / "params/protocols/strict.yaml"
    strict_card.write_text(strict_card.read_text().replace("version: 4", "version: 5"))
    read_card.cache_clear()
    run_stages()
    assert len(endpoint.bodies) == calls


def _responses(path):
    from pathlib import Path

    return [row for file in Path(path).glob("responses/*.jsonl") for row in read_jsonl(file)]


def _check_no_key(project):
    for path in project.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_likelihoods_are_summed_from_where_the_continuation_begins(project):
    run_stages("fetch", "prompts", "base", "generate")
    study = load_study()
    rows = read_jsonl(study.answers(study.runs[0]).path / "world-obqa-likelihood-text.jsonl")
    for row in rows:
        for text, value, tokens in zip(
            row["continuations"], row["loglikelihoods"], row["tokens"], strict=True
        ):
            assert tokens == len(text.split())
            assert value == -sum(map(len, text.split()))


def test_the_artifacts_are_named_by_what_decides_the_answers(project, endpoint):
    def path(**changes):
        write_card(project, card_of(endpoint, **changes))
        study = load_study()
        return study.answers(study.runs[0]).path

    before = path()
    operators = {
        "base_url": "http://elsewhere:9/v1",
        "concurrency": 9,
        "requests_per_minute": 3,
        "tokens_per_minute": 5,
        "timeout": 5.0,
        "key_variable": "OTHER",
        "price": None,
    }
    assert {path(**{key: value}) for key, value in operators.items()} == {before}
    science = {
        "model": "b",
        "response_model": "c",
        "seed": 1,
        "temperature": 0.5,
        "stop": ["x"],
        "max_tokens": 7,
    }
    assert len({before, *(path(**{key: value}) for key, value in science.items())}) == 7


def test_what_is_bought_stays_when_the_cost_is_reached(project, endpoint):
    run_stages("fetch", "prompts", "base")
    with pytest.raises(UserError, match=r"max_cost=0\.004: the next request could exceed it"):
        run_stages("generate", max_cost=0.004)
    bought = len(endpoint.bodies)
    assert bought > 0
    run_stages("generate")
    run_stages("generate")
    assert len({str(body) for body in endpoint.bodies}) == len(endpoint.bodies) > bought


def test_plan_cost_counts_calls_before_and_after(project, endpoint, capsys):
    assert run_command(["plan-cost", "remote"]) == 0
    before = capsys.readouterr().out
    run_stages("fetch", "prompts")
    assert run_command(["plan-cost", "remote"]) == 0
    planned = capsys.readouterr().out
    run_stages("base", "generate")
    assert run_command(["plan-cost", "remote"]) == 0
    after = capsys.readouterr().out
    assert "remote: at most " in before
    assert "calls" in planned
    assert "USD" in planned
    assert "remote: 0 calls" in after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api_key": KEY}, "api_key: a card must not hold a key; export it in an environment variable"),
        ({"notes": f"use {KEY}"}, "notes: a card must not hold a key"),
        ({"key_variable": KEY}, "key_variable: a card must not hold a key"),
        (
            {"key_variable": "not a name"},
            "key_variable: not the name of a variable; a card must not hold a key",
        ),
        ({"base_url": "https://me:pw@host/v1"}, "base_url: must have no user, password or query"),
        ({"base_url": "host/v1"}, "base_url: must be an address such as https://api.openai.com/v1"),
        ({"api": "chat"}, "echo: only with api: completions"),
        ({"concurrency": 0}, "concurrency: "),
        ({"echo": False}, "'likelihood-text' cannot be evaluated with the endpoint model 'remote'"),
    ],
)
def test_a_wrong_card_is_one_line_and_its_key_is_not_repeated(project, endpoint, capsys, changes, message):
    write_card(project, card_of(endpoint, **changes))
    assert run_command(["check"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert KEY not in error
    assert "pw@" not in error


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "paper,",
            "paper-unmasked,",
            "'paper-unmasked' cannot be evaluated with the endpoint model 'remote'",
        ),
        ("limit: 6", "texts: {datasets: [world-text]}", "texts: cannot be measured with the endpoint model"),
        ("limit: 6", "bare: false", "methods: needs at least one"),
        ("seeds: []", "seeds: [0]", "methods: needs at least one"),
    ],
)
def test_a_study_that_an_endpoint_cannot_do_is_one_line(project, capsys, old, new, message):
    file = project / "params/study/remote.yaml"
    file.write_text(file.read_text().replace(old, new))
    read_card.cache_clear()
    assert run_command(["check"]) == 1
    assert message in capsys.readouterr().err


def test_an_endpoint_without_log_probabilities_is_one_line(project, endpoint):
    endpoint.answer = lambda body: "text"
    run_stages("fetch", "prompts", "base")
    with pytest.raises(
        UserError, match="echo: the endpoint returns no log-probabilities of the prompt; set echo: false"
    ):
        run_stages("generate")


def test_no_adapter_is_trained_on_an_endpoint(project):
    file = project / "params/study/remote.yaml"
    text = (
        file.read_text()
        .replace("models: [remote]", "models: [remote, small]")
        .replace("methods: []", "methods: [lora]")
    )
    text = text.replace("seeds: []", "seeds: [0]").replace(
        "{name: all,", "{name: all, training_set: world-math,"
    )
    file.write_text(text)
    from tests.e2e.conftest import MODEL

    (project / "params/models/small.yaml").write_text(MODEL)
    read_card.cache_clear()
    assert [run.name for run in load_study().runs] == [
        "remote/bare",
        "small/bare",
        "small/lora/world-math/seed0",
    ]
    wildcards = SimpleNamespace(run="remote/bare")
    assert wildcards.run == load_study().answers(load_study().runs[0]).label.rstrip("/")


def test_a_result_is_reproduced_from_its_responses_and_the_endpoint_is_not_called(
    project, endpoint, tmp_path, monkeypatch
):
    stages = ("fetch", "prompts", "base", "generate")
    run_stages(*stages)
    answers, calls = load_study().artifacts["generate"], len(endpoint.bodies)
    worktree = tmp_path / "worktree"
    shutil.copytree(project / "params", worktree / "params")
    notes = copy_responses(answers, worktree, project)
    assert notes == [
        f"remote: answers are replayed from {calls} stored responses; its endpoint is not called"
    ]
    endpoint.stop()
    enter(monkeypatch, worktree)
    monkeypatch.delenv("TEST_KEY")
    monkeypatch.setenv(REPLAY, "1")
    run_stages(*stages)
    for artifact in answers:
        files = sorted(file.relative_to(project) for file in (project / artifact.path).rglob("*.jsonl"))
        assert files
        assert all((worktree / file).read_bytes() == (project / file).read_bytes() for file in files)
