import itertools
import math

import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES, random_outcome, random_truth
from scipy.stats import binom, kstest, norm
from swaps import swap_differences

from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.metrics.weighted_metrics import weighted_ap, weighted_auroc
from evaluation.statistics.resampling.case_permutation import _drawn_swaps, case_swap_tests


def an_outcome(truth, seed, shift=0.0, decimals=2):
    return random_outcome(truth, seed, shift, decimals)


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


def swap_weights(truth, a, b):
    """What each patient's swap takes from the difference of AUROCs, halved."""
    patients = truth.patient_count
    whole, *alone = swap_differences(truth, a, b, np.vstack([np.zeros(patients), np.eye(patients)]) > 0)["auroc"]
    return (whole - np.array(alone)) / 2


def brute_force_swaps(truth, a, b):
    """p by metric over every swap of every patient, each recomputed from swapped rows."""
    a, b = ranked(a), ranked(b)
    observed = np.array(differences(truth, a, b))
    patients = range(truth.patient_count)
    drawn = np.array(
        [
            differences(truth, *swapped_pair(truth, a, b, set(chosen)))
            for size in range(truth.patient_count + 1)
            for chosen in itertools.combinations(patients, size)
        ]
    )
    observed, drawn = np.append(observed, observed.sum()), np.column_stack([drawn, drawn.sum(axis=1)])
    extreme = np.abs(drawn) >= np.abs(observed) - 1e-12
    return dict(zip(("auroc", "ap", "score"), extreme.mean(axis=0), strict=True))


@pytest.mark.parametrize("patients", [None, 5])
@pytest.mark.parametrize("seeds", [(1, 2), (2, 1), (3, 4)])
def test_exact_case_swaps_equal_brute_force(patients, seeds):
    truth = random_truth(9, patients)
    a, b = an_outcome(truth, seeds[0], 0.8), an_outcome(truth, seeds[1])
    found = case_swap_tests(truth, a, b, draws=600, seed=0)
    expected = brute_force_swaps(truth, a, b)
    assert all(result.exact for result in found.values())
    assert {metric: result.p for metric, result in found.items()} == pytest.approx(expected, abs=1e-12)
    assert found["auroc"].arrangements == 2**truth.patient_count


def test_auroc_is_counted_exactly_where_the_swaps_are_too_many_to_list(monkeypatch):
    truth = random_truth(40)
    a, b = an_outcome(truth, 1, 0.4), an_outcome(truth, 2)
    exact = case_swap_tests(truth, a, b, draws=100, seed=0)["auroc"]
    assert exact.exact
    monkeypatch.setattr("evaluation.statistics.resampling.case_permutation.COUNTING_LIMIT", 0)
    drawn = case_swap_tests(truth, a, b, draws=50_000, seed=0)["auroc"]
    assert not drawn.exact
    assert drawn.p_interval[0] <= exact.p <= drawn.p_interval[1]


def test_counted_p_of_many_patients_is_close_to_its_normal_approximation():
    # Σ σᵢ wᵢ has variance Σ wᵢ² (Bandos, Rockette & Gur, Statistics in Medicine 2005); 1,200 patients rescale twice
    truth = random_truth(1200)
    a, b = an_outcome(truth, 1, 0.06, decimals=3), an_outcome(truth, 2, decimals=3)
    found = case_swap_tests(truth, a, b, draws=100, seed=0)["auroc"]
    weights = swap_weights(truth, a, b)
    expected = 2 * norm.sf(abs(weights.sum()) / np.sqrt((weights**2).sum()))
    assert found.exact
    assert 0.01 < expected < 0.9
    assert found.p == pytest.approx(expected, rel=0.01)


def test_counted_p_is_the_binomial_where_all_weights_are_equal():
    # each of 2,000 positives is above the one negative by a and below it by b: the sum of the signs is binomial
    n = 2000
    truth = TestSet(tuple(f"{i}_{i}" for i in range(n + 1)), np.arange(n + 1) < n, np.zeros(n + 1, dtype=int))
    right = np.arange(n) < 1060
    a = Outcome(np.append(np.where(right, 2.0, 0.0), 1.0), *NO_CANDIDATES)
    b = Outcome(np.append(np.where(right, 0.0, 2.0), 1.0), *NO_CANDIDATES)
    found = case_swap_tests(truth, a, b, draws=100, seed=0)["auroc"]
    weights = swap_weights(truth, a, b)
    assert np.allclose(np.sort(np.abs(weights))[1:], 1 / n)
    assert found.statistic == pytest.approx(120 / n)
    assert np.abs(weights).min() == pytest.approx(0, abs=1e-12)  # the negative's own swap changes no order
    assert found.p == pytest.approx(2 * binom.sf(1059, n, 0.5), rel=1e-9)


def test_auroc_is_linear_in_the_swaps():
    truth = random_truth(24)
    a, b = ranked(an_outcome(truth, 1)), ranked(an_outcome(truth, 2))
    weights = swap_weights(truth, a, b)
    rng = np.random.default_rng(0)
    for _ in range(50):
        swapped = set(np.flatnonzero(rng.integers(0, 2, 24)))
        signs = np.array([-1.0 if case in swapped else 1.0 for case in truth.patients])
        auroc, _ = differences(truth, *swapped_pair(truth, a, b, swapped))
        assert signs @ weights == pytest.approx(auroc, abs=1e-12)


def test_observed_differences_are_those_of_the_networks():
    truth = random_truth(30)
    a, b = an_outcome(truth, 1, 0.5), an_outcome(truth, 4)
    found = case_swap_tests(truth, a, b, draws=100, seed=0)
    auroc, ap = differences(truth, a, b)
    assert found["auroc"].statistic == pytest.approx(auroc, abs=1e-12)
    assert found["ap"].statistic == pytest.approx(ap, abs=1e-12)
    assert found["score"].statistic == pytest.approx((auroc + ap) / 2, abs=1e-12)


def test_drawn_case_swaps_agree_with_all_of_them(monkeypatch):
    truth = random_truth(12)
    a, b = an_outcome(truth, 1, 0.7), an_outcome(truth, 2)
    exact = case_swap_tests(truth, a, b, draws=5000, seed=0)
    monkeypatch.setattr("evaluation.statistics.resampling.case_permutation.COUNTING_LIMIT", 0)
    drawn = case_swap_tests(truth, a, b, draws=4000, seed=1)
    for metric, result in drawn.items():
        assert exact[metric].exact and not result.exact
        assert result.p_interval[0] <= exact[metric].p <= result.p_interval[1]


def test_identical_outcomes_give_p_1():
    truth = random_truth(40)
    same = an_outcome(truth, 1)
    found = case_swap_tests(truth, same, same, draws=200, seed=0)
    assert {metric: result.p for metric, result in found.items()} == {"auroc": 1.0, "ap": 1.0, "score": 1.0}


def test_monotone_map_of_one_model_leaves_p_unchanged():
    truth = random_truth(40)
    a, b = an_outcome(truth, 1, 0.4), an_outcome(truth, 2)
    bent = Outcome(np.exp(a.likelihood), a.candidate_case, a.confidence**3 / 7, a.hit)
    plain = case_swap_tests(truth, a, b, draws=500, seed=0)
    mapped = case_swap_tests(truth, bent, b, draws=500, seed=0)
    assert {m: r.p for m, r in plain.items()} == {m: r.p for m, r in mapped.items()}


def test_monte_carlo_p_is_never_zero(monkeypatch):
    monkeypatch.setattr("evaluation.statistics.resampling.case_permutation.COUNTING_LIMIT", 0)
    truth = random_truth(60)
    found = case_swap_tests(truth, an_outcome(truth, 1, 9.0), an_outcome(truth, 2), draws=100, seed=0)
    assert found["auroc"].p == pytest.approx(1 / 101)
    assert found["ap"].p == pytest.approx(1 / 101)


def test_drawn_swaps_do_not_depend_on_their_number():
    few, many = (np.concatenate(list(_drawn_swaps(37, draws, 5)), axis=1) for draws in (5_000, 20_000))
    assert few.shape == (5, 5_000)
    assert np.array_equal(few, many[:, :5_000])
    bits = np.unpackbits(many, axis=0, bitorder="little")[:37]
    assert abs(bits.mean() - 0.5) < 4 * 0.5 / np.sqrt(bits.size)
    assert len({column.tobytes() for column in many.T}) == 20_000


def test_given_swaps_give_the_differences_of_swapped_rows():
    truth = random_truth(24, patients=11)
    a, b = an_outcome(truth, 1), an_outcome(truth, 2)
    swapped = np.random.default_rng(0).random((20, 11)) < 0.5
    found = swap_differences(truth, a, b, swapped)
    for k, row in enumerate(swapped):
        expected = differences(truth, *swapped_pair(truth, ranked(a), ranked(b), set(np.flatnonzero(row))))
        assert (found["auroc"][k], found["ap"][k]) == pytest.approx(expected, abs=1e-12)


def test_counts_beyond_16_bits_give_the_same_p(monkeypatch):
    truth = random_truth(40)
    a, b = an_outcome(truth, 1, 0.4), an_outcome(truth, 2)
    narrow = case_swap_tests(truth, a, b, draws=500, seed=5)
    monkeypatch.setattr("evaluation.statistics.resampling.case_permutation._LARGEST", 10)
    assert case_swap_tests(truth, a, b, draws=500, seed=5) == narrow


def test_metrics_that_the_truth_leaves_undefined_have_no_test():
    negative = TestSet(("1_1", "2_2", "3_3"), np.zeros(3, dtype=bool), np.zeros(3, dtype=int))
    outcome = Outcome(np.arange(3.0), np.array([0, 1]), np.array([0.5, 0.4]), np.array([False, False]))
    assert case_swap_tests(negative, outcome, outcome, draws=100, seed=0) == {}


def test_case_swaps_are_uniform_under_their_null():
    # one difficulty per case, two models that differ from it by exchangeable noise
    truth = random_truth(40)
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
        found = case_swap_tests(truth, *models, draws=200, seed=trial)
        for metric, result in found.items():
            p_values[metric].append(result.p)
    for metric, values in p_values.items():
        rate = np.mean(np.array(values) <= 0.05)
        assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials), metric
        assert kstest(values, "uniform").pvalue > 1e-3, metric
