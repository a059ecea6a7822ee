"""Nats per token and forgetting: closed forms, exact zeros, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pipeline.core.io import write_jsonl
from pipeline.evaluate.texts.nats import Likelihoods, estimate_forgetting, estimate_nats, read_likelihoods


def draw(n=80, seeds=1, *, between=0.0, seed=0):
    """Base and adapter on ``n`` texts; the adapter needs 0.1 nats per token more, skewed over texts."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 500, size=n)
    base = rng.gamma(9, 1 / 3, size=n)
    change = 0.1 + rng.gamma(1, 0.2, size=n) - 0.2
    noise = rng.normal(0, between, size=(seeds, 1)) + rng.normal(0, 0.1, size=(seeds, n))
    counts = tokens.tolist()
    return Likelihoods((base + change + noise) * tokens, counts), Likelihoods([base * tokens], counts)


def test_nats_per_token_is_the_ratio_of_the_sums_and_its_interval_the_delta_methods():
    _, base = draw()
    estimate = estimate_nats(base)
    nats, tokens = np.array(base.nats[0]), np.array(base.tokens)
    ratio = nats.sum() / tokens.sum()
    error = np.std((nats - ratio * tokens) / tokens.mean(), ddof=1) / math.sqrt(len(tokens))
    half = scipy_stats.t.ppf(0.975, len(tokens) - 1) * error
    assert estimate["estimate"] == pytest.approx(ratio)
    assert (estimate["low"], estimate["high"]) == pytest.approx((ratio - half, ratio + half))
    assert (estimate["n"], estimate["tokens"], estimate["seeds"]) == (80, tokens.sum(), 1)


def test_the_interval_is_that_of_a_bootstrap_over_texts():
    adapter, base = draw(n=300)
    difference = np.array(adapter.nats[0]) - np.array(base.nats[0])
    bootstrap = scipy_stats.bootstrap(
        (difference, np.array(base.tokens)),
        lambda nats, tokens, axis: nats.sum(axis=axis) / tokens.sum(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    estimate = estimate_forgetting(adapter, base)
    assert estimate["high"] - estimate["low"] == pytest.approx(bootstrap.high - bootstrap.low, rel=0.1)
    assert estimate["low"] == pytest.approx(bootstrap.low, abs=0.01)


def test_an_adapter_that_changes_nothing_forgets_exactly_nothing():
    _, base = draw()
    estimate = estimate_forgetting(Likelihoods([base.nats[0], base.nats[0]], base.tokens), base)
    assert (estimate["estimate"], estimate["low"], estimate["high"]) == (0.0, 0.0, 0.0)


def test_more_seeds_that_agree_are_not_more_texts():
    adapter, base = draw()
    once = estimate_forgetting(adapter, base)
    thrice = estimate_forgetting(Likelihoods([adapter.nats[0]] * 3, adapter.tokens), base)
    assert thrice["high"] - thrice["low"] == pytest.approx(once["high"] - once["low"])


@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.0), (3, 0.05), (5, 0.1)])
def test_the_interval_covers_the_truth(seeds, between):
    hits = 0
    for number in range(300):
        estimate = estimate_forgetting(*draw(seeds=seeds, between=between, seed=number))
        hits += estimate["low"] <= 0.1 <= estimate["high"]
    assert 0.91 <= hits / 300 <= 0.99


def test_a_likelihood_that_is_not_finite_leaves_no_estimate(tmp_path):
    rows = [{"id": "a", "nats": None, "tokens": 3}, {"id": "b", "nats": 2.0, "tokens": 4}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    estimate = estimate_nats(read_likelihoods([tmp_path / "rows.jsonl"]))
    assert all(math.isnan(estimate[key]) for key in ("estimate", "low", "high"))


def test_one_text_says_nothing_of_others():
    estimate = estimate_nats(Likelihoods([[6.0]], [3]))
    assert (estimate["estimate"], estimate["low"], estimate["high"]) == (2.0, 0.0, math.inf)


def test_two_tokenizers_are_refused():
    adapter, base = draw()
    with pytest.raises(ValueError, match="different tokens"):
        estimate_forgetting(adapter, Likelihoods(base.nats, [n + 1 for n in base.tokens]))
