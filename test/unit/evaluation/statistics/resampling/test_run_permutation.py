import itertools
import math

import numpy as np
import pytest
from mlxtend.evaluate import permutation_test
from scipy.stats import mannwhitneyu
from scipy.stats import permutation_test as scipy_permutation_test

from evaluation.statistics.resampling.run_permutation import mean_difference_test, order_test, smallest_order_p


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


def test_fold_with_runs_of_one_arm_is_ignored():
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


def test_two_against_two_runs_cannot_reach_p_below_a_third():
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


def enumerated_p(a, b, folds=None):
    """Two-sided p of the weighted mean difference over every arrangement, as an outer sum of the folds' differences."""
    if folds is None:
        folds = ([0] * len(a), [0] * len(b))
    pairs = {f: folds[0].count(f) * folds[1].count(f) for f in sorted(set(folds[0]) & set(folds[1]))}
    total, observed = np.zeros(1), 0.0
    for fold, count in pairs.items():
        of_a = [x for x, f in zip(a, folds[0], strict=True) if f == fold]
        values = np.array(of_a + [x for x, f in zip(b, folds[1], strict=True) if f == fold])
        n, share = len(of_a), count / sum(pairs.values())
        sums = values[np.array(list(itertools.combinations(range(values.size), n)))].sum(axis=1)
        differences = share * (sums / n - (values.sum() - sums) / (values.size - n))
        observed += differences[0]
        total = np.add.outer(total, differences).ravel()
    return float((np.abs(total) >= abs(observed) - 1e-10).mean())


@pytest.mark.parametrize("whole_fold", [1, 100, 10**6])
@pytest.mark.parametrize(
    "folds", [None, ([0] * 5 + [1] * 4, [0] * 3 + [1] * 5), ([0, 0, 0, 1, 1, 1, 2, 2, 3], [0, 1, 1, 1, 2, 2, 2, 0])]
)
def test_halves_that_meet_count_what_enumeration_counts(monkeypatch, whole_fold, folds):
    rng = np.random.default_rng(4)
    a, b = np.round(rng.normal(0.4, 1, 9), 1).tolist(), np.round(rng.normal(0, 1, 8), 1).tolist()  # with ties
    monkeypatch.setattr("evaluation.statistics.resampling.run_permutation._WHOLE_FOLD", whole_fold)
    found = mean_difference_test(a, b, folds=folds)
    assert found.exact
    assert found.p == pytest.approx(enumerated_p(a, b, folds), abs=1e-12)


def test_ten_against_ten_equals_scipy_exactly():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.6, 1, 10), rng.normal(0, 1, 10)
    expected = scipy_permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), n_resamples=np.inf, vectorized=True
    )
    assert mean_difference_test(a, b).p == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("folds", [[20], [14, 6], [10, 10], [7, 7, 6], [4] * 5, [2] * 10, [1] * 20])
def test_twenty_against_twenty_is_exact_however_the_folds_divide_them(folds):
    of = [fold for fold, count in enumerate(folds) for _ in range(count)]
    rng = np.random.default_rng(1)
    a, b = 10 + rng.uniform(0, 1, 20), rng.uniform(0, 1, 20)
    found = mean_difference_test(a, b, folds=(of, of), alternative="greater")
    assert found.exact
    assert found.arrangements == math.prod(math.comb(2 * count, count) for count in folds)
    assert found.p == pytest.approx(1 / found.arrangements, rel=1e-9)  # full separation: one arrangement


def test_drawn_mean_difference_agrees_with_the_exact_one(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 7), rng.normal(0, 1, 7)
    exact = mean_difference_test(a, b)
    monkeypatch.setattr("evaluation.statistics.resampling.run_permutation.MEETING_LIMIT", 1)
    drawn = mean_difference_test(a, b, draws=20_000, seed=3)
    assert not drawn.exact
    assert drawn.p_interval[0] <= exact.p <= drawn.p_interval[1]


def test_more_runs_than_halves_can_hold_are_drawn():
    rng = np.random.default_rng(0)
    found = mean_difference_test(rng.normal(0, 1, 30), rng.normal(0, 1, 30), draws=2_000)
    assert (found.exact, found.arrangements) == (False, 2_000)


def test_means_that_differ_by_rounding_alone_are_equal():
    assert mean_difference_test([0.1] * 7, [0.1] * 6).p == 1
    assert mean_difference_test([0.1 + 0.2, 0.5], [0.3, 0.5]).p == 1


@pytest.mark.parametrize("test", [order_test, mean_difference_test])
def test_identical_runs_give_p_1(test):
    assert test([0.7, 0.8, 0.9], [0.7, 0.8, 0.9]).p == 1


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
