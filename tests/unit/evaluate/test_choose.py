"""The choice between trials, and the expected best of fewer trials."""

import itertools
import json
import math
from statistics import fmean

import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate.tuning.best_of import expect_best
from pipeline.evaluate.tuning.choose import TrialFiles, choose


def write_trial(folder, rate, *, losses=(), accuracies=(), diverged=None):
    folder.mkdir(parents=True)
    manifest = {"diverged": diverged} if diverged else {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if losses:
        rows = [{"step": 1, "loss": 9.0}, *({"step": 1, "val_loss": loss} for loss in losses)]
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = folder.with_suffix(".json")
    tasks = {f"t{number}": {"accuracy": value} for number, value in enumerate(accuracies)}
    scores.write_text(json.dumps({"tasks": tasks}))
    return TrialFiles({"learning_rate": rate}, folder, f"f{rate}", scores if accuracies else None)


def choice_of(trials, folder, *, rule="loss", keep="last"):
    choose(trials, rule=rule, keep=keep, output=folder / "choice.json", manifest={"fingerprint": "abc"})
    return json.loads((folder / "choice.json").read_text())


def test_the_lowest_loss_wins_and_the_file_has_every_trial(tmp_path):
    trials = [
        write_trial(tmp_path / "a", 0.1, losses=[3.0, 2.0]),
        write_trial(tmp_path / "b", 0.2, losses=[0.5, 1.0]),
        write_trial(tmp_path / "c", 0.3, diverged=4),
    ]
    choice = choice_of(trials, tmp_path)
    assert choice["values"] == {"learning_rate": 0.2}
    assert choice["score"] == 1.0
    assert [(row["adapter"], row["score"]) for row in choice["trials"]] == [
        ("f0.1", 2.0),
        ("f0.2", 1.0),
        ("f0.3", None),
    ]
    # with one trial, or two, all may have diverged or not
    assert choice["best_of"] == [None, pytest.approx(4 / 3, abs=1e-6), 1.0]
    assert choice["fingerprint"] == "abc"
    # of the weights that a training would keep
    assert choice_of(trials, tmp_path, keep="best")["score"] == 0.5


def test_the_highest_mean_accuracy_wins(tmp_path):
    trials = [
        write_trial(tmp_path / "a", 0.1, accuracies=[0.2, 0.9]),
        write_trial(tmp_path / "b", 0.2, accuracies=[0.5, 0.5]),
    ]
    choice = choice_of(trials, tmp_path, rule="accuracy")
    assert (choice["values"], choice["score"]) == ({"learning_rate": 0.1}, 0.55)
    assert choice["best_of"] == [0.525, 0.55]


def test_a_diverged_trial_is_not_chosen_by_its_accuracy(tmp_path):
    trials = [
        write_trial(tmp_path / "a", 0.1, accuracies=[0.9], diverged=30),
        write_trial(tmp_path / "b", 0.2, accuracies=[0.5]),
    ]
    assert choice_of(trials, tmp_path, rule="accuracy")["values"] == {"learning_rate": 0.2}


def test_equal_scores_choose_the_first(tmp_path):
    trials = [write_trial(tmp_path / name, rate, losses=[1.0]) for name, rate in (("a", 0.1), ("b", 0.2))]
    assert choice_of(trials, tmp_path)["values"] == {"learning_rate": 0.1}


def test_trials_that_all_diverged_are_an_error_with_their_settings(tmp_path):
    trials = [write_trial(tmp_path / name, rate, diverged=1) for name, rate in (("a", 0.1), ("b", 0.2))]
    with pytest.raises(UserError, match=r"all trials diverged \(learning_rate 0.1; learning_rate 0.2\)"):
        choice_of(trials, tmp_path)
    assert not (tmp_path / "choice.json").exists()


@pytest.mark.parametrize("lower", [True, False])
def test_the_expected_best_is_the_mean_over_all_draws(lower):
    scores = [0.3, 0.1, 0.4, 0.1, 0.5]
    best = min if lower else max
    for size, value in enumerate(expect_best(scores, lower=lower), start=1):
        assert value == pytest.approx(fmean(best(draw) for draw in itertools.combinations(scores, size)))
    # a draw of a single diverged trial has no finite best
    assert expect_best([1.0, math.inf], lower=True) == [math.inf, 1.0]
