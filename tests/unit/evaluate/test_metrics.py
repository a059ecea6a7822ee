"""Metrics: their values, where they apply, against examples worked out by hand, numpy and scikit-learn."""

import math

import numpy as np
import pytest

from pipeline.core.io import write_jsonl
from pipeline.evaluate.scoring.confidence import accuracy_at_coverage, brier_score, calibration_error
from pipeline.evaluate.scoring.metrics import (
    ACCURACY,
    BRIER,
    CALIBRATION,
    MACRO_F1,
    METRICS,
    SELECTIVE,
    ScoredTask,
    macro_f1,
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
    # the choice of greatest likelihood is not worked out here: its label is the gold label if the answer is right
    items = [{"correct": right, "gold": "A" if right else "B"} for right in correct]
    return ScoredTask({"headline": headline, "items": items}, answers)


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


def test_the_brier_score_of_two_choices_is_the_squared_error_of_one(tmp_path):
    # (0.25^2 + 0.75^2) / 2
    task = likelihood_task(tmp_path, [(odds(0.75), [1, 1])] * 2, [True, False])
    assert BRIER.value(task) == pytest.approx((0.0625 + 0.5625) / 2)


def test_the_brier_score_of_three_choices_worked_out_by_hand():
    # ((0.5 - 1)^2 + 0.3^2 + 0.2^2) / 2 and (0.1^2 + 0.1^2 + (0.8 - 1)^2) / 2
    rows = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
    assert brier_score(rows, [0, 2]) == pytest.approx((0.19 + 0.03) / 2)
    assert brier_score([[0.0, 1.0]], [0]) == 1
    assert brier_score([[0.0, 1.0]], [1]) == 0


def test_accuracy_at_coverage_worked_out_by_hand(tmp_path):
    confidences, correct = [0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, False]
    for coverage, accuracy in ((0.2, 1), (0.4, 1), (0.6, 2 / 3), (0.8, 3 / 4), (1.0, 3 / 5)):
        assert accuracy_at_coverage(confidences, correct, coverage=coverage) == pytest.approx(accuracy)
    # half of the third answer
    assert accuracy_at_coverage(confidences, correct, coverage=0.5) == pytest.approx(2 / 2.5)
    rows = [(odds(confidence), [1, 1]) for confidence in (0.9, 0.8, 0.7, 0.6, 0.55)]
    assert SELECTIVE.value(likelihood_task(tmp_path, rows, correct)) == pytest.approx(3 / 4)


def test_the_order_of_answers_of_equal_confidence_does_not_matter():
    confidences = [0.9, 0.6, 0.6, 0.6]
    for marks in ([True, False, False], [False, True, False], [False, False, True]):
        value = accuracy_at_coverage(confidences, [True, *marks], coverage=0.5)
        # the second answer that counts is right with a chance of a third
        assert value == pytest.approx((1 + 1 / 3) / 2)


def test_an_answer_without_finite_likelihoods_is_the_least_confident(tmp_path):
    rows = [([None, -1.0], [1, 1])] + [(odds(0.75), [1, 1])] * 4
    task = likelihood_task(tmp_path, rows, [False] + [True] * 4)
    assert SELECTIVE.value(task) == 1
    assert BRIER.value(task) == pytest.approx(0.0625)


def make_labelled(gold, parsed, *, majority, form="boolean"):
    items = [{"gold": right, "parsed": answer} for right, answer in zip(gold, parsed, strict=True)]
    return ScoredTask({"items": items, "answer_form": form, "majority": majority}, None)


def test_macro_f1_worked_out_by_hand():
    gold = ["true", "true", "true", "false"]
    # of true: precision 2/3, recall 2/3; of false: nothing found
    task = make_labelled(gold, ["true", "true", "false", "true"], majority=0.75)
    assert MACRO_F1.value(task) == pytest.approx((2 / 3 + 0) / 2)
    # always the commonest label: precision 3/4, recall 1
    assert macro_f1(gold, ["true"] * 4) == pytest.approx(6 / 7 / 2)
    # an unparsed answer is a miss and no wrong call of the other class
    assert macro_f1(gold, ["true", "true", None, "false"]) == pytest.approx((4 / 5 + 1) / 2)


@pytest.mark.parametrize(
    ("gold", "majority", "form", "applies"),
    [
        (["true"] * 6 + ["false"] * 4, 0.6, "boolean", True),
        (["true"] * 11 + ["false"] * 9, 0.55, "boolean", False),
        (list("AABBCCDDEE"), 0.2, "letter", False),
        (["7"] * 9 + ["8"], 0.9, "number", False),
        (["true"] * 4, 1.0, "boolean", False),
    ],
)
def test_macro_f1_is_for_unequal_classes(gold, majority, form, applies):
    task = make_labelled(gold, gold, majority=majority, form=form)
    assert MACRO_F1.applies_to(task.score) == applies


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1.0] * 4, size=300)
    gold = rng.choice(4, size=300, p=[0.6, 0.2, 0.15, 0.05])
    predicted = probabilities.argmax(axis=1)
    expected = metrics.brier_score_loss(gold, probabilities, labels=range(4), scale_by_half=True)
    assert brier_score(probabilities.tolist(), gold.tolist()) == pytest.approx(expected, abs=1e-12)
    labels = [str(label) for label in gold]
    answers = [str(label) for label in predicted]
    expected = metrics.f1_score(labels, answers, average="macro")
    assert macro_f1(labels, answers) == pytest.approx(expected, abs=1e-12)
    confidences, correct = probabilities.max(axis=1), predicted == gold
    for coverage in (0.5, 0.8, 1.0):
        kept = np.argsort(-confidences)[: int(coverage * 300)]
        expected = metrics.accuracy_score(gold[kept], predicted[kept])
        value = accuracy_at_coverage(confidences.tolist(), correct.tolist(), coverage=coverage)
        assert value == pytest.approx(expected, abs=1e-12)
