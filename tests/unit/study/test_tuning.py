"""``tune`` in a study: its trials and choices as artifacts, what their identity depends on, and what is refused."""

import json
import re
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.params.datasets import Split
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import read_card
from pipeline.results.causes import find_param_file
from pipeline.study import Study, load_study
from pipeline.study.artifacts import list_with_inputs
from pipeline.study.checks import check_machine
from pipeline.study.tuning.choice import plan_training, resolve_params
from tests.unit.study.test_evaluation_precision import ARMS, study_with

LOSS = {
    "fields": {"learning_rate": [1e-3, 1e-2]},
    "trials": 2,
    "max_steps": 200,
    "rule": "loss",
    "validation": {"held_out": 50},
    "seed": 9,
}
ACCURACY = {**LOSS, "rule": "accuracy", "validation": {"split": "validation", "limit": 20}}


def tuned(tune: dict[str, Any] | None = None, **changes: Any) -> Study:
    return study_with(tune={**LOSS, **(tune or {})}, **changes)


def message_of(tune: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        tuned(tune, **changes).named()
    message = str(error.value)
    assert "\n" not in message
    return message


def adapters_of(study: Study) -> dict[str, str]:
    return {run.name: run.adapter.fingerprint for run in study.runs if run.adapter}


def splits_of(study: Study) -> set[str]:
    """Return the splits whose rows the trials are made from, what they are judged on included."""
    sources = list_with_inputs(choice.artifact for choice in study.choices)
    return {source.params["split"] for source in sources if source.stage == "fetch"}


def test_each_model_method_and_arm_has_the_same_number_of_trials():
    study = tuned({"methods": {"series": {"learning_rate": [1e-4, 1e-3, 1e-2]}}})
    assert {(choice.model, choice.method, choice.arm): len(choice.trials) for choice in study.choices} == {
        ("tiny-llama", method, arm["name"]): 2 for method in ("lora", "series") for arm in ARMS
    }
    # ordinary trainings of the budget, with a seed of their own, which hold examples out
    for trial in study.trials:
        training = trial.adapter.params["training"]
        assert (training["max_steps"], training["val_set_size"], trial.adapter.params["seed"]) == (200, 50, 9)
        assert training["learning_rate"] == trial.values["learning_rate"]
    assert len(study.artifacts["train"]) == 4 * 2 + 4
    assert len(study.artifacts["choose"]) == 4


def test_the_trainings_depend_on_the_choice_and_not_on_its_outcome():
    study = tuned()
    run = next(run for run in study.runs if run.adapter)
    assert run.adapter.inputs["choice"] in study.artifacts["choose"]
    assert run.adapter.params["training"]["learning_rate"] == "tuned"
    # the number of steps and the like do not wait for the choice
    assert plan_training(run.adapter.params).batch_size == 16
    check_machine(study.artifacts["train"], MachineSettings(gradient_checkpointing=True))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 10},
        {"max_steps": 300},
        {"validation": {"held_out": 60}},
        {"fields": {"learning_rate": [1e-3, 2e-2]}},
        {"trials": 3, "fields": {"learning_rate": [1e-3, 1e-2, 2e-2]}},
        ACCURACY,
    ],
)
def test_another_recipe_renames_all_trainings(change):
    before, after = adapters_of(tuned()), adapters_of(tuned(change))
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_a_model_behind_an_endpoint_has_no_trials():
    study = tuned(models=["tiny-llama", "gpt-4o-mini"], protocols=["strict"])
    assert {choice.model for choice in study.choices} == {"tiny-llama"}
    assert "gpt-4o-mini/bare" in {run.name for run in study.runs}


def test_a_study_without_tune_keeps_its_names_and_a_title_changes_nothing():
    assert adapters_of(study_with(tune=None)) == adapters_of(study_with())
    assert adapters_of(tuned(title="other")) == adapters_of(tuned())


def test_what_one_method_is_tuned_over_does_not_rename_another():
    before = adapters_of(tuned())
    after = adapters_of(tuned({"methods": {"series": {"learning_rate": [1e-3, 3e-2]}}}))
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if "/series/" in name
    }


def test_no_trial_reaches_a_test_item():
    assert splits_of(tuned()) == {"train"}
    assert splits_of(tuned(ACCURACY)) == {"train", "validation"}


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_trial_that_asks_for_test_or_training_items_is_refused(split):
    for evaluated in ("test", "validation"):
        message = message_of({**ACCURACY, "validation": {"split": split}}, split=evaluated)
        assert f"tune.validation.split: '{split}' cannot be used for trials" in message
    message = message_of(ACCURACY, split="validation")
    assert "tune.validation.split: 'validation' cannot be used for trials" in message


def test_a_copy_of_the_test_rows_under_another_name_is_refused(monkeypatch):
    card = read_card("datasets", "world-addsub")
    rows = card.splits["test"].model_dump() | {"sha256": "a" * 64}
    copies = {"test": Split(**rows), "validation": Split(**rows)}
    monkeypatch.setitem(card.splits, "test", copies["test"])
    monkeypatch.setitem(card.splits, "validation", copies["validation"])
    message = message_of(ACCURACY)
    assert (
        "trials would see world-addsub/validation, the rows of world-addsub/test that the study evaluates"
        in message
    )


def test_accuracy_is_scored_on_the_validation_split_and_is_no_input_of_the_report():
    study = tuned(ACCURACY)
    trial = study.trials[0]
    assert [task.name for task in trial.results.tasks] == ["world-addsub-strict"]
    assert study.results(trial.run) is trial.results
    assert study.run_of(trial.results.scores.fingerprint) is trial.run
    paths = {source.path for source in study.report.inputs.values()}
    assert trial.results.scores.path not in paths
    assert {choice.path for choice in study.artifacts["choose"]} <= paths
    # the rows of the tables are the study's runs alone
    assert trial.run not in study.runs


def test_the_chosen_value_is_shown_once_it_is_known(tmp_path):
    study = tuned()
    adapter = next(run.adapter for run in study.runs if run.adapter)
    assert resolve_params(adapter, root=tmp_path)["training"]["learning_rate"] == "tuned"
    path = tmp_path / adapter.inputs["choice"].path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"values": {"learning_rate": 0.01}}))
    assert resolve_params(adapter, root=tmp_path)["training"]["learning_rate"] == 0.01
    # a clone may have the adapter without the choice
    path.unlink()
    (tmp_path / adapter.path).mkdir(parents=True)
    (tmp_path / adapter.path / "manifest.json").write_text(json.dumps({"chosen": {"learning_rate": 0.02}}))
    assert resolve_params(adapter, root=tmp_path)["training"]["learning_rate"] == 0.02


def test_the_study_file_is_the_place_of_a_tuned_setting():
    study = tuned()
    adapter = next(run.adapter for run in study.runs if run.adapter)
    assert find_param_file(study, adapter, ("training", "learning_rate")) == study.where
    assert find_param_file(study, study.artifacts["choose"][0], ("rule",)) == study.where
    assert find_param_file(study, study.trials[0].adapter, ("training", "max_steps")) == study.where


@pytest.mark.parametrize(
    ("tune", "changes", "message"),
    [
        ({"fields": {"learning_rate": {"low": 1e-3, "high": 2}}}, {}, "learning_rate: .*less than or equal to 1"),
        ({"fields": {"learning_rate": {"low": 0.1, "high": 0.01}}}, {}, "low: 0.1 must be below high, 0.01"),
        ({"fields": {"learning_rate": {"low": 0, "high": 0.1, "log": True}}}, {}, "must be positive with log"),
        ({"fields": {"r": [4, 8]}}, {}, r"tune: fields: 'r' is not tunable \(choices: learning_rate"),
        ({"validation": {}}, {}, r"rule: loss needs validation: \{held_out: N\}"),
        ({"rule": "accuracy"}, {}, r"rule: accuracy needs validation: \{split: NAME\}"),
        ({"trials": 3}, {}, "trials: 3 for 'lora' is larger than the number of its settings, 2"),
        ({"trials": 1}, {}, "trials: .*greater than or equal to 2"),
        ({"seed": 0}, {}, "tune.seed: 0 is a seed of the study"),
        ({"max_steps": 100}, {}, "max_steps: a trial of 'lora' would end within its 100 warmup_steps"),
        ({"methods": {"lorra": {}}}, {}, "tune.methods: 'lorra' is not a method of the study .*lora"),
        ({"fields": {}}, {}, "methods.lora: no field to tune; add a field to fields"),
        ({}, {"training": {"learning_rate": 0.1}}, "learning_rate is tuned for 'lora', and training sets it too"),
        ({**ACCURACY, "validation": {"split": "dev"}}, {}, "world-addsub.yaml: no split 'dev'"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_a_line(tune, changes, message):
    assert re.search(message, message_of(tune, **changes))


def test_a_setting_of_the_machine_that_would_change_the_kept_weights_is_refused():
    study = study_with(training={"keep": "best", "val_set_size": 50, "eval_steps": 20})
    check_machine(study.artifacts["train"], MachineSettings(eval_steps=20))
    with pytest.raises(UserError, match=r"--config eval_steps: tiny-llama/lora/.* leave eval_steps out"):
        check_machine(study.artifacts["train"], MachineSettings(eval_steps=10))


def test_keeping_the_best_weights_needs_examples_to_measure_them_on():
    for training in ({"keep": "best"}, {"early_stopping_patience": 2}):
        with pytest.raises(UserError, match=r"methods.lora: training: .* needs val_set_size"):
            study_with(training=training).named()


@pytest.mark.parametrize(("name", "trials"), [("tiny-tuned", 3), ("quickstart-tuned", 3)])
def test_the_shipped_studies_tune_every_method_equally(name, trials):
    study = load_study(name)
    assert {len(choice.trials) for choice in study.choices} == {trials}
    assert splits_of(study) == {"train"}
