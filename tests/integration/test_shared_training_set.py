"""Two arms on one training set, trained and reported: each row has the scores of its own adapter."""

import json

import pandas as pd
import pytest

from pipeline import report
from pipeline.params import reading
from pipeline.results.reproduction.request import find_request
from pipeline.study import load_study
from pipeline.study.description.describe import describe_study
from tests.e2e.conftest import MODEL
from tests.integration.conftest import enter, run_study, write_project

STUDY = """
title: small
description: small
models: [small-llama]
methods: [lora, {method: lora, label: lora-again}]
seeds: [0]
arms:
  - {name: few, training_set: world-math, tasks: [world-addsub], limit: 8, training: {max_steps: 3}}
  - {name: many, training_set: world-math, tasks: [world-addsub, world-svamp], training: {max_steps: 6}}
bare: false
protocols: [strict]
limit: 4
max_new_tokens: 4
training: {batch_size: 4, warmup_steps: 1, logging_steps: 1, learning_rate: 1.0e-2}
"""


@pytest.mark.slow
def test_each_row_has_the_scores_of_its_own_adapter(tmp_path, monkeypatch):
    cards = {"models/small-llama": MODEL, "study/small": STUDY, "params": "study: small\n"}
    write_project(tmp_path, cards)
    try:
        enter(monkeypatch, tmp_path)
        run_study(monkeypatch)
        study = load_study()
        steps = {}
        for run in study.evaluated_runs:
            history = (run.adapter.path / "history.jsonl").read_text().splitlines()
            steps[run.arms[0].name] = json.loads(history[-1])["step"]
            # right answers that tell the adapters apart
            scores = json.loads(study.scores(run).path.read_text())
            for task in scores["tasks"].values():
                for item in task["items"]:
                    item["correct"] = run.arms[0].name == "many"
                task["accuracy"] = float(run.arms[0].name == "many")
            study.scores(run).path.write_text(json.dumps(scores))
        assert steps == {"few": 3, "many": 6}
        # not as a job, which would refuse the edited scores
        report.build(describe_study(study), output=study.report.path.parent, fingerprint="f")
        accuracies = pd.read_csv("reports/small/plots/accuracy.csv")
        accuracy_of = {(row.method, row.arm, row.task): row.accuracy for row in accuracies.itertuples()}
        for method in ("lora", "lora-again"):
            assert accuracy_of[method, "few", "world-addsub-strict"] == 0
            assert accuracy_of[method, "many", "world-addsub-strict"] == 1
            assert accuracy_of[method, "many", "world-svamp-strict"] == 1
        assert len(accuracy_of) == 6
        for arm, run in zip(("few", "many"), study.evaluated_runs, strict=True):
            request = find_request(f"strict/small-llama/lora/world-addsub in {arm}", None)
            assert [target.path for target in request.targets] == [study.scores(run).path]
    finally:
        reading.read_card.cache_clear()
