"""A study of a model behind an endpoint, and a teacher behind it, run by Snakemake against `transformers serve` on loopback."""

import json
import shutil
import urllib.request

import pytest
import yaml

from pipeline.core.io import read_json, read_jsonl
from tests.conftest import ROOT
from tests.e2e.conftest import copy_project
from tests.loopback_endpoint import KEY, LoopbackEndpoint
from tests.served_models import serve_models

pytest.importorskip("openai", reason="skipped: needs openai, an extra: endpoints")
pytest.importorskip("uvicorn", reason="skipped: needs uvicorn, which serves the test's models")

# about a minute, most of it for imports of torch: six runs of Snakemake, a server and the jobs
pytestmark = pytest.mark.exhaustive

STUDY = """
title: Served
description: a tiny base behind a server
models: [served]
methods: []
seeds: []
arms:
  - {name: all, tasks: [world-addsub]}
protocols: [strict]
limit: 6
max_new_tokens: 12
"""
TEACHING = """
title: Taught
description: by a tiny base behind a server
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
  teacher: served
  sources: [{dataset: world-addsub, limit: 4}]
  prompt: strict
  temperature: 0.7
  samples: 2
  max_new_tokens: 40
  filter: all
without: [world-addsub]
method: exact
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A checkout whose study is run, and the endpoint that counts its requests and passes them on to the server."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "data/shipped/tiny-llama", models / "tiny")
    checkout = copy_project(tmp_path_factory.mktemp("served") / "a project")
    with (
        pytest.MonkeyPatch.context() as patch,
        serve_models(models) as address,
        LoopbackEndpoint(lambda body: ask(address, body), model="tiny@main") as endpoint,
    ):
        patch.setenv("TEST_KEY", KEY)
        card = {
            "name": "Tiny, served",
            "kind": "endpoint",
            "base_url": endpoint.base_url,
            "api": "completions",
            "model": "tiny@main",
            "key_variable": "TEST_KEY",
            "price": {"input": 1.0, "output": 2.0},
        }
        params = checkout.folder / "params"
        (params / "models/served.yaml").write_text(yaml.safe_dump(card))
        (params / "study/small.yaml").write_text(STUDY)
        (params / "study/taught.yaml").write_text(TEACHING)
        (params / "datasets/taught.yaml").write_text(TAUGHT)
        dry = checkout.run("snakemake", "--dry-run", "--cores", "1")
        assert "estimate: served: at most 6 calls, " in dry
        assert endpoint.bodies == []
        checkout.snakemake()
        yield checkout, endpoint


def ask(address, body):
    """Return the choice of the server's answer."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/completions", data, headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.loads(response.read())["choices"][0]


def list_results(folder, stage):
    return sorted(path for path in (folder / "results" / stage).rglob("*.json*") if path.is_file())


def test_the_model_has_answers_scores_and_a_report(served):
    checkout, endpoint = served
    (answers,) = checkout.folder.glob("results/answers/served/bare/*/world-addsub-strict.jsonl")
    assert len(read_jsonl(answers)) == len(endpoint.bodies) == 6
    assert set(endpoint.keys) == {KEY}
    cost = read_json(answers.parent / "run.json")["tasks"]["world-addsub-strict"]
    assert (cost["calls"], cost["cost"] > 0) == (6, True)
    (scores,) = checkout.folder.glob("results/scores/served/bare/*.json")
    assert read_json(scores)["tasks"]["world-addsub-strict"]["n"] == 6
    assert "Tiny, served" in (checkout.folder / "reports/small/index.html").read_text()
    for path in (*checkout.folder.glob("logs/**/*.log"), *list_results(checkout.folder, "answers")):
        assert KEY not in path.read_text()


def test_a_second_run_and_a_rebuilt_result_send_nothing(served):
    checkout, endpoint = served
    calls = len(endpoint.bodies)
    assert checkout.planned() == {}
    (answers,) = checkout.folder.glob("results/answers/served/bare/*/world-addsub-strict.jsonl")
    before = answers.read_bytes()
    for folder in ("answers", "scores"):
        shutil.rmtree(checkout.folder / "results" / folder)
    shutil.rmtree(checkout.folder / "reports/small")
    checkout.snakemake()
    assert answers.read_bytes() == before
    assert len(endpoint.bodies) == calls


def test_a_teacher_is_estimated_asked_once_and_makes_a_training_set(served):
    checkout, endpoint = served
    options = ("--cores", "1", "--config", "study=taught", "--", "all_distill")
    calls = len(endpoint.bodies)
    assert "estimate: served: at most 8 calls, " in checkout.run("snakemake", "--dry-run", *options)
    checkout.run("snakemake", *options)
    assert len(endpoint.bodies) == calls + 8
    (rows,) = checkout.folder.glob("results/distilled/sets/taught/*/train.jsonl")
    source = read_json(rows.parent / "yield.json")["sources"]["world-addsub"]
    assert (source["answers"], source["fates"]["row"]) == (8, len(read_jsonl(rows)))
    again = checkout.run("snakemake", *options)
    assert "Nothing to be done" in again
    assert "estimate" not in again
    assert len(endpoint.bodies) == calls + 8
