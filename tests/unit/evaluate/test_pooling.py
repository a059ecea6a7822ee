"""The variance between seeds, pooled over methods: on simulated data where all seeds vary alike, and where one method's do not."""

from statistics import NormalDist

import numpy as np
import pytest

from pipeline.evaluate import stats

NORMAL = NormalDist()
RATES = (0.6, 0.75, 0.85, 0.9)
SIMULATIONS = 50


def simulate_methods(rng, *, n=600, spread=0.1, odd=1.0):
    """Two seeds of four methods whose probits have a standard deviation of ``spread``, the second's ``odd`` times that."""
    hard = rng.normal(size=n)
    methods = []
    for number, rate in enumerate(RATES):
        probit = spread * (odd if number == 1 else 1.0)
        # the noise and the difficulty have variance 1 each
        scale = np.sqrt(2 + 2 * probit**2)
        skill = np.sqrt(2) * probit * rng.normal(size=(2, 1))
        methods.append((NORMAL.inv_cdf(rate) * scale + skill + hard + rng.normal(size=(2, n)) > 0) * 1.0)
    return methods


def estimate_all(methods, pools):
    return [
        stats.estimate_accuracy(table, pool=pool, draws=500)
        for table, pool in zip(methods, pools, strict=True)
    ]


def simulate_intervals(*, odd):
    """Return whether each interval contains the truth, and its width, own then pooled: (2, simulations, methods)."""
    rng = np.random.default_rng(20)
    covered, widths = np.zeros((2, SIMULATIONS, len(RATES))), np.zeros((2, SIMULATIONS, len(RATES)))
    for number in range(SIMULATIONS):
        methods = simulate_methods(rng, odd=odd)
        for kind, pools in enumerate(([None] * len(RATES), stats.pool_seeds([[m] for m in methods]))):
            for method, estimate in enumerate(estimate_all(methods, pools)):
                covered[kind, number, method] = estimate["low"] <= RATES[method] <= estimate["high"]
                widths[kind, number, method] = estimate["high"] - estimate["low"]
    return covered, widths


def test_where_seeds_vary_alike_pooled_intervals_are_usable_and_cover_the_truth():
    covered, widths = simulate_intervals(odd=1.0)
    assert covered[1].mean() > 0.92
    assert covered[1].mean() >= covered[0].mean()
    # one in ten intervals of two seeds alone is useless
    assert np.quantile(widths[0], 0.9) > 0.4
    assert np.quantile(widths[1], 0.9) < 0.2


def test_where_one_method_varies_far_more_only_its_own_interval_fails():
    covered, widths = simulate_intervals(odd=8.0)
    assert covered[1][:, 1].mean() < 0.85
    assert covered[1][:, [0, 2, 3]].mean() > 0.92
    assert np.quantile(widths[1][:, [0, 2, 3]], 0.9) < 0.8 * np.quantile(widths[0][:, [0, 2, 3]], 0.9)


def make_seeds(*right, n=1000):
    return [[1.0] * correct + [0.0] * (n - correct) for correct in right]


def test_a_method_whose_seeds_vary_far_more_is_left_out_of_the_pools_of_the_others():
    rng = np.random.default_rng(21)
    methods = [(rng.random((2, 1000)) < 0.7) * 1.0 for _ in range(5)]
    alike = stats.pool_seeds([[table] for table in methods])
    assert [pool.freedom for pool in alike] == [5] * 5
    assert not any(pool.is_outlying for pool in alike)
    methods[2] = np.array(make_seeds(300, 999))
    pools = stats.pool_seeds([[table] for table in methods])
    assert [pool.is_outlying for pool in pools] == [False, False, True, False, False]
    assert [pool.freedom for pool in pools] == [4, 4, 5, 4, 4]
    assert pools[2].variance > 20 * max(pools[0].variance, 1e-3)


def test_the_pool_is_the_variance_of_the_probits():
    rng = np.random.default_rng(22)
    pools = [stats.pool_seeds([[m] for m in simulate_methods(rng, n=1000, spread=0.2)]) for _ in range(150)]
    estimates = [pools_of_study[0].variance for pools_of_study in pools]
    assert np.mean(estimates) == pytest.approx(0.04, rel=0.25)
    # the stated error of the estimate is that of its repetitions
    errors = [pools_of_study[0].error for pools_of_study in pools]
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.35)


def test_nothing_is_pooled_with_a_single_method_or_with_single_seeds():
    assert stats.pool_seeds([[make_seeds(500, 700)]]) == [None]
    assert stats.pool_seeds([[make_seeds(500)], [make_seeds(600)]]) == [None, None]
    base, first, second = stats.pool_seeds(
        [[make_seeds(500)], [make_seeds(600, 620)], [make_seeds(700, 690)]]
    )
    assert base is None
    assert first.methods == second.methods == 2
    assert stats.pool_seeds([]) == []


def test_seeds_without_any_noise_or_variance_have_an_interval():
    pools = stats.pool_seeds([[make_seeds(1000, 1000)], [make_seeds(1000, 1000)]])
    result = stats.estimate_accuracy(make_seeds(1000, 1000), pool=pools[0])
    assert 0.99 < result["low"] < result["estimate"] == result["high"] == 1


def test_averages_are_pooled_as_averages():
    tasks = [[make_seeds(600, 640), make_seeds(300, 330)], [make_seeds(700, 690), make_seeds(500, 520)]]
    (pool, _) = stats.pool_seeds(tasks)
    result = stats.estimate_mean_accuracy(tasks[0], pool=pool)
    assert result["low"] < result["estimate"] < result["high"]
    assert pool.freedom == 2
