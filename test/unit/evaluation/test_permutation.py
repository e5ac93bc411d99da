import itertools
import math

import numpy as np
import pytest
from mlxtend.evaluate import permutation_test
from scipy.stats import kstest, mannwhitneyu

from evaluation.outcomes import Outcome, Truth, weighted_ap, weighted_auroc
from evaluation.permutation import (
    auroc_swap_weights,
    case_swap_tests,
    mean_difference_test,
    order_test,
    smallest_order_p,
)


def order_auc(a, b):
    return np.mean([[(x > y) + 0.5 * (x == y) for y in b] for x in a])


def relabelled(a, b, folds=None):
    """Every way to hand the values out again, within fold where folds are given: pairs of arms, fold by fold."""
    if folds is None:
        folds = ([0] * len(a), [0] * len(b))
    per_fold = []
    for fold in sorted(set(folds[0]) & set(folds[1])):
        of_a = [x for x, f in zip(a, folds[0], strict=True) if f == fold]
        of_b = [x for x, f in zip(b, folds[1], strict=True) if f == fold]
        values = of_a + of_b
        per_fold.append(
            [
                ([values[i] for i in chosen], [values[i] for i in range(len(values)) if i not in chosen])
                for chosen in itertools.combinations(range(len(values)), len(of_a))
            ]
        )
    return [list(arrangement) for arrangement in itertools.product(*per_fold)]


def brute_force_p(a, b, statistic, centre, folds=None, one_sided=False):
    arrangements = relabelled(a, b, folds)
    values = [statistic(arrangement) for arrangement in arrangements]
    observed = values[0]  # the first choice of every fold is the order given
    if one_sided:
        return np.mean([value >= observed - 1e-12 for value in values])
    return np.mean([abs(value - centre) >= abs(observed - centre) - 1e-12 for value in values])


@pytest.mark.parametrize(
    ("alternative", "base", "p"),
    [
        ([1, 2, 3], [0, 1, 2], 0.25),
        ([0.96, 0.91, 0.90, 0.85, 0.81, 0.80], [0.92, 0.94, 0.95, 0.81, 0.82, 0.86], 0.7218614718614719),
        (list(range(10, 20)), list(range(10)), 1 / math.comb(20, 10)),
    ],
)
def test_one_sided_order_test_gives_the_published_values(alternative, base, p):
    # picai_eval's statistical_helper: its docstring, its README, and full separation of 10 against 10 (5.41254e-6)
    assert order_test(alternative, base, alternative="greater").p == p


@pytest.mark.parametrize("seed", range(5))
def test_order_test_without_ties_equals_scipy_exactly(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.permutation(13)[:6], rng.permutation(np.arange(20, 29))[:7] - 18.5
    for ours, theirs in (("greater", "greater"), ("two-sided", "two-sided")):
        expected = mannwhitneyu(a, b, alternative=theirs, method="exact").pvalue
        assert order_test(a, b, alternative=ours).p == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_one_sided_order_test_with_ties_equals_mlxtend(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, 5).astype(float), rng.integers(0, 4, 4).astype(float)
    expected = permutation_test(a, b, method="exact", func=order_auc)
    assert order_test(a, b, alternative="greater").p == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blocked", [False, True])
def test_order_test_equals_brute_force_with_ties_and_folds(seed, blocked):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, 5).tolist(), rng.integers(0, 5, 5).tolist()
    folds = ([0, 0, 1, 1, 2], [0, 1, 1, 2, 2]) if blocked else None

    def concordant_pairs(arms):
        return sum(order_auc(x, y) * len(x) * len(y) for x, y in arms)

    centre = sum(len(x) * len(y) for x, y in relabelled(a, b, folds)[0]) / 2
    found = order_test(a, b, folds=folds)
    assert found.p == pytest.approx(brute_force_p(a, b, concordant_pairs, centre, folds), abs=1e-12)
    one_sided = order_test(a, b, folds=folds, alternative="greater").p
    assert one_sided == pytest.approx(brute_force_p(a, b, concordant_pairs, centre, folds, one_sided=True), abs=1e-12)


def test_fold_of_one_arm_alone_says_nothing():
    a, b = [3.0, 4.0, 9.0], [1.0, 2.0]
    assert order_test(a, b, folds=([0, 0, 1], [0, 0])).p == order_test(a[:2], b).p


def test_order_test_counts_on_where_64_bits_would_overflow():
    found = order_test(list(range(40, 80)), list(range(40)), alternative="greater")
    assert found.p == pytest.approx(1 / math.comb(80, 40), rel=1e-12)
    assert found.arrangements == math.comb(80, 40)


def test_values_that_differ_by_rounding_alone_are_ties():
    assert order_test([0.1 + 0.2, 0.5], [0.3, 0.4]).p == order_test([0.3, 0.5], [0.3, 0.4]).p


@pytest.mark.parametrize("folds", [None, ([0, 0, 1, 1], [0, 0, 1, 1])])
def test_smallest_p_is_that_of_full_separation(folds):
    values = ([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0])
    assert smallest_order_p(4, 4, folds=folds) == pytest.approx(order_test(*values, folds=folds).p, abs=1e-15)


def test_two_against_two_runs_cannot_reach_a_third():
    assert smallest_order_p(2, 2) == pytest.approx(1 / 3)
    assert smallest_order_p(1, 1) == 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("blocked", [False, True])
def test_mean_difference_test_equals_brute_force(seed, blocked):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.3, 1, 5).tolist(), rng.normal(0, 1, 5).tolist()
    folds = ([0, 0, 1, 1, 2], [0, 1, 1, 2, 2]) if blocked else None

    def weighted_difference(arms):
        pairs = [len(x) * len(y) for x, y in arms]
        return sum(n * (np.mean(x) - np.mean(y)) for n, (x, y) in zip(pairs, arms, strict=True)) / sum(pairs)

    found = mean_difference_test(a, b, folds=folds)
    assert found.exact
    assert found.p == pytest.approx(brute_force_p(a, b, weighted_difference, 0, folds), abs=1e-12)
    one_sided = mean_difference_test(a, b, folds=folds, alternative="greater").p
    expected = brute_force_p(a, b, weighted_difference, 0, folds, one_sided=True)
    assert one_sided == pytest.approx(expected, abs=1e-12)


def test_drawn_mean_difference_agrees_with_the_enumerated_one(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 7), rng.normal(0, 1, 7)
    exact = mean_difference_test(a, b)
    monkeypatch.setattr("evaluation.permutation.ENUMERATION_LIMIT", 1)
    drawn = mean_difference_test(a, b, draws=20_000, seed=3)
    assert not drawn.exact
    assert drawn.p_interval[0] <= exact.p <= drawn.p_interval[1]


@pytest.mark.parametrize("test", [order_test, mean_difference_test])
def test_identical_runs_give_p_1(test):
    assert test([0.7, 0.8, 0.9], [0.7, 0.8, 0.9]).p == 1


def a_truth(cases, patients=None):
    lesions = np.array([(0, 1, 0, 2)[i % 4] for i in range(cases)])
    names = tuple(f"{i if patients is None else i % patients:03d}_{i:03d}" for i in range(cases))
    return Truth(names, lesions > 0, lesions)


def an_outcome(truth, seed, shift=0.0, decimals=2):
    rng = np.random.default_rng(seed)
    cases = len(truth.case_ids)
    likelihood = np.round(rng.normal(0, 1, cases) + shift * truth.positive, decimals) + 10
    found = np.repeat(np.arange(cases), rng.binomial(truth.lesions, 0.7))
    case = np.concatenate([found, rng.integers(0, cases, cases)])
    confidence = np.round(rng.uniform(0, 1, case.size) + shift * (np.arange(case.size) < found.size), decimals) + 0.01
    return Outcome(likelihood, case, confidence, np.arange(case.size) < found.size)


def ranked(outcome):
    """Midranks: of likelihoods from below, of confidences from the top and negative, so that higher is better."""
    likelihood = [(outcome.likelihood < x).sum() + (outcome.likelihood == x).sum() / 2 for x in outcome.likelihood]
    confidence = [-(outcome.confidence > x).sum() - (outcome.confidence == x).sum() / 2 for x in outcome.confidence]
    return Outcome(np.array(likelihood), outcome.candidate_case, np.array(confidence) + 1000, outcome.hit)


def swapped_pair(truth, a, b, swapped):
    """Both outcomes after swapping the patients in ``swapped``, by picking rows one at a time."""
    pair = []
    for mine, other in ((a, b), (b, a)):
        take = [truth.patients[case] in swapped for case in range(len(truth.case_ids))]
        likelihood = np.where(take, other.likelihood, mine.likelihood)
        rows = [
            (c, s, h) for c, s, h in zip(mine.candidate_case, mine.confidence, mine.hit, strict=True) if not take[c]
        ]
        rows += [
            (c, s, h) for c, s, h in zip(other.candidate_case, other.confidence, other.hit, strict=True) if take[c]
        ]
        columns = [np.array([row[k] for row in rows]) for k in range(3)]
        pair.append(Outcome(likelihood, columns[0].astype(int), columns[1], columns[2].astype(bool)))
    return pair


def differences(truth, a, b):
    one = np.ones((1, len(truth.case_ids)))
    auroc = [weighted_auroc(truth, each.likelihood, one)[0] for each in (a, b)]
    ap = [weighted_ap(truth, each, one)[0] for each in (a, b)]
    return auroc[0] - auroc[1], ap[0] - ap[1]


def brute_force_swaps(truth, a, b):
    """p by metric over every swap of every patient, each recomputed from swapped rows."""
    a, b = ranked(a), ranked(b)
    observed = differences(truth, a, b)
    patients = range(truth.patient_count)
    drawn = np.array(
        [
            differences(truth, *swapped_pair(truth, a, b, set(chosen)))
            for size in range(truth.patient_count + 1)
            for chosen in itertools.combinations(patients, size)
        ]
    )
    return {
        "auroc": np.mean(np.abs(drawn[:, 0]) >= abs(observed[0]) - 1e-12),
        "ap": np.mean(np.abs(drawn[:, 1]) >= abs(observed[1]) - 1e-12),
        "score": np.mean(np.abs(drawn.sum(axis=1)) >= abs(sum(observed)) - 1e-12),
    }


@pytest.mark.parametrize("patients", [None, 5])
def test_exact_case_swaps_equal_brute_force(patients):
    truth = a_truth(9, patients)
    a, b = an_outcome(truth, 1, 0.8), an_outcome(truth, 2)
    found = case_swap_tests(truth, [a], [b], auroc_draws=2000, ap_draws=600, seed=0)
    expected = brute_force_swaps(truth, a, b)
    assert all(result.exact for result in found.values())
    assert {metric: result.p for metric, result in found.items()} == pytest.approx(expected, abs=1e-12)
    assert found["auroc"].arrangements == 2**truth.patient_count


def test_auroc_is_linear_in_the_swaps():
    truth = a_truth(24)
    a, b = ranked(an_outcome(truth, 1)), ranked(an_outcome(truth, 2))
    weights = auroc_swap_weights(truth, [a], [b])
    rng = np.random.default_rng(0)
    for _ in range(50):
        swapped = set(np.flatnonzero(rng.integers(0, 2, 24)))
        signs = np.array([-1.0 if case in swapped else 1.0 for case in truth.patients])
        auroc, _ = differences(truth, *swapped_pair(truth, a, b, swapped))
        assert signs @ weights == pytest.approx(auroc, abs=1e-12)


def test_observed_differences_are_those_of_the_means_over_runs():
    truth = a_truth(30)
    a, b = [an_outcome(truth, s, 0.5) for s in (1, 2, 3)], [an_outcome(truth, s) for s in (4, 5)]
    found = case_swap_tests(truth, a, b, auroc_draws=100, ap_draws=100, seed=0)
    one = np.ones((1, 30))
    auroc = [np.mean([weighted_auroc(truth, r.likelihood, one)[0] for r in arm]) for arm in (a, b)]
    ap = [np.mean([weighted_ap(truth, r, one)[0] for r in arm]) for arm in (a, b)]
    assert found["auroc"].statistic == pytest.approx(auroc[0] - auroc[1], abs=1e-12)
    assert found["ap"].statistic == pytest.approx(ap[0] - ap[1], abs=1e-12)
    assert found["score"].statistic == pytest.approx((sum(auroc[:1]) - auroc[1] + ap[0] - ap[1]) / 2, abs=1e-12)


def test_drawn_case_swaps_agree_with_all_of_them():
    truth = a_truth(12)
    a, b = [an_outcome(truth, 1, 0.7)], [an_outcome(truth, 2)]
    exact = case_swap_tests(truth, a, b, auroc_draws=5000, ap_draws=5000, seed=0)
    drawn = case_swap_tests(truth, a, b, auroc_draws=4000, ap_draws=4000, seed=1)
    for metric, result in drawn.items():
        assert exact[metric].exact and not result.exact
        assert result.p_interval[0] <= exact[metric].p <= result.p_interval[1]


def test_identical_outcomes_give_p_1():
    truth = a_truth(40)
    same = [an_outcome(truth, 1), an_outcome(truth, 2)]
    found = case_swap_tests(truth, same, same, auroc_draws=300, ap_draws=200, seed=0)
    assert {metric: result.p for metric, result in found.items()} == {"auroc": 1.0, "ap": 1.0, "score": 1.0}


def test_monotone_map_of_one_model_leaves_p_unchanged():
    truth = a_truth(40)
    a, b = an_outcome(truth, 1, 0.4), an_outcome(truth, 2)
    bent = Outcome(np.exp(a.likelihood), a.candidate_case, a.confidence**3 / 7, a.hit)
    plain = case_swap_tests(truth, [a], [b], auroc_draws=500, ap_draws=500, seed=0)
    mapped = case_swap_tests(truth, [bent], [b], auroc_draws=500, ap_draws=500, seed=0)
    assert {m: r.p for m, r in plain.items()} == {m: r.p for m, r in mapped.items()}


def test_monte_carlo_p_is_never_zero():
    truth = a_truth(60)
    found = case_swap_tests(
        truth, [an_outcome(truth, 1, 9.0)], [an_outcome(truth, 2)], auroc_draws=150, ap_draws=100, seed=0
    )
    assert found["auroc"].p == pytest.approx(1 / 151)
    assert found["ap"].p == pytest.approx(1 / 101)


def test_more_draws_begin_with_the_fewer():
    truth = a_truth(40)
    a, b = [an_outcome(truth, 1, 0.4)], [an_outcome(truth, 2)]
    few = case_swap_tests(truth, a, b, auroc_draws=1000, ap_draws=1000, seed=5)
    many = case_swap_tests(truth, a, b, auroc_draws=3000, ap_draws=1000, seed=5)
    assert few["ap"] == many["ap"]
    assert many["auroc"].arrangements == 3000


def test_metrics_that_the_truth_leaves_undefined_have_no_test():
    negative = Truth(("1_1", "2_2", "3_3"), np.zeros(3, dtype=bool), np.zeros(3, dtype=int))
    outcome = Outcome(np.arange(3.0), np.array([0, 1]), np.array([0.5, 0.4]), np.array([False, False]))
    assert case_swap_tests(negative, [outcome], [outcome], auroc_draws=100, ap_draws=100, seed=0) == {}


def test_run_level_test_keeps_its_level_when_runs_are_exchangeable():
    rng = np.random.default_rng(0)
    draws = 1500
    rejected = {"plain": 0, "blocked": 0}
    folds = ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    for _ in range(draws):
        fold = rng.normal(0, 2, 3)
        a, b = rng.normal(0, 1, 6), rng.normal(0, 1, 6)
        rejected["plain"] += order_test(a, b).p <= 0.05
        rejected["blocked"] += order_test(a + fold[folds[0]], b + fold[folds[1]], folds=folds).p <= 0.05
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
    assert rejected["plain"] / draws <= allowed
    assert rejected["blocked"] / draws <= allowed


def test_blocking_by_fold_finds_what_the_spread_of_folds_hides():
    # fold means far apart, the same small advantage in each
    a = [10.3, 10.4, 20.3, 20.4, 30.3, 30.4]
    b = [10.1, 10.2, 20.1, 20.2, 30.1, 30.2]
    folds = ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    assert order_test(a, b).p > 0.3
    assert order_test(a, b, folds=folds).p == pytest.approx(2 / 6**3)


def test_case_swaps_are_uniform_under_their_null():
    # one difficulty per case, two models that differ from it by exchangeable noise
    truth = a_truth(40)
    rng = np.random.default_rng(7)
    p_values = {"auroc": [], "ap": [], "score": []}
    trials = 250
    for trial in range(trials):
        difficulty = rng.normal(0, 1, 40) + 0.8 * truth.positive
        models = []
        for k in range(2):
            base = an_outcome(truth, 10_000 + 2 * trial + k, decimals=6)
            likelihood = difficulty + rng.normal(0, 0.7, 40)
            confidence = 10 + difficulty[base.candidate_case] + rng.normal(0, 0.7, base.hit.size)
            models.append(Outcome(likelihood, base.candidate_case, confidence, base.hit))
        found = case_swap_tests(truth, models[:1], models[1:], auroc_draws=200, ap_draws=200, seed=trial)
        for metric, result in found.items():
            p_values[metric].append(result.p)
    for metric, values in p_values.items():
        rate = np.mean(np.array(values) <= 0.05)
        assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials), metric
        assert kstest(values, "uniform").pvalue > 1e-3, metric
