import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES, random_outcome, random_truth
from scipy.stats import norm

from evaluation.metrics.outcomes import Outcome, TestSet, weighted_ap, weighted_auroc
from evaluation.statistics.bootstrap import delong_interval, percentile_interval, two_level_bootstrap


def test_identical_configurations_differ_by_nothing_but_the_runs_drawn():
    truth = random_truth()
    outcome = random_outcome(truth, 0)
    draws = two_level_bootstrap(truth, {"a": [outcome], "b": [outcome]}, replicates=300, seed=1)
    for metric in ("auroc", "ap", "score"):
        assert np.array_equal(draws["a"][metric], draws["b"][metric])


def test_draws_of_one_run_have_the_spread_of_resampled_cases():
    truth = random_truth(200)
    outcome = random_outcome(truth, 0)
    draws = two_level_bootstrap(truth, {"a": [outcome]}, replicates=2000, seed=1)["a"]
    rng = np.random.default_rng(9)
    plain = []
    for _ in range(1000):
        weights = np.bincount(rng.integers(0, 200, 200), minlength=200)[None, :].astype(float)
        auroc = weighted_auroc(truth, outcome.likelihood, weights)[0]
        plain.append((auroc, weighted_ap(truth, outcome, weights)[0]))
    expected = np.std(plain, axis=0)
    assert draws["auroc"].std() == pytest.approx(expected[0], rel=0.1)
    assert draws["ap"].std() == pytest.approx(expected[1], rel=0.1)
    assert np.allclose(draws["score"], (draws["auroc"] + draws["ap"]) / 2)


def test_spread_of_runs_widens_the_interval():
    truth = random_truth()
    good, poor = random_outcome(truth, 0, 3.0), random_outcome(truth, 0, 0.0)
    draws = two_level_bootstrap(truth, {"alike": [good, good], "apart": [good, poor]}, replicates=500, seed=1)
    assert draws["apart"]["auroc"].std() > 2 * draws["alike"]["auroc"].std()


def test_patients_are_drawn_with_all_their_cases():
    # 40 cases of 4 patients, each either all right or all wrong: few patients, wide interval
    truth = random_truth(40, patients=4)
    single = random_truth(40)
    right = np.where(np.arange(40) % 4 < 2, 1.0, -1.0)
    outcome = Outcome(right * truth.positive, *NO_CANDIDATES)
    few = two_level_bootstrap(truth, {"a": [outcome]}, replicates=400, seed=0)["a"]["auroc"]
    many = two_level_bootstrap(single, {"a": [outcome]}, replicates=400, seed=0)["a"]["auroc"]
    assert np.nanstd(few) > 1.5 * np.nanstd(many)


def test_draws_of_a_configuration_do_not_depend_on_the_others():
    truth = random_truth()
    a, b, c = ([random_outcome(truth, 2 * k), random_outcome(truth, 2 * k + 1)] for k in range(3))
    alone = two_level_bootstrap(truth, {"a": a}, replicates=200, seed=4)
    among = two_level_bootstrap(truth, {"c": c, "a": a, "b": b}, replicates=200, seed=4)
    assert np.array_equal(alone["a"]["score"], among["a"]["score"])


def test_another_seed_gives_other_draws():
    truth = random_truth()
    runs = {"a": [random_outcome(truth, 0)]}
    first, second = (two_level_bootstrap(truth, runs, replicates=50, seed=s)["a"]["ap"] for s in (0, 1))
    assert not np.array_equal(first, second)


def test_undefined_replicates_are_left_out_and_counted():
    truth = TestSet(("1_1", "2_2", "3_3"), np.array([True, False, False]), np.array([1, 0, 0]))
    outcome = Outcome(np.array([0.9, 0.1, 0.2]), np.array([0]), np.array([0.9]), np.array([True]))
    draws = two_level_bootstrap(truth, {"a": [outcome]}, replicates=1000, seed=0)["a"]
    found = percentile_interval(draws["ap"], level=0.95)
    assert found is not None
    assert found.undefined == int(np.isnan(draws["ap"]).sum())
    assert 0.2 < found.undefined / 1000 < 0.4  # (2/3)^3 = 0.30 of the draws lack the one positive case
    assert (found.low, found.high) == (1.0, 1.0)


def test_no_defined_replicate_gives_no_interval():
    assert percentile_interval(np.full(10, np.nan), level=0.95) is None


def test_percentile_interval_holds_its_level():
    found = percentile_interval(np.arange(1001.0), level=0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((50, 950))


def brute_force_delong(truth, first, second):
    """DeLong by structural components written out pair by pair."""

    def components(outcome):
        x, y = outcome.likelihood[truth.positive], outcome.likelihood[~truth.positive]
        psi = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        return psi.mean(axis=1), psi.mean(axis=0)

    (a10, a01), (b10, b01) = components(first), components(second)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    covariance = s10 / a10.size + s01 / a01.size
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    single = (a10.mean(), np.sqrt(covariance[0, 0]))
    return single, (a10.mean() - b10.mean(), np.sqrt(variance))


def test_delong_equals_its_components_written_out():
    truth = random_truth()
    a, b = random_outcome(truth, 0), random_outcome(truth, 1, 0.3)
    single, pair = brute_force_delong(truth, a, b)
    z = norm.ppf(0.975)
    assert delong_interval(truth, [a], level=0.95) == pytest.approx(
        (single[0] - z * single[1], single[0] + z * single[1])
    )
    expected = (pair[0] - z * pair[1], pair[0] + z * pair[1])
    assert delong_interval(truth, [a], [b], level=0.95) == pytest.approx(expected)
    assert delong_interval(truth, [a, a], [b], level=0.95) == pytest.approx(expected)


def test_delong_is_withheld_where_its_assumptions_fail():
    repeated = random_truth(40, patients=20)
    assert delong_interval(repeated, [random_outcome(repeated, 0)], level=0.95) is None
    one_positive = TestSet(("1_1", "2_2", "3_3"), np.array([True, False, False]), np.array([1, 0, 0]))
    outcome = Outcome(np.arange(3.0), *NO_CANDIDATES)
    assert delong_interval(one_positive, [outcome], level=0.95) is None
