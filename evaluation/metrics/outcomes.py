"""A test set's truth, and one run's outcome on it, as arrays. Cases are ordered by their id."""

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
