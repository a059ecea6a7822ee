"""A study whose settings trials choose, from its data to its report: by loss, and by accuracy on a validation split."""

import csv

import pytest

from pipeline.core.io import read_json, read_jsonl
from pipeline.params import reading
from pipeline.results.status import plan_artifacts
from pipeline.results.verify import verify
from pipeline.study import load_study
from pipeline.study.artifacts import list_with_inputs
from tests.integration.conftest import STUDY, enter, extend_project

METHODS = (
    "methods: [lora, {method: series, bottleneck_size: 8}, {method: prefix-tuning, label: prefix}, full]"
)
TUNED = STUDY.replace(METHODS, "methods: [lora, {method: series, bottleneck_size: 8}]").replace(
    "protocols: [strict, paper]", "protocols: [strict]"
)
# a decay of 1e30 makes the weights infinite at the first step
LOSS = (
    TUNED.replace("warmup_steps: 1, ", "")
    + """
tune:
  fields: {weight_decay: [0.0, 1.0e+30], warmup_steps: [0, 1]}
  trials: 4
  max_steps: 3
  rule: loss
  validation: {held_out: 8}
  seed: 9
"""
)
ACCURACY = (
    TUNED
    + """
tune:
  fields: {weight_decay: [1.0e+30, 0.1]}
  trials: 2
  max_steps: 3
  rule: accuracy
  validation: {split: validation, limit: 4}
  seed: 9
"""
)


@pytest.fixture(scope="module")
def tuned_project(finished_study, tmp_path_factory):
    """A project whose tuned studies are finished; its data and its base are those of the small study."""
    root = tmp_path_factory.mktemp("tuned") / "project"
    extend_project(finished_study, root, {"loss": LOSS, "accuracy": ACCURACY})
    return root


@pytest.fixture
def tuned(tuned_project, monkeypatch):
    """The finished project as the current one."""
    enter(monkeypatch, tuned_project)
    yield tuned_project
    reading.read_card.cache_clear()


def table(root, study, name):
    with (root / f"reports/{study}/{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_trainings_have_what_the_trials_chose(tuned):
    for name in ("loss", "accuracy"):
        study = load_study(name)
        assert plan_artifacts(study) == []
        for run in (run for run in study.runs if run.adapter):
            choice = read_json(run.adapter.inputs["choice"].path)
            manifest = read_json(run.adapter.path / "manifest.json")
            assert manifest["chosen"] == choice["values"]
            assert choice["values"]["weight_decay"] < 1
            # the trials that diverged have no score, and the best of the others was chosen
            scores = [row["score"] for row in choice["trials"]]
            assert scores.count(None) == len(scores) / 2
            best = (min if name == "loss" else max)(score for score in scores if score is not None)
            assert choice["score"] == best
            # the first learning rate is that of the chosen warm-up
            if name == "loss":
                first = read_jsonl(run.adapter.path / "history.jsonl")[0]["learning_rate"]
                assert (first == 0) == (choice["values"]["warmup_steps"] == 1)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_trial_by_loss_held_examples_out_and_a_training_did_not(tuned):
    study = load_study("loss")
    training = next(run.adapter for run in study.runs if run.adapter)
    trial = study.trials[0].adapter
    assert [read_json(adapter.path / "manifest.json")["examples"] for adapter in (trial, training)] == [
        12,
        16,
    ]
    assert "val_loss" in read_jsonl(trial.path / "history.jsonl")[-1]
    read = {artifact.params["split"] for artifact in list_with_inputs([trial]) if artifact.stage == "fetch"}
    assert read == {"train"}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_report_has_the_validation_score_beside_the_test_score(tuned):
    rows = table(tuned, "loss", "tables/tuning")
    assert [row["Method"] for row in rows] == ["LoRA", "Series"]
    for row in rows:
        # half of the single trials diverged
        assert row["Validation loss, best of 1"] == "diverged"
        assert float(row["Validation loss, best of 4"]) > 0
        assert 0 <= float(row["Test accuracy (%), strict"]) <= 100
        assert row["Chosen"] in ("warmup_steps 0, weight_decay 0", "warmup_steps 1, weight_decay 0")
    settings = table(tuned, "loss", "tables/settings")
    assert {row["Chosen by trials"] for row in settings} == {"warmup_steps, weight_decay"}
    assert len(table(tuned, "loss", "tables/trials")) == 8
    page = (tuned / "reports/loss/index.html").read_text()
    assert 'id="section-tuning"' in page
    assert 'id="figure-best-of"' in page
    assert "Validation accuracy (%), best of 2" in table(tuned, "accuracy", "tables/tuning")[0]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_trial_and_choice_matches_its_record(tuned):
    study = load_study("loss")
    outcome = verify(artifacts=[*study.artifacts["choose"], *study.artifacts["train"]])
    assert outcome.passed
    assert outcome.artifacts == 2 + 8 + 2
