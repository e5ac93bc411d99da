"""Swaps of two single networks' outputs, to test whether their difference would hold on new cases.

The two networks' outputs are swapped or not in each patient; under the null hypothesis both are equally likely. Ranks
are taken within each network before, so that no common scale is assumed and any monotone map of one network's outputs
leaves p unchanged. A lesion's candidates go with their patient. All p are two-sided.

The difference of AUROCs is linear in the swaps with whole weights, so its distribution is counted exactly, one patient
after the other. AP is not: its swaps are drawn, some thousands at a time as rows of small integers, and one pass over
the pooled candidates gives both networks' AP in every draw (docs/decisions/swaps-without-numba.md). Draws come from one
random stream per block of fixed size: the result does not depend on how the work is divided.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from evaluation.metrics.outcomes import FloatArray, IntArray, Outcome, TestSet
from evaluation.metrics.placement_values import count_below
from evaluation.statistics.analysis_file import Metric
from evaluation.statistics.resampling.run_permutation import PermutationResult, result_of_count

Packed = npt.NDArray[np.uint8]
"""Swaps, shape (⌈patients / 8⌉, draws): bit j of row g says whether patient 8 g + j is swapped."""
Signs = npt.NDArray[Any]
"""Sign of each patient, +1 as it is, −1 swapped; shape (patients, draws), int16, or int32 where counts need it."""

COUNTING_LIMIT = 2_000_000_000
"""Additions up to which AUROC's p is counted exactly, some seconds; 1,500 cases of single runs need 0.3e9."""

_BLOCK = 4_096
"""Swaps from one random stream, and computed at a time: their rows fit the processor's cache."""
_TOLERANCE = 1e-12
_LARGEST = np.iinfo(np.int16).max
_RESCALED_AFTER = 500
_SMALLEST = 2.0**-900


def case_swap_tests(
    truth: TestSet, a: Outcome, b: Outcome, *, draws: int, seed: int
) -> dict[Metric, PermutationResult]:
    """Test the differences of two networks' AUROC, AP and score by swapping patients.

    AUROC is exact where counting costs at most :data:`COUNTING_LIMIT`, and everything is where all swaps number at most
    ``draws``.

    Parameters
    ----------
    draws
        Monte Carlo draws where not exact, the same for all metrics.

    Returns
    -------
    By metric; a metric that the truth leaves undefined is absent.
    """
    with_auroc = 0 < truth.positive_count < len(truth.case_ids)
    pooled = _PooledCandidates.of(truth, a, b) if truth.lesion_count else None
    weights, unit = _whole_weights(truth, a, b)
    found = _counted_p(weights) if with_auroc else None
    everything = 2**truth.patient_count <= draws
    results: dict[Metric, PermutationResult] = {}
    auroc, ap = [], []
    tables = _tables(weights)
    wanted = 0 if found is not None and pooled is None else draws
    for block in _all_swaps(truth.patient_count) if everything else _drawn_swaps(truth.patient_count, wanted, seed):
        if with_auroc:
            auroc.append(_signed_sums(block, tables))
        if pooled is not None:
            ap.append(pooled.ap_difference(_signs(block, truth.patient_count, pooled.candidates)))
    if with_auroc:
        observed = int(weights.sum())
        if found is not None:
            results["auroc"] = PermutationResult(observed * unit, found, (found, found), True, 2**truth.patient_count)
        else:
            results["auroc"] = _result(observed, np.concatenate(auroc), unit, everything, tolerance=0)
    if pooled is not None:
        nothing = np.zeros((_groups(truth.patient_count), 1), dtype=np.uint8)
        observed_ap = float(pooled.ap_difference(_signs(nothing, truth.patient_count, pooled.candidates))[0])
        results["ap"] = _result(observed_ap, np.concatenate(ap), 1, everything, tolerance=_TOLERANCE)
    if with_auroc and pooled is not None:
        drawn = (np.concatenate(auroc) * unit + np.concatenate(ap)) / 2
        observed_score = (results["auroc"].statistic + results["ap"].statistic) / 2
        results["score"] = _result(observed_score, drawn, 1, everything, tolerance=_TOLERANCE)
    return results


def _whole_weights(truth: TestSet, a: Outcome, b: Outcome) -> tuple[IntArray, float]:
    """Weight of each patient's swap as whole numbers without a common divisor, and the unit that makes them AUROC.

    With σ = ±1 for "as it is" and "swapped", the difference of the two AUROCs is ``Σ σᵢ weightᵢ``: for a positive i
    and a negative j, ``ψ(a'ᵢ, a'ⱼ) − ψ(b'ᵢ, b'ⱼ) = ½ [σᵢ (P + Q) + σⱼ (P − Q)]``, where P = ψ_aa − ψ_bb and
    Q = ψ_ab − ψ_ba are the same comparison before the swap, within the networks and across them.
    """
    positive = truth.positive
    ones = truth.positive_count
    zeros = len(truth.case_ids) - ones
    if not ones or not zeros:
        return np.zeros(truth.patient_count, dtype=np.int64), 1.0
    weights = np.zeros(len(truth.case_ids))
    x, y = rankdata(a.likelihood), rankdata(b.likelihood)
    weights[positive] += count_below(x[positive], x[~positive]) - count_below(y[positive], y[~positive])
    weights[positive] += count_below(x[positive], y[~positive]) - count_below(y[positive], x[~positive])
    weights[~positive] += count_below(y[~positive], y[positive]) - count_below(x[~positive], x[positive])
    weights[~positive] += count_below(y[~positive], x[positive]) - count_below(x[~positive], y[positive])
    doubled = np.rint(2 * np.bincount(truth.patients, weights)).astype(np.int64)  # ties count halves
    divisor = max(1, int(np.gcd.reduce(doubled)))
    return doubled // divisor, divisor / (4 * ones * zeros)


def _counted_p(weights: IntArray) -> float | None:
    """Share of all swaps whose signed sum of whole weights is as extreme as the observed one; None if too costly."""
    observed = int(weights.sum())
    if observed == 0:
        return 1.0
    tail = _share_at_least(weights, abs(observed))
    return None if tail is None else 2 * tail


def _share_at_least(weights: IntArray, sum_: int) -> float | None:
    """P(Σ σᵢ weightᵢ ≥ sum_) for a positive sum, over all swaps.

    The patients that lower the sum from Σ|weight| may weigh ``room`` at most in total: the numbers of such choices by
    their weight are built patient by patient. They are floats, exact to rounding, and rescaled before they overflow.
    """
    magnitudes = np.sort(np.abs(weights[weights != 0]))
    room = int(magnitudes.sum() - sum_) // 2
    if room < 0:
        return 0.0
    reached = np.minimum(np.cumsum(magnitudes), room)
    if int(reached.sum()) > COUNTING_LIMIT:
        return None
    ways = np.zeros(room + 1)
    before = np.empty(room + 1)
    ways[0] = 1.0
    top = halvings = 0
    for number, magnitude in enumerate(magnitudes.tolist(), start=1):
        size = min(top + 1, room + 1 - magnitude)
        if size > 0:
            before[:size] = ways[:size]
            ways[magnitude : magnitude + size] += before[:size]
            top = max(top, magnitude + size - 1)
        if number % _RESCALED_AFTER == 0:
            ways *= 2.0**-_RESCALED_AFTER
            ways[ways < _SMALLEST] = 0  # shares below 1e-270; left in, they would slow every addition
            halvings += _RESCALED_AFTER
    return float(math.ldexp(ways.sum(), halvings - magnitudes.size))


@dataclass(frozen=True)
class _PooledCandidates:
    """The candidates of both networks in one order, the most confident first, as groups of ties."""

    groups: tuple[tuple[tuple[tuple[int, bool], ...], tuple[tuple[int, bool], ...]], ...]
    """Each group's candidates, and its hits, as (patient, whether it is the first network's)."""
    candidates: int
    lesions: int

    @classmethod
    def of(cls, truth: TestSet, a: Outcome, b: Outcome) -> "_PooledCandidates":
        rank = np.concatenate([rankdata(-a.confidence), rankdata(-b.confidence)])
        order = np.argsort(rank, kind="stable")
        patient = truth.patients[np.concatenate([a.candidate_case, b.candidate_case])[order]].tolist()
        of_a = (np.arange(rank.size) < a.confidence.size)[order].tolist()
        hit = np.concatenate([a.hit, b.hit])[order].tolist()
        bounds = [0, *(np.flatnonzero(np.diff(rank[order])) + 1).tolist(), rank.size]
        members = list(zip(patient, of_a, strict=True))
        groups = [
            (tuple(members[start:end]), tuple(members[k] for k in range(start, end) if hit[k]))
            for start, end in pairwise(bounds)
        ]
        last = max((number for number, (_, hits) in enumerate(groups, start=1) if hits), default=0)
        return cls(groups=tuple(groups[:last]), candidates=rank.size, lesions=truth.lesion_count)

    def ap_difference(self, signs: Signs) -> FloatArray:
        """AP of the first network minus AP of the second after the swaps, shape (draws,).

        With s = ±1 for the network that a hit belongs to after the swap, E the same summed over all candidates so far
        and H over the hits so far, that network has (n + s E)/2 candidates and (h + s H)/2 hits, and the hit adds
        ``s (h + s H)/(n + s E) = (s h + H)/(n + s E)`` to the difference times the number of lesions.
        """
        draws = signs.shape[1]
        excess, hit_excess, above, below = (np.zeros(draws, dtype=signs.dtype) for _ in range(4))
        precision, difference = np.empty(draws), np.zeros(draws)
        candidates = hits = 0
        for members, of_hits in self.groups:
            for patient, of_a in members:
                (np.add if of_a else np.subtract)(excess, signs[patient], out=excess)
            for patient, of_a in of_hits:
                (np.add if of_a else np.subtract)(hit_excess, signs[patient], out=hit_excess)
            candidates += len(members)
            hits += len(of_hits)
            for patient, of_a in of_hits:
                side = 1 if of_a else -1
                np.multiply(signs[patient], side * hits, out=above)
                above += hit_excess
                np.multiply(signs[patient], excess, out=below)
                if not of_a:
                    np.negative(below, out=below)
                below += candidates
                np.divide(above, below, out=precision, dtype=np.float64)
                difference += precision
        return difference / max(1, self.lesions)


def _groups(patients: int) -> int:
    return -(-patients // 8)


def _all_swaps(patients: int) -> Iterator[Packed]:
    numbers = np.arange(2**patients, dtype=np.int64)
    yield np.stack([(numbers >> 8 * group & 0xFF).astype(np.uint8) for group in range(_groups(patients))])


def _drawn_swaps(patients: int, draws: int, seed: int) -> Iterator[Packed]:
    for number, first in enumerate(range(0, draws, _BLOCK)):
        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        bits = np.frombuffer(stream.bytes(_groups(patients) * _BLOCK), dtype=np.uint8)
        yield bits.reshape(-1, _BLOCK)[:, : draws - first]


def _signs(block: Packed, patients: int, candidates: int) -> Signs:
    """Signs of each patient in each draw, in as few bits as the number of candidates needs."""
    kind = np.int16 if candidates <= _LARGEST else np.int32
    signs = np.empty((patients, block.shape[1]), dtype=kind)
    for patient in range(patients):
        np.right_shift(block[patient // 8], patient % 8, out=signs[patient], casting="unsafe")
    signs &= 1
    signs *= -2
    signs += 1
    return signs


def _tables(weights: IntArray) -> list[IntArray]:
    """For every 8 patients, what each of their swaps adds to ``Σ σᵢ weightᵢ``."""
    tables = []
    for first in range(0, weights.size, 8):
        table = np.zeros(1, dtype=np.int64)
        for weight in weights[first : first + 8].tolist():
            table = np.concatenate([table + weight, table - weight])  # this patient's bit is the next higher one
        tables.append(table)
    return tables


def _signed_sums(block: Packed, tables: Sequence[IntArray]) -> IntArray:
    """Σ σᵢ weightᵢ in each draw."""
    sums = np.zeros(block.shape[1], dtype=np.int64)
    for swapped, table in zip(block, tables, strict=True):
        sums += table.take(swapped & (table.size - 1))
    return sums


def _result(
    observed: float, drawn: npt.NDArray[Any], unit: float, exact: bool, *, tolerance: float
) -> PermutationResult:
    extreme = int((np.abs(drawn) >= abs(observed) - tolerance).sum())
    return result_of_count(observed * unit, extreme, exact=exact, arrangements=drawn.size)
