"""Permutation tests at two levels, which answer two questions.

*Run level* (unit: run): do two training methods differ on this test set? Labels are shuffled over runs, within fold
where folds are known, since runs of one fold share their training data. *Case level* (unit: case, or patient where one
has several): would a difference hold on new cases? In each patient the two models' outputs are swapped or not, after
each model's outputs were turned into ranks, so that no common scale is assumed.

Two-sided tests count ``|T − centre| ≥ |observed − centre|``, ties included. An exact p counts all arrangements; a Monte
Carlo p is (b + 1)/(B + 1), so it is never 0. Identical inputs give p = 1.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

from evaluation.outcomes import (
    BoolArray,
    FloatArray,
    IntArray,
    Outcome,
    Truth,
    precision_sum,
    steps_with_hits,
)

Alternative = Literal["two-sided", "greater"]
Counts = npt.NDArray[Any]
"""Numbers of arrangements by statistic: int64, or Python's integers where those would overflow."""

ENUMERATION_LIMIT = 200_000
"""Arrangements up to which a test on means is exact; 10 against 10 runs have 184,756."""

_BLOCK = 1_000
"""Swaps drawn from one random stream: the result does not depend on how the work is divided."""
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class PermutationResult:
    """A p-value and what it rests on."""

    statistic: float
    p: float
    p_interval: tuple[float, float]
    """95 % interval of a Monte Carlo p; an exact p twice."""
    exact: bool
    arrangements: int
    """All of them if exact, else the number drawn."""


def order_test(
    a: Sequence[float],
    b: Sequence[float],
    *,
    folds: tuple[Sequence[int], Sequence[int]] | None = None,
    alternative: Alternative = "two-sided",
) -> PermutationResult:
    """Test whether runs of ``a`` are ranked above or below those of ``b``: exact, by counting.

    The statistic is P(a > b) + ½ P(a = b) over pairs of runs. Without folds this is the exact Mann–Whitney test, ties
    included, and one-sided the test of the study (picai_eval's ``perform_permutation_test``). With folds, pairs are
    compared and labels shuffled within fold alone, and the folds' distributions are convolved.

    Parameters
    ----------
    a, b
        One value of a metric per run.
    folds
        The fold of each run of ``a`` and of ``b``; folds with runs of one arm only say nothing and drop out.
    alternative
        ``greater``: ``a`` is ranked above ``b``.
    """
    total: Counts = np.ones(1, dtype=object)
    observed = centre = pairs = 0
    for of_a, of_b in _blocks(a, b, folds):
        n, m = len(of_a), len(of_b)
        doubled = np.rint(2 * rankdata(np.round([*of_a, *of_b], 12))).astype(np.int64)
        total = np.convolve(total, _rank_sum_counts(doubled, n))
        observed += int(doubled[:n].sum())
        centre += n * (n + m + 1)
        pairs += n * m
    sums = np.arange(total.size)
    extreme = sums >= observed if alternative == "greater" else np.abs(sums - centre) >= abs(observed - centre)
    arrangements = int(total.sum())
    p = int(total[extreme].sum()) / arrangements
    return PermutationResult(0.5 + (observed - centre) / (2 * pairs), p, (p, p), True, arrangements)


def mean_difference_test(
    a: Sequence[float],
    b: Sequence[float],
    *,
    folds: tuple[Sequence[int], Sequence[int]] | None = None,
    alternative: Alternative = "two-sided",
    draws: int = 100_000,
    seed: int = 0,
) -> PermutationResult:
    """Test the difference of two arms' means by shuffling labels over runs, within fold where folds are given.

    Every arrangement is enumerated up to :data:`ENUMERATION_LIMIT`; beyond it ``draws`` are drawn. With folds the
    statistic is the mean of the folds' differences, each weighted by its number of pairs of runs.
    """
    blocks = [(np.array([*of_a, *of_b]), len(of_a)) for of_a, of_b in _blocks(a, b, folds)]
    pairs = [n * (values.size - n) for values, n in blocks]
    shares = [each / sum(pairs) for each in pairs]
    arrangements = math.prod(math.comb(values.size, n) for values, n in blocks)
    exact = arrangements <= ENUMERATION_LIMIT
    shuffled = np.zeros(1) if exact else np.zeros(draws)
    generator = np.random.default_rng(seed)
    observed = scale = 0.0
    for (values, n), share in zip(blocks, shares, strict=True):
        chosen = _all_choices(values.size, n) if exact else _drawn_choices(values.size, n, draws, generator)
        sums = values[chosen].sum(axis=1)
        differences = share * (sums / n - (values.sum() - sums) / (values.size - n))
        shuffled = np.add.outer(shuffled, differences).ravel() if exact else shuffled + differences
        observed += share * float(values[:n].mean() - values[n:].mean())
        scale += float(np.abs(values - values.mean()).sum())
    slack = 1e-10 * scale
    extreme = shuffled >= observed - slack if alternative == "greater" else np.abs(shuffled) >= abs(observed) - slack
    return _result(observed, int(extreme.sum()), exact=exact, arrangements=arrangements if exact else draws)


def smallest_order_p(a_runs: int, b_runs: int, *, folds: tuple[Sequence[int], Sequence[int]] | None = None) -> float:
    """Smallest two-sided p that :func:`order_test` can give for so many runs, whatever their values."""
    blocks = _blocks([0.0] * a_runs, [0.0] * b_runs, folds)
    return min(1.0, 2 / math.prod(math.comb(len(of_a) + len(of_b), len(of_a)) for of_a, of_b in blocks))


def case_swap_tests(
    truth: Truth,
    a: Sequence[Outcome],
    b: Sequence[Outcome],
    *,
    auroc_draws: int,
    ap_draws: int,
    seed: int,
) -> dict[str, PermutationResult]:
    """Test the differences of two configurations' mean AUROC, AP and score by swapping patients, two-sided.

    Ranks are taken within each run: of the likelihoods over the cases, and of the candidates' confidences from the
    most confident one down, so that any monotone map of one model's outputs leaves p unchanged. The means run over
    pairs of runs, one of ``a`` and one of ``b``: all pairs for AUROC, which is linear in the swaps; for AP as few as
    let each run count alike. Where the patients are so few that all swaps number at most ``ap_draws``, all are taken.

    Parameters
    ----------
    auroc_draws, ap_draws
        Monte Carlo draws; AP's serve the score as well, and are the first of AUROC's.

    Returns
    -------
    By metric; a metric that the truth leaves undefined is absent.
    """
    exact = 2**truth.patient_count <= ap_draws
    with_auroc = 0 < truth.positive_count < len(truth.case_ids)
    with_ap = truth.lesion_count > 0
    weights = np.bincount(truth.patients, auroc_swap_weights(truth, a, b))
    pairs = [_PooledCandidates.of(truth, first, second) for first, second in _paired(a, b)] if with_ap else []

    def ap_difference(swapped: BoolArray) -> FloatArray:
        swapped_cases = swapped[:, truth.patients]
        return np.asarray(sum(pair.ap_difference(swapped_cases) for pair in pairs) / len(pairs))

    def auroc_difference(swapped: BoolArray) -> FloatArray:
        return np.asarray((1 - 2.0 * swapped) @ weights)

    nothing = np.zeros((1, truth.patient_count), dtype=np.bool_)
    blocks = _all_swaps(truth.patient_count) if exact else _drawn_swaps(truth.patient_count, auroc_draws, seed)
    auroc, ap, done = [], [], 0
    for swapped in blocks:
        if with_auroc:
            auroc.append(auroc_difference(swapped))
        wanted = len(swapped) if exact else max(0, min(len(swapped), ap_draws - done))
        if with_ap and wanted:
            ap.append(ap_difference(swapped[:wanted]))
        done += len(swapped)
    results = {}
    if with_auroc:
        results["auroc"] = _swap_result(float(auroc_difference(nothing)[0]), np.concatenate(auroc), exact)
    if with_ap:
        results["ap"] = _swap_result(float(ap_difference(nothing)[0]), np.concatenate(ap), exact)
    if with_auroc and with_ap:
        drawn = np.concatenate(ap)
        drawn = (np.concatenate(auroc)[: drawn.size] + drawn) / 2
        results["score"] = _swap_result((results["auroc"].statistic + results["ap"].statistic) / 2, drawn, exact)
    return results


def auroc_swap_weights(truth: Truth, a: Sequence[Outcome], b: Sequence[Outcome]) -> FloatArray:
    """Weight of each case's swap in the difference of mean AUROCs, shape (cases,).

    With σ = ±1 for "as it is" and "swapped", the difference of the two AUROCs is ``Σ σᵢ weightᵢ``: for a positive i
    and a negative j, ``ψ(a'ᵢ, a'ⱼ) − ψ(b'ᵢ, b'ⱼ) = ½ [σᵢ (P + Q) + σⱼ (P − Q)]``, where P = ψ_aa − ψ_bb and
    Q = ψ_ab − ψ_ba are the same comparison before the swap, within the models and across them.
    """
    positive = truth.positive
    ones = truth.positive_count
    zeros = len(truth.case_ids) - ones
    weights = np.zeros(len(truth.case_ids))
    if not ones or not zeros:
        return weights
    of_a = [rankdata(outcome.likelihood) for outcome in a]
    of_b = [rankdata(outcome.likelihood) for outcome in b]
    for x in of_a:
        for y in of_b:
            weights[positive] += _below(x[positive], x[~positive]) - _below(y[positive], y[~positive])
            weights[positive] += _below(x[positive], y[~positive]) - _below(y[positive], x[~positive])
            weights[~positive] += _below(y[~positive], y[positive]) - _below(x[~positive], x[positive])
            weights[~positive] += _below(y[~positive], x[positive]) - _below(x[~positive], y[positive])
    return weights / (2 * ones * zeros * len(of_a) * len(of_b))


@dataclass(frozen=True)
class _PooledCandidates:
    """The candidates of a run of each model in one order, the most confident first."""

    case: IntArray
    hit: BoolArray
    of_a: BoolArray
    steps: IntArray
    lesions: int

    @classmethod
    def of(cls, truth: Truth, a: Outcome, b: Outcome) -> "_PooledCandidates":
        rank = np.concatenate([rankdata(-a.confidence), rankdata(-b.confidence)])
        order = np.argsort(rank, kind="stable")
        hit = np.concatenate([a.hit, b.hit])[order]
        return cls(
            case=np.concatenate([a.candidate_case, b.candidate_case])[order],
            hit=hit,
            of_a=(np.arange(rank.size) < a.confidence.size)[order],
            steps=steps_with_hits(rank[order], hit),
            lesions=truth.lesion_count,
        )

    def ap_difference(self, swapped: BoolArray) -> FloatArray:
        """AP of the first model minus AP of the second after the swaps, shape (draws,)."""
        with_a = swapped[:, self.case] ^ self.of_a
        candidates = np.cumsum(with_a, axis=1, dtype=np.float64)[:, self.steps]
        true_positives = np.cumsum(with_a & self.hit, axis=1, dtype=np.float64)[:, self.steps]
        all_candidates, all_true_positives = self.steps + 1.0, np.cumsum(self.hit)[self.steps].astype(np.float64)
        of_a = precision_sum(true_positives, candidates)
        of_b = precision_sum(all_true_positives - true_positives, all_candidates - candidates)
        return (of_a - of_b) / self.lesions


def _blocks(
    a: Sequence[float], b: Sequence[float], folds: tuple[Sequence[int], Sequence[int]] | None
) -> list[tuple[list[float], list[float]]]:
    """Both arms' values, fold by fold; one block without folds."""
    if folds is None:
        return [(list(a), list(b))]
    common = sorted(set(folds[0]) & set(folds[1]))
    return [
        (
            [value for value, of in zip(a, folds[0], strict=True) if of == fold],
            [value for value, of in zip(b, folds[1], strict=True) if of == fold],
        )
        for fold in common
    ]


def _rank_sum_counts(doubled_ranks: IntArray, n: int) -> Counts:
    """For each sum of doubled midranks, how many choices of ``n`` runs have it."""
    fits = math.comb(doubled_ranks.size, n) < 2**62
    highest = int(np.sort(doubled_ranks)[doubled_ranks.size - n :].sum())
    ways = np.zeros((n + 1, highest + 1), dtype=np.int64 if fits else object)
    ways[0, 0] = 1
    for seen, rank in enumerate(doubled_ranks.tolist()):
        for chosen in range(min(n, seen + 1), 0, -1):
            ways[chosen, rank:] += ways[chosen - 1, : highest + 1 - rank]
    counts: Counts = ways[n].astype(object)
    return counts


def _all_choices(runs: int, n: int) -> IntArray:
    return np.array(list(itertools.combinations(range(runs), n)), dtype=np.int64)


def _drawn_choices(runs: int, n: int, draws: int, generator: np.random.Generator) -> IntArray:
    return np.argsort(generator.random((draws, runs)), axis=1)[:, :n]


def _all_swaps(patients: int) -> Iterator[BoolArray]:
    numbers = np.arange(2**patients)
    yield (numbers[:, None] >> np.arange(patients) & 1).astype(np.bool_)


def _drawn_swaps(patients: int, draws: int, seed: int) -> Iterator[BoolArray]:
    streams = np.random.SeedSequence(seed).spawn(math.ceil(draws / _BLOCK))
    for number, child in enumerate(streams):
        size = min(_BLOCK, draws - number * _BLOCK)
        yield np.random.default_rng(child).integers(0, 2, (size, patients), dtype=np.uint8).astype(np.bool_)


def _paired(a: Sequence[Outcome], b: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """As few pairs as let each run of ``a`` and each of ``b`` stand in equally many."""
    return [(a[k % len(a)], b[k % len(b)]) for k in range(math.lcm(len(a), len(b)))]


def _below(values: FloatArray, others: FloatArray) -> FloatArray:
    """For each value the number of others below it, equal ones counting half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2


def _swap_result(observed: float, drawn: FloatArray, exact: bool) -> PermutationResult:
    extreme = int((np.abs(drawn) >= abs(observed) - _TOLERANCE).sum())
    return _result(observed, extreme, exact=exact, arrangements=drawn.size)


def _result(statistic: float, extreme: int, *, exact: bool, arrangements: int) -> PermutationResult:
    if exact:
        p = extreme / arrangements
        return PermutationResult(statistic, p, (p, p), True, arrangements)
    low = float(beta.ppf(0.025, extreme, arrangements - extreme + 1)) if extreme else 0.0
    high = float(beta.ppf(0.975, extreme + 1, arrangements - extreme)) if extreme < arrangements else 1.0
    return PermutationResult(statistic, (extreme + 1) / (arrangements + 1), (low, high), False, arrangements)
