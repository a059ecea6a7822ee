"""A finished study gets more protocols: only new answers are generated, and each protocol scores in its own way."""

from contextlib import nullcontext

import pytest
import yaml

from pipeline.commands.app import run_command
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.io import read_json, read_jsonl
from pipeline.params.reading import PARAMS, read_card
from pipeline.results.mlflow import runs
from pipeline.study import find

WITH_SHOTS = {"shots": 2, "shots_split": "validation", "name": "shown"}


@pytest.fixture
def extended_study(project, monkeypatch):
    """The study 'small' under five protocols, with the answers of its LoRA run and their scores by TASK-PROTOCOL."""
    strict = yaml.safe_load((PARAMS / "protocols/strict.yaml").read_text())
    (project / "params/protocols/shown.yaml").write_text(yaml.safe_dump({**strict, **WITH_SHOTS}))
    file = project / "params/study/small.yaml"
    all_protocols = "[strict, paper, paper-unmasked, likelihood, shown]"
    file.write_text(file.read_text().replace("[strict, paper]", all_protocols))
    read_card.cache_clear()
    monkeypatch.setattr(runs, "_write", lambda *_: True)
    monkeypatch.setattr(runs, "stream_training", lambda *_: nullcontext())
    study = find.load_study()
    run = next(run for run in study.runs if run.method == "lora")
    artifacts = [
        *study.artifacts["fetch"],
        *study.artifacts["prompts"],
        study.answers(run),
        study.scores(run),
    ]
    for artifact in artifacts:
        if not artifact.path.exists():
            run_job(artifact.stage, artifact.fingerprint, options=JobOptions(device="cpu"))
    return study, study.answers(run).path, read_json(study.scores(run).path)["tasks"]


def test_only_answers_under_new_protocols_are_generated(extended_study, capsys):
    study, answers, scores = extended_study
    assert set(scores) == {
        *(f"{task}-{name}" for task in ("world-addsub", "world-aqua") for name in study.card.protocols)
    } - {"world-addsub-likelihood"}
    record = read_json(answers / "run.json")
    assert set(record["taken_over"]) == {
        f"{task}-{name}" for task in ("world-addsub", "world-aqua") for name in ("strict", "paper")
    }
    for name, score in scores.items():
        rows = read_jsonl(answers / f"{name}.jsonl")
        assert [row["id"] for row in rows] == [item["id"] for item in score["items"]]
        assert {item["protocol"] for item in score["items"]} == {score["protocol"]}
        assert sum(score["outcomes"].values()) == score["n"] == 6
    likelihood = scores["world-aqua-likelihood"]
    assert likelihood["accuracy"] == likelihood["acc"]
    assert {item["parsed"] for item in likelihood["items"]} <= set("ABCDE")
    with_shots = read_jsonl(answers / "world-addsub-shown.jsonl")
    assert all(row["prompt"].count("### Response:") == 3 for row in with_shots)

    assert run_command(["check"]) == 0
    assert "not evaluated under 'likelihood', which lacks their answer form: world-addsub" in (
        capsys.readouterr().out
    )
