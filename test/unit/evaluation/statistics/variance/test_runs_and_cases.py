"""The test and the interval of a difference for new runs and cases."""

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_ind, ttest_rel

from evaluation.statistics.variance.arms import interval_of
from evaluation.statistics.variance.influence import MetricByPatient
from evaluation.statistics.variance.runs_and_cases import (
    DifferenceTest,
    approximation,
    mean_of,
    nested,
    paired,
    too_few,
)

POSITIVE = np.array([True] * 12 + [False] * 20)
NO_CASES = np.zeros((1, POSITIVE.size))


def an_arm(seed, runs=6, *, mean=0.8, spread=0.02, cases=0.01):
    """Runs that see the cases partly alike and partly in their own way."""
    rng = np.random.default_rng(seed)
    influence = rng.normal(0, cases, POSITIVE.size) + rng.normal(0, cases / 2, (runs, POSITIVE.size))
    return MetricByPatient(rng.normal(mean, spread, runs), influence)


def runs_alone(arm):
    return MetricByPatient(arm.values, np.repeat(NO_CASES, len(arm.values), axis=0))


@pytest.mark.parametrize("runs", [(6, 6), (2, 9)])
def test_without_influence_of_cases_nested_is_welchs_t_test(runs):
    a, b = runs_alone(an_arm(0, runs[0])), runs_alone(an_arm(1, runs[1], spread=0.05))
    found, expected = nested(a, b, POSITIVE), ttest_ind(a.values, b.values, equal_var=False)
    assert (found.p, found.degrees_of_freedom) == pytest.approx((expected.pvalue, expected.df))
    assert found.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)))


def test_without_influence_of_cases_paired_is_the_paired_t_test():
    a, b = runs_alone(an_arm(0)), runs_alone(an_arm(1))
    found = paired(a, b, POSITIVE, [([k], [k]) for k in range(6)])
    expected = ttest_rel(a.values, b.values)
    assert (found.p, found.degrees_of_freedom) == pytest.approx((expected.pvalue, expected.df))
    assert found.interval(0.95) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_two_networks_are_compared_by_delongs_test_with_welchs_df():
    rng = np.random.default_rng(2)
    positives, negatives = rng.normal(0.1, 0.3, 12), rng.normal(0.1, 0.2, 20)  # placements, a's minus b's
    of_cases = np.concatenate(
        [(each - each.mean()) / math.sqrt(each.size * (each.size - 1)) for each in (positives, negatives)]
    )
    a, b = MetricByPatient(np.array([0.9]), of_cases[None, :]), MetricByPatient(np.array([0.8]), NO_CASES)
    found = nested(a, b, POSITIVE, fixed=(True, True))
    expected = ttest_ind(positives, negatives, equal_var=False)
    variance = positives.var(ddof=1) / 12 + negatives.var(ddof=1) / 20
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    assert found.p == pytest.approx(2 * student.sf(0.1 / math.sqrt(variance), expected.df))


def test_variances_equal_obuchowski_and_rockettes_covariances():
    """``s²/r`` of both arms and ``Cov₂(a) + Cov₂(b) − 2 Cov₃``, summed over all pairs of runs."""
    a, b = an_arm(3, 4), an_arm(4, 5)
    of_a, of_b = a.influence @ a.influence.T, b.influence @ b.influence.T
    within = [each[~np.eye(len(each), dtype=bool)].mean() for each in (of_a, of_b)]
    across = (a.influence @ b.influence.T).mean()
    found = nested(a, b, POSITIVE)
    assert found.variance_of_runs == pytest.approx(a.values.var(ddof=1) / 4 + b.values.var(ddof=1) / 5)
    assert found.variance_of_cases == pytest.approx(sum(within) - 2 * across)


READERS = np.array(
    [
        [0.9196457327, 0.8587761675, 0.9038647343, 0.9731078905, 0.8297906602],
        [0.9478260870, 0.9053140097, 0.9217391304, 0.9993558776, 0.9299516908],
    ]
)
ERROR, COV_1, COV_2, COV_3 = 0.0007921325, 0.0003420090, 0.0003395265, 0.0002358497


def van_dyke():
    """Five readers of 45 patients with and 69 without dissection, by cine and by spin-echo MRI.

    Their AUROC, and influences with the variances and covariances that MRMCaov 0.3.0 prints for them (user guide,
    section 5.2, ``cov = DeLong``).
    """
    same_reader, same_modality = np.kron(np.ones((2, 2)), np.eye(5)), np.kron(np.eye(2), np.ones((5, 5)))
    covariance = np.where(same_modality, COV_2, COV_3) + (COV_1 - COV_3) * same_reader
    np.fill_diagonal(covariance, ERROR)
    influence = np.linalg.cholesky(covariance).reshape(2, 5, 10)
    return [MetricByPatient(values, each) for values, each in zip(READERS, influence, strict=True)]


def without_cases_degrees_of_freedom(found):
    """As Hillis has them, and MRMCaov: of the readers alone."""
    variance = found.variance_of_runs + found.variance_of_cases
    return variance**2 / (found.variance_of_runs**2 / 4)


def test_readers_of_van_dyke_give_what_mrmcaov_prints():
    cine, spin_echo = van_dyke()
    found = paired(cine, spin_echo, np.arange(10) < 5, [([k], [k]) for k in range(5)])
    assert found.estimate == pytest.approx(-0.04380032, abs=1e-8)
    assert found.standard_error == pytest.approx(0.0206825, abs=1e-7)
    degrees = without_cases_degrees_of_freedom(found)
    assert degrees == pytest.approx(15.06611, abs=2e-5)
    t = found.estimate / found.standard_error
    assert t**2 == pytest.approx(4.484854, abs=2e-6)
    assert 2 * student.sf(-t, degrees) == pytest.approx(0.05123303, abs=1e-6)
    reach = student.isf(0.025, degrees) * found.standard_error
    assert found.estimate - reach == pytest.approx(-0.0878671960, abs=1e-6)
    assert found.estimate + reach == pytest.approx(0.0002665519, abs=1e-6)


def test_the_mean_of_one_arm_over_readers_and_cases_by_its_own_covariance():
    cine, _ = van_dyke()
    found = mean_of(cine, np.arange(10) < 5)
    assert found.estimate == pytest.approx(0.8970370, abs=1e-7)
    # MS(R)/5 + Cov₂, with MRMCaov's MS(R); its Cov₂ of one modality differs from that of both
    assert found.variance_of_runs == pytest.approx(0.003082629 / 5, abs=1e-9)
    assert found.variance_of_cases == pytest.approx(COV_2, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_excludes_zero_exactly_where_p_is_below_alpha(seed):
    found = nested(an_arm(seed), an_arm(seed + 50, 3, mean=0.78), POSITIVE)
    low, high = found.interval(1 - found.p)
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)
    for alpha in (0.01, 0.05, 0.2):
        low, high = found.interval(1 - alpha)
        assert (low > 0 or high < 0) == (found.p < alpha)


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.2])
def test_equivalence_is_the_narrower_interval_within_the_margin(margin):
    found = nested(an_arm(0), an_arm(1), POSITIVE)
    for alpha in (0.01, 0.05, 0.2):
        low, high = found.interval(1 - 2 * alpha)
        assert (found.p_not_equivalent(margin) < alpha) == (-margin < low and high < margin)
        assert (found.p_not_above(-margin) < alpha) == (low > -margin)


def test_swapped_arms_give_the_same_p_and_the_opposite_interval():
    a, b = an_arm(0), an_arm(1, 4)
    there, back = nested(a, b, POSITIVE), nested(b, a, POSITIVE)
    assert there.p == pytest.approx(back.p)
    assert there.interval(0.95) == pytest.approx(tuple(-end for end in reversed(back.interval(0.95))))


def test_pairs_may_hold_several_runs_of_an_arm():
    a, b = an_arm(0, 2), an_arm(1, 6)
    found = paired(a, b, POSITIVE, [([0], [0, 1, 2]), ([1], [3, 4, 5])])
    differences = a.values - b.values.reshape(2, 3).mean(axis=1)
    assert found.estimate == pytest.approx(differences.mean())
    assert found.variance_of_runs == pytest.approx(differences.var(ddof=1) / 2)


@pytest.mark.parametrize(
    "found",
    [
        nested(an_arm(0, 1), an_arm(1), POSITIVE),
        nested(an_arm(0), an_arm(1, 1), POSITIVE, fixed=(True, False)),
        paired(an_arm(0), an_arm(1), POSITIVE, [([0], [0])]),
        nested(runs_alone(an_arm(0, spread=0)), runs_alone(an_arm(1, spread=0)), POSITIVE),
    ],
    ids=["single run", "single run against a rule", "one pair", "nothing varies"],
)
def test_no_test_where_spread_is_unknown_or_nothing_varies(found):
    assert found is None


def test_a_fixed_rule_has_no_variance_over_runs():
    rule = MetricByPatient(np.array([0.7]), np.random.default_rng(9).normal(0, 0.01, (1, POSITIVE.size)))
    arm = an_arm(0)
    found = nested(arm, rule, POSITIVE, fixed=(False, True))
    assert found.variance_of_runs == pytest.approx(arm.values.var(ddof=1) / 6)
    assert isinstance(found, DifferenceTest)


@pytest.mark.parametrize(("positives", "is_tested"), [(0, True), (1, False), (2, False), (3, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_class_of_one_or_two_patients_has_no_test_and_no_interval(positives, is_tested, turned):
    positive = (np.arange(POSITIVE.size) < positives) != turned
    a, b = an_arm(1), an_arm(2)
    tests = (nested(a, b, positive), paired(a, b, positive, [([k], [k]) for k in range(6)]), mean_of(a, positive))
    assert [test is not None for test in tests] == [is_tested] * 3
    assert (too_few(positive) is None) == is_tested


MANY = np.arange(60) < 25


@pytest.mark.parametrize(
    ("positive", "drawn", "expected"),
    [
        (POSITIVE, [(10, "runs"), (10, "runs")], "there are fewer than 20 positive patients"),
        (MANY, [(10, "runs"), (10, "runs")], None),
        (MANY, [], None),
        (MANY, [(2, "runs"), (2, "runs")], "there are only 2 runs"),
        (MANY, [(6, "runs"), (2, "runs")], "there are only 2 runs"),
        (MANY, [(2, "pairs of runs")], "there are only 2 pairs of runs"),
        (MANY, [(2, "runs")], "there are only 2 runs"),
        (MANY, [(3, "runs"), (2, "readers")], "there are only 2 readers"),
        (MANY, [(3, "runs"), (9, "runs")], None),
        (MANY, [(20, "runs"), (3, "runs")], "3 runs are compared with 20"),
        (MANY, [(4, "readers"), (13, "runs")], "4 readers are compared with 13 runs"),
    ],
)
def test_what_makes_p_approximate(positive, drawn, expected):
    assert approximation(positive, drawn) == expected


def test_runs_brought_to_one_value_have_the_whole_variance_by_cases():
    """No spread between runs, so nothing of the cases' variance may be taken off for it."""
    arm = an_arm(3, 5)
    alike = MetricByPatient(np.full(5, 0.9), arm.influence)
    found = mean_of(alike, POSITIVE, own_is_seen=False)
    assert found.variance_of_runs == 0
    assert found.variance_of_cases == pytest.approx((arm.influence.mean(axis=0) ** 2).sum())
    assert found.variance_of_cases > mean_of(alike, POSITIVE).variance_of_cases


@pytest.mark.parametrize(("farthest", "ends"), [(1.0, (-1.0, 0.7)), (2.0, (-1.7, 0.7))])
def test_an_interval_ends_where_a_difference_must(farthest, ends):
    """A mean of −0.5 with 2 degrees of freedom: t is 4.303."""
    test = DifferenceTest(-0.5, (1.2 / 4.3026527) ** 2, 0.0, 2.0)
    found = interval_of(test, 0.95, farthest=farthest)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-6)
