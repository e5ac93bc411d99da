"""A test set's truth and one run's outcome on it as arrays, and AUROC and AP under case weights.

The weights are how often a resample draws each case: one row of weights per replicate, all replicates at once. With
unit weights these are the reported metrics themselves. Cases are ordered by their id.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from contract.archive.patients import FEWEST_PATIENTS, patients_by_case
from contract.errors import OncoduetError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TestSet:
    """Truth of the test set; arrays have the shape (cases,)."""

    case_ids: tuple[str, ...]
    positive: BoolArray
    lesions: IntArray  # lesions per case
    patient_names: tuple[str, ...] | None = None  # None: derived from the ids

    @cached_property
    def patients(self) -> IntArray:
        """Index of each case's patient, shape (cases,).

        Raises
        ------
        OncoduetError
            No patients were given, and the ids are ambiguous.
        """
        names = self.patient_names
        if names is None:
            by_case = patients_by_case(self.case_ids, source="scored cases")
            names = tuple(by_case[case_id] for case_id in self.case_ids)
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    @property
    def patient_count(self) -> int:
        """Number of patients, the unit of resampling and of swaps."""
        return int(self.patients.max()) + 1

    @property
    def positive_patients(self) -> BoolArray:
        """Whether each patient has a positive case, shape (patients,)."""
        return np.bincount(self.patients, self.positive, minlength=self.patient_count) > 0

    @property
    def lesion_count(self) -> int:
        """Number of lesions, missed ones included."""
        return int(self.lesions.sum())

    @property
    def positive_count(self) -> int:
        """Number of positive cases."""
        return int(self.positive.sum())


def require_patients(truth: TestSet, where: object, *, few: bool, way_out: str) -> None:
    """Raise ``OncoduetError`` where there are too few patients to resample, unless ``few`` allows it."""
    if not few and truth.patient_count < FEWEST_PATIENTS:
        raise OncoduetError(
            where,
            expected=f"at least {FEWEST_PATIENTS} patients to resample",
            found=f"{truth.patient_count}; {way_out} allows it",
        )


@dataclass(frozen=True)
class Outcome:
    """Predictions of one run on the test set.

    Candidates that only touch a lesion which another candidate hit ("ignored") are neither true nor false positive
    and are not among these.
    """

    likelihood: FloatArray  # (cases,)
    candidate_case: IntArray  # (candidates,), index of the case
    confidence: FloatArray  # (candidates,)
    hit: BoolArray  # (candidates,), whether it is a true positive

    @staticmethod
    def of(likelihood: FloatArray, candidates: Iterable[tuple[float, int, bool]]) -> "Outcome":
        """From candidates (confidence, index of the case, hit) in any order; those of confidence 0 are dropped."""
        ordered = sorted((-confidence, case, hit) for confidence, case, hit in candidates if confidence > 0)
        return Outcome(
            likelihood=likelihood,
            candidate_case=np.array([case for _, case, _ in ordered], dtype=np.int64),
            confidence=np.array([-negative for negative, _, _ in ordered], dtype=np.float64),
            hit=np.array([hit for _, _, hit in ordered], dtype=np.bool_),
        )


def weighted_auroc(truth: TestSet, likelihood: FloatArray, weights: FloatArray) -> FloatArray:
    """AUROC of the cases' likelihoods under each row of case weights.

    ``(1 / W₁W₀) Σᵢⱼ wᵢ wⱼ (1[sᵢ > sⱼ] + ½·1[sᵢ = sⱼ])`` over positive i and negative j: with whole weights every
    number on the way is exact.

    Parameters
    ----------
    likelihood
        Shape (cases,).
    weights
        Shape (replicates, cases), not negative.

    Returns
    -------
    Shape (replicates,), NaN where a class has no weight.
    """
    positive = truth.positive
    above, below = likelihood[positive][:, None], likelihood[~positive][None, :]
    order = (above > below) + 0.5 * (above == below)
    of_positives, of_negatives = weights[:, positive], weights[:, ~positive]
    total = of_positives.sum(axis=1) * of_negatives.sum(axis=1)
    return _divide((of_positives @ order * of_negatives).sum(axis=1), total)


def weighted_ap(truth: TestSet, outcome: Outcome, weights: FloatArray) -> FloatArray:
    """Average precision of the candidates under each row of case weights.

    ``(1 / W) Σₜ ΔTP(t) · TP(t) / (TP(t) + FP(t))`` over the distinct confidences t > 0, with W the weight of all
    lesions, missed ones included; no interpolation.

    Parameters
    ----------
    weights
        Shape (replicates, cases), not negative.

    Returns
    -------
    Shape (replicates,), NaN where no lesion has weight.
    """
    order = np.argsort(-outcome.confidence, kind="stable")
    hit = outcome.hit[order]
    steps = steps_with_hits(-outcome.confidence[order], hit)
    of_candidates = weights[:, outcome.candidate_case[order]]
    true_positives = np.cumsum(of_candidates * hit, axis=1)[:, steps]
    candidates = np.cumsum(of_candidates, axis=1)[:, steps]
    return _divide(precision_sum(true_positives, candidates), weights @ truth.lesions)


def steps_with_hits(ascending: FloatArray, hit: BoolArray) -> IntArray:
    """Index of the last candidate of each group of ties that holds a hit: only there does sensitivity rise.

    Parameters
    ----------
    ascending
        Sorted keys, the most confident candidate first, shape (candidates,).
    hit
        In the same order.
    """
    last = last_of_ties(ascending)
    hits = np.diff(np.cumsum(hit)[last], prepend=0)
    return last[hits > 0]


def last_of_ties(ordered: npt.NDArray[np.floating]) -> IntArray:
    """Index of the last of each group of equal values in an ordered array."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], ordered.size > 0)[: ordered.size]).astype(np.int64)


def precision_sum(true_positives: FloatArray, candidates: FloatArray) -> FloatArray:
    """``Σ ΔTP · TP / N`` along the last axis, where the cumulative counts are given at each step."""
    gained = np.diff(true_positives, axis=1, prepend=0.0)
    precision = np.divide(true_positives, candidates, out=np.zeros_like(true_positives), where=candidates > 0)
    return np.asarray((gained * precision).sum(axis=1))


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0))
