"""Statistics against statsmodels, closed forms and simulated data of known truth."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from pipeline.evaluate import stats


@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (0, 40), (7, 40), (40, 40), (137, 300), (1319, 1319)]
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_statsmodels(correct, n, level):
    expected = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    assert stats.wilson_interval(correct, n, level=level) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(correct, n):
    with pytest.raises(ValueError, match="right of"):
        stats.wilson_interval(correct, n)


def simulate(rng, *, seeds=3, n=300, rate=0.6, between=0.0):
    """Right and wrong of a method whose seeds differ by ``between`` and whose examples are hard or easy."""
    level = rate + rng.normal(0, between, size=seeds)
    hard = rng.normal(0, 0.2, size=n)
    return (rng.random((seeds, n)) < np.clip(level[:, None] + hard, 0, 1)).astype(float)


def test_estimates_are_the_plain_means():
    rng = np.random.default_rng(1)
    runs, base = simulate(rng), simulate(rng, seeds=1, rate=0.3)
    assert stats.estimate_accuracy(runs)["estimate"] == pytest.approx(runs.mean())
    result = stats.estimate_difference(runs, base)
    assert result["estimate"] == pytest.approx(runs.mean() - base.mean())
    assert (result["n"], result["seeds"]) == (300, 3)
    assert result["low"] < result["estimate"] < result["high"]
    smaller = simulate(rng, n=50)
    mean = stats.estimate_mean_accuracy([runs, smaller])
    assert mean["estimate"] == pytest.approx((runs.mean() + smaller.mean()) / 2)


def test_the_interval_of_one_run_is_about_as_wide_as_wilsons():
    rng = np.random.default_rng(2)
    runs = simulate(rng, seeds=1)
    result, wilson = stats.estimate_accuracy(runs), stats.wilson_interval(int(runs.sum()), runs.size)
    assert result["high"] - result["low"] == pytest.approx(wilson[1] - wilson[0], rel=0.1)


def test_repeated_examples_do_not_narrow_the_interval():
    run = simulate(np.random.default_rng(3), seeds=1)
    single, thrice = stats.estimate_accuracy(run), stats.estimate_accuracy(np.repeat(run, 3, axis=0))
    assert thrice["high"] - thrice["low"] == pytest.approx(single["high"] - single["low"], rel=0.05)


def test_seeds_that_differ_widen_the_interval():
    n = 300
    alike = [[1] * 180 + [0] * 120, [1] * 180 + [0] * 120]
    apart = [[1] * 120 + [0] * 180, [1] * 240 + [0] * (n - 240)]
    narrow, wide = stats.estimate_accuracy(alike), stats.estimate_accuracy(apart)
    assert wide["estimate"] == narrow["estimate"]
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_pairing_on_examples_narrows_the_interval():
    rng = np.random.default_rng(4)
    base = simulate(rng, seeds=1)
    better = np.maximum(base, rng.random(base.shape) < 0.1)
    paired = stats.estimate_difference(better, base)
    shuffled = stats.estimate_difference(better, rng.permutation(base, axis=1))
    assert paired["low"] > 0
    assert shuffled["high"] - shuffled["low"] > 2 * (paired["high"] - paired["low"])


def test_a_perfect_result_still_has_an_interval():
    result = stats.estimate_accuracy([[1] * 40, [1] * 40])
    assert result["estimate"] == 1
    assert result["low"] < 0.99
    apart = stats.estimate_difference([[1] * 40, [1] * 40], [[0] * 40])
    assert apart["estimate"] == 1
    assert 0.7 < apart["low"] < 1
    assert stats.estimate_difference([[1] * 40] * 2, [[1] * 40])["p_value"] == 1


@pytest.mark.parametrize("right", [0, 1, 75, 147, 150])
@pytest.mark.parametrize("tasks", [1, 7])
def test_an_interval_contains_its_estimate_and_stays_in_range(right, tasks):
    seeds = [[1] * right + [0] * (150 - right), [1] * max(right - 2, 0) + [0] * min(152 - right, 150)]
    result = stats.estimate_mean_accuracy([seeds] * tasks)
    assert 0 <= result["low"] <= result["estimate"] <= result["high"] <= 1
    assert result["high"] - result["low"] > 0.002
    apart = stats.estimate_mean_difference([(seeds, [[0] * 150])] * tasks)
    assert -1 <= apart["low"] <= apart["estimate"] <= apart["high"] <= 1


def test_the_interval_of_a_mean_of_many_tasks_is_centred_on_the_mean():
    """Pseudo-examples are added once to the mean. Added to each of seven tasks at 98 %, they pulled the interval below it."""
    rng = np.random.default_rng(8)
    tables = [(rng.random((2, 150)) < 0.98).astype(float) for _ in range(7)]
    result = stats.estimate_mean_accuracy(tables)
    assert result["high"] - result["estimate"] > 0.25 * (result["high"] - result["low"])


def test_two_single_runs_are_compared_by_mcnemars_exact_test():
    first = [1] * 10 + [0] * 2 + [1] * 20
    second = [0] * 10 + [1] * 2 + [1] * 20
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert stats.estimate_difference([first], [second])["p_value"] == pytest.approx(2 * tail)


def test_results_depend_on_the_seed_of_the_draws_only():
    rng = np.random.default_rng(5)
    runs, base = simulate(rng, between=0.05), simulate(rng, seeds=1)
    assert stats.estimate_difference(runs, base) == stats.estimate_difference(runs, base)
    assert stats.estimate_difference(runs, base) != stats.estimate_difference(runs, base, seed=1)


@pytest.mark.parametrize("between", [0.0, 0.04])
def test_intervals_cover_the_truth(between):
    """Loose bounds: 200 simulations distinguish 95 % from 88 %; benchmarks.statistics runs many more."""
    rng, covered = np.random.default_rng(6), 0
    for _ in range(200):
        result = stats.estimate_accuracy(simulate(rng, seeds=5, rate=0.5, between=between), draws=1000)
        covered += result["low"] <= 0.5 <= result["high"]
    assert 0.89 <= covered / 200 <= 1


def test_p_values_are_uniform_under_no_difference():
    rng, small = np.random.default_rng(7), 0
    for _ in range(200):
        result = stats.estimate_difference(simulate(rng, n=200), simulate(rng, n=200, seeds=1), draws=1000)
        small += result["p_value"] < 0.1
    assert small / 200 < 0.17


def test_holm_is_the_step_down_correction():
    assert stats.adjust_p_values([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.adjust_p_values([]) == []


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([[1, 0]], [[1]], "examples against"),
        ([], [[1]], "runs must be"),
        ([[1, 0], [1]], [[1, 0]], "runs must be"),
    ],
)
def test_tables_of_unequal_shape_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        stats.estimate_difference(first, second)


def test_tasks_of_different_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="numbers of seeds"):
        stats.estimate_mean_accuracy([[[1, 0], [1, 1]], [[1, 0]]])


def test_importing_the_module_loads_no_scipy():
    code = "import sys, pipeline.evaluate.stats; sys.exit(any(m in sys.modules for m in ('scipy', 'statsmodels', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_run_has_wilsons_interval():
    runs = [[1] * 7 + [0] * 33]
    result = stats.estimate_accuracy(runs)
    assert (result["low"], result["high"]) == stats.wilson_interval(7, 40)
    assert result["estimate"] == 7 / 40


def test_a_micro_average_counts_examples_and_a_macro_average_tasks():
    small, large = [[1] * 10, [1] * 10], [[1] * 30 + [0] * 60] * 2
    assert stats.estimate_mean_accuracy([small, large])["estimate"] == pytest.approx((1 + 1 / 3) / 2)
    assert stats.estimate_mean_accuracy([small, large], micro=True)["estimate"] == pytest.approx(40 / 100)
    none = [[[0] * len(task[0])] for task in (small, large)]
    result = stats.estimate_mean_difference([(small, none[0]), (large, none[1])], micro=True)
    assert result["estimate"] == pytest.approx(40 / 100)
    assert result["n"] == 100


def test_a_micro_average_is_as_certain_as_a_single_task_of_all_examples():
    runs = simulate(np.random.default_rng(9), n=400)
    halves = [runs[:, :100], runs[:, 100:]]
    whole, parts = stats.estimate_accuracy(runs), stats.estimate_mean_accuracy(halves, micro=True)
    assert parts["estimate"] == pytest.approx(whole["estimate"])
    assert parts["high"] - parts["low"] == pytest.approx(whole["high"] - whole["low"], rel=0.1)


def test_two_differing_seeds_are_weaker_evidence_than_five():
    def seeds(*right):
        return [[1] * correct + [0] * (1000 - correct) for correct in right]

    two, five = (
        stats.estimate_accuracy(seeds(450, 550)),
        stats.estimate_accuracy(seeds(450, 450, 500, 550, 550)),
    )
    assert two["estimate"] == pytest.approx(five["estimate"])
    assert two["high"] - two["low"] > 3 * (five["high"] - five["low"])


def test_noise_of_single_answers_does_not_count_as_a_difference_of_seeds():
    """Both seeds have the same accuracy; the measured accuracies differ only by chance."""
    rng = np.random.default_rng(10)
    widths = [
        result["high"] - result["low"]
        for result in (stats.estimate_accuracy(rng.random((2, 400)) < 0.5, draws=2000) for _ in range(40))
    ]
    alone = stats.wilson_interval(400, 800)
    assert np.median(widths) < 1.5 * (alone[1] - alone[0])


def test_the_detectable_difference_is_a_multiple_of_the_standard_error():
    rng = np.random.default_rng(11)
    first, second = simulate(rng, seeds=1, n=400), simulate(rng, seeds=1, n=400)
    result = stats.estimate_difference(first, second)
    plain = {key: value for key, value in result.items() if key != "continuity"}
    assert stats.detectable_difference(plain) == pytest.approx(
        (1.959964 + 0.841621) * result["error"], rel=1e-6
    )
    assert stats.detectable_difference(result) == pytest.approx(stats.detectable_difference(plain) + 1 / 400)
    assert stats.detectable_difference(plain, comparisons=10) == pytest.approx(
        (2.807034 + 0.841621) * result["error"], rel=1e-6
    )
    # the ratio of two such errors has a Cauchy distribution: t[0.975] / tan(0.2 * pi / 2)
    few = plain | {"freedom": 1.0}
    assert stats.detectable_difference(few) == pytest.approx(39.1 * result["error"], rel=0.03)


@pytest.mark.parametrize("freedom", [1.3, 2.0, 5.0, 40.0])
@pytest.mark.parametrize("comparisons", [1, 20])
def test_four_of_five_repetitions_find_the_detectable_difference(freedom, comparisons):
    """Two studies of the same true difference, each with its own error: the first states a difference, the second tests it."""
    rng = np.random.default_rng(13)
    first_error, second_error = np.sqrt(rng.chisquare(freedom, (2, 40_000)) / freedom)
    limit = t.ppf(1 - 0.025 / comparisons, freedom)
    factor = stats.detectable_difference({"error": 1.0, "freedom": freedom}, comparisons=comparisons)
    result = rng.normal(factor * first_error, 1.0) > limit * second_error
    assert result.mean() == pytest.approx(0.8, abs=0.015)


def test_a_difference_of_the_detectable_size_is_mostly_significant():
    rng, significant = np.random.default_rng(12), 0
    for _ in range(100):
        first, second = simulate(rng, seeds=1, n=300, rate=0.62), simulate(rng, seeds=1, n=300, rate=0.5)
        result = stats.estimate_difference(first, second, draws=500)
        significant += result["p_value"] < 0.05
    assert stats.detectable_difference(result) == pytest.approx(0.12, abs=0.02)
    assert 0.65 < significant / 100 < 0.95


def compare_clearly(rng):
    """Two seeds against a bare base that they exceed by far."""
    return stats.estimate_difference(
        simulate(rng, n=200, seeds=2, rate=0.9), simulate(rng, n=200, seeds=1, rate=0.4)
    )


def test_a_large_family_can_be_starred():
    """At most 500 comparisons times the bootstrap's smallest p-value, 1/10,001, are below 5 %."""
    rng = np.random.default_rng(14)
    clear = compare_clearly(rng)
    assert clear["p_value"] == 1 / (stats.DRAWS + 1)
    unclear = stats.estimate_difference(simulate(rng, seeds=2), simulate(rng, seeds=1))
    family = stats.adjust_differences([clear] * 1000 + [unclear] * 1000)
    assert all(difference["holm"] < 0.001 for difference in family[:1000])
    assert family[1000]["p_value"] == unclear["p_value"]
    assert family[1000]["holm"] > 0.05
    # a smaller family keeps its p-values
    assert stats.adjust_differences([clear] * 500)[0]["p_value"] == clear["p_value"]
    assert stats.adjust_differences([clear] * 500)[0]["holm"] == pytest.approx(0.05, rel=1e-3)


def test_the_tail_of_a_p_value_continues_the_bootstrap():
    """At p-values that 10,000 draws resolve, the closed form is near them; it is McNemar's beyond, where that applies."""
    rng = np.random.default_rng(15)
    for shift in (0.05, 0.08, 0.1):
        first = simulate(rng, n=400, seeds=3, rate=0.6 + shift)
        result = stats.estimate_difference(first, simulate(rng, n=400, seeds=3, rate=0.6))
        if result["p_value"] > 0.001:
            assert stats.tail_p_value(result) == pytest.approx(result["p_value"], rel=0.35)
    for n in (20, 60, 200):
        result = stats.estimate_difference([[1] * n], [[0] * n])
        assert math.log(stats.tail_p_value(result)) == pytest.approx(math.log(result["p_value"]), rel=0.35)


def test_exact_p_values_stay_in_a_large_family():
    exact = stats.estimate_difference([[1] * 60], [[0] * 60])
    assert stats.adjust_differences([exact] * 600)[0]["p_value"] == exact["p_value"]


def test_an_interval_of_a_difference_agrees_with_that_of_the_accuracy():
    """Two seeds at 57 and 99 %, against a base at 1 %: once [0, 100] in one table and [-47, 100] in another."""
    runs = [[1] * 86 + [0] * 64, [1] * 149 + [0]]
    base = [[1] * 2 + [0] * 148]
    accuracy, difference = stats.estimate_accuracy(runs), stats.estimate_difference(runs, base)
    assert difference["low"] == pytest.approx(accuracy["low"] - 2 / 150, abs=0.03)
    assert difference["high"] == pytest.approx(accuracy["high"] - 2 / 150, abs=0.03)
    pools = stats.pool_seeds([[runs], [[[1] * 110 + [0] * 40, [1] * 120 + [0] * 30]]])
    accuracy = stats.estimate_accuracy(runs, pool=pools[0])
    difference = stats.estimate_difference(runs, base, pools=(pools[0], None))
    assert difference["low"] == pytest.approx(accuracy["low"] - 2 / 150, abs=0.03)
    assert difference["high"] == pytest.approx(accuracy["high"] - 2 / 150, abs=0.03)


def test_p_values_of_picked_comparisons_are_bounded_by_the_whole_family():
    differences = [
        stats.estimate_difference([[1] * 60 + [0] * 40], [[0] * right + [1] * (100 - right)])
        for right in (40, 90)
    ]
    bounds = stats.bound_p_values(differences, comparisons=10)
    assert bounds == [min(1.0, 10 * difference["p_value"]) for difference in differences]
    # a bound is never below Holm's correction of the same family
    family = [difference["p_value"] for difference in differences] + [1.0] * 8
    assert all(bound >= holm for bound, holm in zip(bounds, stats.adjust_p_values(family), strict=False))
