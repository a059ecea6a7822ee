"""Which params and averages MLflow shows of the runs of a study."""

from pipeline.results.mlflow.runs import find_shown_params
from pipeline.study import load_study


def test_params_of_training_and_those_that_differ_are_shown():
    shown = find_shown_params(load_study("quickstart"))
    assert {"seed", "method.r", "training.learning_rate", "training.weight_decay"} <= shown
    # what all bare bases are evaluated with, which is in the artifact params.json
    assert not [key for key in shown if key.endswith(("max_new_tokens", "template", "num_beams"))]


def test_a_param_of_the_evaluation_that_differs_between_bare_bases_is_shown(monkeypatch):
    study = load_study("quickstart")
    bare = next(run for run in study.evaluated_runs if run.adapter is None)
    task = next(iter(study.answers(bare).params))
    monkeypatch.setitem(study.answers(bare).params[task], "max_new_tokens", 5)
    assert f"{task}.max_new_tokens" in find_shown_params(study)
