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
    wanted = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    assert stats.wilson_interval(correct, n, level=level) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_count(correct, n):
    with pytest.raises(ValueError, match="right of"):
        stats.wilson_interval(correct, n)


def simulated(rng, *, seeds=3, n=300, rate=0.6, between=0.0):
    """Right and wrong of a method whose seeds differ by ``between`` and whose examples are hard or easy."""
    level = rate + rng.normal(0, between, size=seeds)
    hard = rng.normal(0, 0.2, size=n)
    return (rng.random((seeds, n)) < np.clip(level[:, None] + hard, 0, 1)).astype(float)


def test_estimates_are_the_plain_means():
    rng = np.random.default_rng(1)
    runs, base = simulated(rng), simulated(rng, seeds=1, rate=0.3)
    assert stats.estimate_accuracy(runs)["estimate"] == pytest.approx(runs.mean())
    found = stats.estimate_difference(runs, base)
    assert found["estimate"] == pytest.approx(runs.mean() - base.mean())
    assert (found["n"], found["seeds"]) == (300, 3)
    assert found["low"] < found["estimate"] < found["high"]
    other = simulated(rng, n=50)
    both = stats.estimate_mean_accuracy([runs, other])
    assert both["estimate"] == pytest.approx((runs.mean() + other.mean()) / 2)


def test_one_run_gives_about_wilsons_width():
    rng = np.random.default_rng(2)
    runs = simulated(rng, seeds=1)
    found, wilson = stats.estimate_accuracy(runs), stats.wilson_interval(int(runs.sum()), runs.size)
    assert found["high"] - found["low"] == pytest.approx(wilson[1] - wilson[0], rel=0.1)


def test_the_same_examples_again_are_no_new_evidence():
    one = simulated(np.random.default_rng(3), seeds=1)
    single, thrice = stats.estimate_accuracy(one), stats.estimate_accuracy(np.repeat(one, 3, axis=0))
    assert thrice["high"] - thrice["low"] == pytest.approx(single["high"] - single["low"], rel=0.05)


def test_seeds_that_differ_widen_the_interval():
    n = 300
    alike = [[1] * 180 + [0] * 120, [1] * 180 + [0] * 120]
    apart = [[1] * 120 + [0] * 180, [1] * 240 + [0] * (n - 240)]
    narrow, wide = stats.estimate_accuracy(alike), stats.estimate_accuracy(apart)
    assert wide["estimate"] == narrow["estimate"]
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_pairing_on_examples_counts():
    rng = np.random.default_rng(4)
    base = simulated(rng, seeds=1)
    better = np.maximum(base, rng.random(base.shape) < 0.1)
    paired = stats.estimate_difference(better, base)
    shuffled = stats.estimate_difference(better, rng.permutation(base, axis=1))
    assert paired["low"] > 0
    assert shuffled["high"] - shuffled["low"] > 2 * (paired["high"] - paired["low"])


def test_all_right_still_has_an_interval():
    found = stats.estimate_accuracy([[1] * 40, [1] * 40])
    assert found["estimate"] == 1
    assert found["low"] < 0.99
    apart = stats.estimate_difference([[1] * 40, [1] * 40], [[0] * 40])
    assert apart["estimate"] == 1
    assert 0.7 < apart["low"] < 1
    assert stats.estimate_difference([[1] * 40] * 2, [[1] * 40])["p_value"] == 1


@pytest.mark.parametrize("right", [0, 1, 75, 147, 150])
@pytest.mark.parametrize("tasks", [1, 7])
def test_an_interval_holds_its_estimate_and_nothing_impossible(right, tasks):
    seeds = [[1] * right + [0] * (150 - right), [1] * max(right - 2, 0) + [0] * min(152 - right, 150)]
    found = stats.estimate_mean_accuracy([seeds] * tasks)
    assert 0 <= found["low"] <= found["estimate"] <= found["high"] <= 1
    assert found["high"] - found["low"] > 0.002
    apart = stats.estimate_mean_difference([(seeds, [[0] * 150])] * tasks)
    assert -1 <= apart["low"] <= apart["estimate"] <= apart["high"] <= 1


def test_the_interval_of_a_mean_of_many_tasks_is_centred_on_it():
    """Pseudo-examples are for the whole mean: one set a task pulled seven tasks at 98 % below their mean."""
    rng = np.random.default_rng(8)
    tables = [(rng.random((2, 150)) < 0.98).astype(float) for _ in range(7)]
    found = stats.estimate_mean_accuracy(tables)
    assert found["high"] - found["estimate"] > 0.25 * (found["high"] - found["low"])


def test_one_run_against_one_is_mcnemars_exact_test():
    first = [1] * 10 + [0] * 2 + [1] * 20
    second = [0] * 10 + [1] * 2 + [1] * 20
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert stats.estimate_difference([first], [second])["p_value"] == pytest.approx(2 * tail)


def test_equal_calls_give_equal_results_and_another_seed_does_not():
    rng = np.random.default_rng(5)
    runs, base = simulated(rng, between=0.05), simulated(rng, seeds=1)
    assert stats.estimate_difference(runs, base) == stats.estimate_difference(runs, base)
    assert stats.estimate_difference(runs, base) != stats.estimate_difference(runs, base, seed=1)


@pytest.mark.parametrize("between", [0.0, 0.04])
def test_intervals_cover_the_truth(between):
    """Loose bounds: 200 simulations tell 95 % from 88 %; the long run is a benchmark."""
    rng, covered = np.random.default_rng(6), 0
    for _ in range(200):
        found = stats.estimate_accuracy(simulated(rng, seeds=5, rate=0.5, between=between), draws=1000)
        covered += found["low"] <= 0.5 <= found["high"]
    assert 0.89 <= covered / 200 <= 1


def test_p_values_are_uniform_under_no_difference():
    rng, small = np.random.default_rng(7), 0
    for _ in range(200):
        found = stats.estimate_difference(simulated(rng, n=200), simulated(rng, n=200, seeds=1), draws=1000)
        small += found["p_value"] < 0.1
    assert small / 200 < 0.17


def test_holm_is_the_step_down_correction():
    assert stats.adjust_p_values([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.adjust_p_values([]) == []


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ([[1, 0]], [[1]], "examples against"),
        ([], [[1]], "runs must be"),
        ([[1, 0], [1]], [[1, 0]], "runs must be"),
    ],
)
def test_tables_that_do_not_fit_are_refused(first, second, told):
    with pytest.raises(ValueError, match=told):
        stats.estimate_difference(first, second)


def test_tasks_of_different_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="numbers of seeds"):
        stats.estimate_mean_accuracy([[[1, 0], [1, 1]], [[1, 0]]])


def test_importing_it_loads_no_scipy():
    code = "import sys, pipeline.evaluate.stats; sys.exit(any(m in sys.modules for m in ('scipy', 'statsmodels', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_run_has_wilsons_interval():
    runs = [[1] * 7 + [0] * 33]
    found = stats.estimate_accuracy(runs)
    assert (found["low"], found["high"]) == stats.wilson_interval(7, 40)
    assert found["estimate"] == 7 / 40


def test_a_micro_average_counts_examples_and_a_macro_average_tasks():
    small, large = [[1] * 10, [1] * 10], [[1] * 30 + [0] * 60] * 2
    assert stats.estimate_mean_accuracy([small, large])["estimate"] == pytest.approx((1 + 1 / 3) / 2)
    assert stats.estimate_mean_accuracy([small, large], micro=True)["estimate"] == pytest.approx(40 / 100)
    none = [[[0] * len(task[0])] for task in (small, large)]
    found = stats.estimate_mean_difference([(small, none[0]), (large, none[1])], micro=True)
    assert found["estimate"] == pytest.approx(40 / 100)
    assert found["n"] == 100


def test_a_micro_average_of_all_examples_is_as_sure_as_one_task_of_them():
    one = simulated(np.random.default_rng(9), n=400)
    halves = [one[:, :100], one[:, 100:]]
    whole, parts = stats.estimate_accuracy(one), stats.estimate_mean_accuracy(halves, micro=True)
    assert parts["estimate"] == pytest.approx(whole["estimate"])
    assert parts["high"] - parts["low"] == pytest.approx(whole["high"] - whole["low"], rel=0.1)


def test_two_seeds_that_differ_tell_less_than_five_that_differ_as_much():
    def seeds(*right):
        return [[1] * one + [0] * (1000 - one) for one in right]

    two, five = (
        stats.estimate_accuracy(seeds(450, 550)),
        stats.estimate_accuracy(seeds(450, 450, 500, 550, 550)),
    )
    assert two["estimate"] == pytest.approx(five["estimate"])
    assert two["high"] - two["low"] > 3 * (five["high"] - five["low"])


def test_seeds_that_are_unsure_of_examples_are_not_taken_to_differ():
    """Two seeds of one coin: what their accuracies differ by is the coin's doing, not the seeds'."""
    rng = np.random.default_rng(10)
    widths = [
        found["high"] - found["low"]
        for found in (stats.estimate_accuracy(rng.random((2, 400)) < 0.5, draws=2000) for _ in range(40))
    ]
    alone = stats.wilson_interval(400, 800)
    assert np.median(widths) < 1.5 * (alone[1] - alone[0])


def test_the_detectable_difference_is_the_tests_reach():
    rng = np.random.default_rng(11)
    first, second = simulated(rng, seeds=1, n=400), simulated(rng, seeds=1, n=400)
    found = stats.estimate_difference(first, second)
    plain = {key: value for key, value in found.items() if key != "continuity"}
    assert stats.detectable_difference(plain) == pytest.approx(
        (1.959964 + 0.841621) * found["error"], rel=1e-6
    )
    assert stats.detectable_difference(found) == pytest.approx(stats.detectable_difference(plain) + 1 / 400)
    assert stats.detectable_difference(plain, comparisons=10) == pytest.approx(
        (2.807034 + 0.841621) * found["error"], rel=1e-6
    )
    few = plain | {"freedom": 1.0}  # two such errors are in a ratio as Cauchy's: t[0.975] / tan(0.2 * pi / 2)
    assert stats.detectable_difference(few) == pytest.approx(39.1 * found["error"], rel=0.03)


@pytest.mark.parametrize("freedom", [1.3, 2.0, 5.0, 40.0])
@pytest.mark.parametrize("comparisons", [1, 20])
def test_four_of_five_repetitions_find_the_detectable_difference(freedom, comparisons):
    """Two studies of one truth, each with an error of its own: the first states a difference, the second looks for it."""
    rng = np.random.default_rng(13)
    stated, again = np.sqrt(rng.chisquare(freedom, (2, 40_000)) / freedom)
    limit = t.ppf(1 - 0.025 / comparisons, freedom)
    reach = stats.detectable_difference({"error": 1.0, "freedom": freedom}, comparisons=comparisons)
    found = rng.normal(reach * stated, 1.0) > limit * again
    assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_a_difference_as_large_as_the_detectable_one_is_mostly_found():
    rng, shown = np.random.default_rng(12), 0
    for _ in range(100):
        first, second = simulated(rng, seeds=1, n=300, rate=0.62), simulated(rng, seeds=1, n=300, rate=0.5)
        found = stats.estimate_difference(first, second, draws=500)
        shown += found["p_value"] < 0.05
    assert stats.detectable_difference(found) == pytest.approx(0.12, abs=0.02)
    assert 0.65 < shown / 100 < 0.95
