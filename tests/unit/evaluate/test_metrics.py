"""Metrics: their values, where they apply, and the calibration error against closed forms and against numpy."""

import math

import numpy as np
import pytest

from pipeline.core.io import write_jsonl
from pipeline.evaluate.scoring.metrics import (
    ACCURACY,
    CALIBRATION,
    METRICS,
    ScoredTask,
    calibration_error,
    metrics_key,
    parse_metrics_key,
)


def likelihood_task(folder, rows, correct, *, headline="raw"):
    """A scored task whose rows are (log-likelihoods, lengths in characters)."""
    answers = folder / "t-likelihood.jsonl"
    write_jsonl(
        answers,
        [
            {"choices": list("AB"), "loglikelihoods": values, "characters": lengths, "bytes": lengths}
            for values, lengths in rows
        ],
    )
    return ScoredTask({"headline": headline, "items": [{"correct": right} for right in correct]}, answers)


def odds(probability):
    """Log-likelihoods of two choices of which the first has this probability."""
    return [math.log(probability) - 3, math.log(1 - probability) - 3]


def test_names_are_unique_and_accuracy_comes_first():
    names = [metric.name for metric in METRICS]
    assert names[0] == "accuracy"
    assert len(set(names)) == len(names)
    assert all(metric.description for metric in METRICS)


def test_accuracy_is_the_share_of_correct_items(tmp_path):
    task = ScoredTask({"items": [{"correct": right} for right in (True, False, True)]}, tmp_path / "none")
    assert ACCURACY.value(task) == 2 / 3
    assert ACCURACY.values(task) == [1.0, 0.0, 1.0]


def test_calibration_applies_to_likelihood_protocols_only():
    assert CALIBRATION.applies_to({"headline": "raw", "items": []})
    assert not CALIBRATION.applies_to({"items": []})
    assert ACCURACY.applies_to({"items": []})


def test_calibration_error_of_one_bin_is_confidence_less_accuracy(tmp_path):
    # four answers of confidence 0.75, half of them right
    task = likelihood_task(tmp_path, [(odds(0.75), [1, 1])] * 4, [True, False, True, False])
    assert CALIBRATION.value(task) == pytest.approx(0.25)


def test_calibration_error_weights_bins_by_their_answers(tmp_path):
    # |0.95 - 1| in a bin of one answer, |0.65 - 1/3| in a bin of three
    rows = [(odds(0.95), [1, 1])] + [(odds(0.65), [1, 1])] * 3
    task = likelihood_task(tmp_path, rows, [True, True, False, False])
    assert CALIBRATION.value(task) == pytest.approx(0.25 * 0.05 + 0.75 * (0.65 - 1 / 3))


def test_perfect_calibration_has_no_error():
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert calibration_error([1.0], [True]) == 0


def test_the_headline_decides_whether_lengths_count(tmp_path):
    # -2 against -4, and per character -1 against -0.5: the second choice wins after normalisation
    rows, correct = [([-2.0, -4.0], [2, 8])], [True]
    raw = likelihood_task(tmp_path, rows, correct)
    assert CALIBRATION.value(raw) == pytest.approx(1 - 1 / (1 + math.exp(-2)))
    normalised = likelihood_task(tmp_path, rows, correct, headline="normalised")
    assert CALIBRATION.value(normalised) == pytest.approx(1 - 1 / (1 + math.exp(-0.5)))


def test_large_log_likelihoods_do_not_overflow(tmp_path):
    task = likelihood_task(tmp_path, [([-5000.0, -9000.0], [1, 1])], [True])
    assert CALIBRATION.value(task) == 0


def test_answers_without_finite_likelihoods_have_no_confidence(tmp_path):
    rows = [([None, -1.0], [1, 1]), (odds(0.75), [1, 1])]
    assert CALIBRATION.value(likelihood_task(tmp_path, rows, [False, True])) == pytest.approx(0.25)
    assert math.isnan(CALIBRATION.value(likelihood_task(tmp_path, rows[:1], [False])))


@pytest.mark.parametrize("confidence", [0.1, 0.3, 0.6, 0.7, 1.0])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(confidence):
    # the two answers share a bin, so their errors cancel: a bin is open below and closed above
    pair = [confidence, confidence - 0.05]
    assert calibration_error(pair, [True, False]) == pytest.approx(abs(sum(pair) / 2 - 0.5))


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_equals_an_independent_computation(tmp_path, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(-20, 2, size=(500, 2))
    lengths = rng.integers(5, 40, size=(500, 2))
    correct = rng.random(500) < 0.6
    for headline, logits in (("raw", values), ("normalised", values / lengths)):
        rows = [(pair.tolist(), length.tolist()) for pair, length in zip(values, lengths, strict=True)]
        task = likelihood_task(tmp_path, rows, correct.tolist(), headline=headline)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        confidence = probabilities.max(axis=1)
        bins = np.digitize(confidence, np.linspace(0, 1, 11)[1:-1], right=True)
        gaps = [
            (bins == number).mean() * abs(correct[bins == number].mean() - confidence[bins == number].mean())
            for number in np.unique(bins)
        ]
        assert CALIBRATION.value(task) == pytest.approx(sum(gaps), abs=1e-12)


def test_keys_of_metrics_json_name_the_protocol_and_the_metric():
    assert metrics_key(ACCURACY, "likelihood") == "likelihood"
    assert metrics_key(CALIBRATION, "likelihood-text") == "likelihood-text ece"
    for metric in METRICS:
        assert parse_metrics_key(metrics_key(metric, "likelihood-text")) == ("likelihood-text", metric)
    assert parse_metrics_key("strict unknown") is None
