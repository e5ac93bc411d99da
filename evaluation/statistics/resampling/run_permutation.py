"""Run-level permutation, to test whether two training methods differ on this test set.

Labels are shuffled over runs, within fold where folds are known, since runs of one fold share their training data.
Both tests are exact: the order of the runs by counting, the difference of means by meeting in the middle, up to twenty
runs against twenty, with or without folds. (The case level, which asks about new cases, is
:mod:`evaluation.statistics.resampling.case_permutation`.)

Two-sided tests count ``|T − centre| ≥ |observed − centre|``, ties included. An exact p counts all arrangements; a Monte
Carlo p is (b + 1)/(B + 1), so it is never 0. Identical inputs give p = 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

from evaluation.metrics.outcomes import FloatArray, IntArray

Alternative = Literal["two-sided", "greater"]
Counts = npt.NDArray[Any]
"""Numbers of arrangements by statistic: int64, or Python's integers where those would overflow."""

MEETING_LIMIT = 30_000_000
"""Partial sums up to which a test on means is exact; 20 against 20 runs need 2 × 2^20, at worst 15e6 with folds."""

_WHOLE_FOLD = 2_000
"""Most arrangements of a fold that are enumerated whole; beyond, it is cut into halves that meet."""


@dataclass(frozen=True)
class PermutationResult:
    """A p-value with its statistic and arrangements."""

    statistic: float
    p: float
    p_interval: tuple[float, float]
    """95 % interval of a Monte Carlo p; an exact p twice."""
    exact: bool
    arrangements: int
    """Number of arrangements: all if exact, else those drawn."""


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
    compared and labels permuted only within fold, and the folds' distributions are convolved.

    Parameters
    ----------
    a, b
        One value of a metric per run.
    folds
        The fold of each run of ``a`` and of ``b``; folds with runs of one arm only say nothing and drop out.
    alternative
        ``greater``: ``a`` is ranked above ``b``.

    Raises
    ------
    ValueError
        A value is not finite: it has no rank.
    """
    if not np.isfinite([*a, *b]).all():
        raise ValueError("runs without a finite value cannot be ranked")
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

    With folds the statistic is the mean of the folds' differences, each weighted by its number of pairs of runs. It is
    a sum over the runs that an arrangement gives to ``a``, so all arrangements are counted from sums of two halves.
    Where those exceed :data:`MEETING_LIMIT`, ``draws`` arrangements are drawn.
    """
    blocks = [(np.array([*of_a, *of_b], dtype=np.float64), len(of_a)) for of_a, of_b in _blocks(a, b, folds)]
    pairs = sum(n * (values.size - n) for values, n in blocks)
    # in fold f: n m / pairs · (Σ chosen / n − Σ others / m) = (n + m) / pairs · Σ chosen − n Σ all / pairs
    terms = [(values * values.size / pairs, n) for values, n in blocks]
    centre = sum(n * float(values.sum()) / pairs for values, n in blocks)
    observed = sum(float(values[:n].sum()) for values, n in terms) - centre
    spread = sum(float(np.abs(values - values.mean()).sum()) for values, _ in blocks)
    slack = 1e-10 * spread + 1e-13 * sum(float(np.abs(values).sum()) for values, _ in terms)  # ties, and rounding
    halves = _halves(terms)
    if halves is not None:
        extreme = _pairs_at_least(halves, centre + (observed if alternative == "greater" else abs(observed)) - slack)
        if alternative == "two-sided":
            negated = [(-left, -right) for left, right in halves]
            extreme += _pairs_at_least(negated, abs(observed) - centre - slack)
        arrangements = math.prod(math.comb(values.size, n) for values, n in blocks)
        return result_of_count(observed, min(extreme, arrangements), exact=True, arrangements=arrangements)
    generator = np.random.default_rng(seed)
    shuffled = np.full(draws, -centre)
    for values, n in terms:
        shuffled += values[_drawn_choices(values.size, n, draws, generator)].sum(axis=1)
    found = shuffled >= observed - slack if alternative == "greater" else np.abs(shuffled) >= abs(observed) - slack
    return result_of_count(observed, int(found.sum()), exact=False, arrangements=draws)


def smallest_order_p(a_runs: int, b_runs: int, *, folds: tuple[Sequence[int], Sequence[int]] | None = None) -> float:
    """Smallest two-sided p that :func:`order_test` can give for so many runs, over all values."""
    blocks = _blocks([0.0] * a_runs, [0.0] * b_runs, folds)
    return min(1.0, 2 / math.prod(math.comb(len(of_a) + len(of_b), len(of_a)) for of_a, of_b in blocks))


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


def _halves(terms: Sequence[tuple[FloatArray, int]]) -> list[tuple[FloatArray, FloatArray]] | None:
    """All arrangements as pairs of lists: each is one entry of the left plus one of the right list of one pair.

    Parameters
    ----------
    terms
        Per fold what each run adds if it is chosen, and how many are chosen.

    Returns
    -------
    None where the lists would exceed :data:`MEETING_LIMIT`.
    """
    halves = [(np.zeros(1), np.zeros(1))]
    for values, n in sorted(terms, key=lambda term: -math.comb(term[0].size, term[1])):
        arrangements = math.comb(values.size, n)
        if arrangements <= _WHOLE_FOLD:
            if sum(min(left.size, right.size) for left, right in halves) * arrangements > MEETING_LIMIT:
                return None
            sums = _sums_by_size(values)[n]
            halves = [
                (_outer_sum(left, sums), right) if left.size <= right.size else (left, _outer_sum(right, sums))
                for left, right in halves
            ]
        else:
            half = values.size // 2
            if sum(left.size + right.size for left, right in halves) * 2.0 ** (values.size - half) > MEETING_LIMIT:
                return None
            first, second = _sums_by_size(values[:half]), _sums_by_size(values[half:])
            halves = [
                (_outer_sum(left, first[size]), _outer_sum(right, second[n - size]))
                for left, right in halves
                for size in range(max(0, n - len(second) + 1), min(half, n) + 1)
            ]
    return halves


def _sums_by_size(values: FloatArray) -> list[FloatArray]:
    """Sums of all choices of 0, 1, 2 … of the values."""
    sums = [np.zeros(1), *(np.zeros(0) for _ in values)]
    for seen, value in enumerate(values.tolist(), start=1):
        for size in range(seen, 0, -1):
            sums[size] = np.concatenate([sums[size], sums[size - 1] + value])
    return sums


def _outer_sum(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.add.outer(first, second).ravel()


def _pairs_at_least(halves: Sequence[tuple[FloatArray, FloatArray]], threshold: float) -> int:
    """How many sums of one left and one right entry reach a threshold."""
    count = 0
    for left, right in halves:
        few, many = sorted((left, right), key=len)
        count += int((many.size - np.searchsorted(np.sort(many), threshold - np.sort(few), side="left")).sum())
    return count


def _drawn_choices(runs: int, n: int, draws: int, generator: np.random.Generator) -> IntArray:
    return np.argsort(generator.random((draws, runs)), axis=1)[:, :n]


def result_of_count(statistic: float, extreme: int, *, exact: bool, arrangements: int) -> PermutationResult:
    """Turn a number of extreme arrangements into a p-value."""
    if exact:
        p = extreme / arrangements
        return PermutationResult(statistic, p, (p, p), True, arrangements)
    low = float(beta.ppf(0.025, extreme, arrangements - extreme + 1)) if extreme else 0.0
    high = float(beta.ppf(0.975, extreme + 1, arrangements - extreme)) if extreme < arrangements else 1.0
    return PermutationResult(statistic, (extreme + 1) / (arrangements + 1), (low, high), False, arrangements)
