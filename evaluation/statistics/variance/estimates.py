"""Means over runs, with intervals for new runs and cases, of any quantity that has an influence by patient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta

from evaluation.metrics.outcomes import BoolArray, FloatArray, TestSet
from evaluation.statistics.clinical_records import Estimate
from evaluation.statistics.variance.influence import MetricByPatient, sum_by_patient
from evaluation.statistics.variance.runs_and_cases import FEWEST_PATIENTS, DifferenceTest, mean_of


@dataclass(frozen=True)
class Ratio:
    """A ratio of two sums over cases in one run, such as a sensitivity."""

    value: float
    influence: FloatArray  # (patients,)
    patients: int  # who have a part in the denominator


def ratio(truth: TestSet, numerator: FloatArray | BoolArray, denominator: FloatArray | BoolArray) -> Ratio | None:
    """Σ numerator / Σ denominator with each patient's influence, times √(n/(n − 1)); None over nothing.

    Parameters
    ----------
    numerator, denominator
        What each case adds, shape (cases,).
    """
    total = float(denominator.sum())
    if not total:
        return None
    value = float(numerator.sum()) / total
    count = np.unique(truth.patients[denominator > 0]).size
    of_patients = sum_by_patient(truth, np.asarray((numerator - value * denominator) / total, dtype=np.float64))
    return Ratio(value, of_patients * math.sqrt(count / max(1, count - 1)), count)


def scaled(truth: TestSet, of_cases: FloatArray) -> FloatArray:
    """Sum of each patient's cases, times √(n/(n − 1)) for n patients."""
    count = truth.patient_count
    return sum_by_patient(truth, of_cases) * math.sqrt(count / max(1, count - 1))


@dataclass(frozen=True)
class Estimator:
    """How the mean over the runs of one configuration is estimated."""

    positive: BoolArray  # whether a patient has a positive case, (patients,)
    fixed: bool  # a single run, or a rule
    alpha: float
    own_is_seen: bool = True  # as of :func:`evaluation.statistics.variance.runs_and_cases.nested`

    def brought_to_one_value(self) -> "Estimator":
        """Estimator of a quantity that depends on a value fixed for all runs on these cases, such as a specificity."""
        return replace(self, own_is_seen=False)

    def _mean(self, values: Sequence[float], influence: Sequence[FloatArray]) -> DifferenceTest | None:
        measured = MetricByPatient(np.array(values), np.stack(influence))
        return mean_of(measured, self.positive, fixed=self.fixed, own_is_seen=self.own_is_seen)

    def of(
        self,
        values: Sequence[float],
        influence: Sequence[FloatArray],
        *,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> Estimate:
        """The mean with its t-interval, cut to the quantity's range."""
        found = self._mean(values, influence)
        if found is None:
            return Estimate(mean=float(np.mean(values)), interval=None)
        ends = found.interval(1 - self.alpha)
        return Estimate(mean=found.estimate, interval=(max(low, ends[0]), min(high, ends[1])))

    def of_share(
        self, values: Sequence[float], influence: Sequence[FloatArray], *, patients: int | None = None
    ) -> Estimate:
        """The mean of a share with its t-interval on the logit scale.

        Where all runs have 0 or 1, Clopper and Pearson's interval for the number of patients, if given.
        """
        mean = float(np.mean(values))
        if not 0 < mean < 1:
            return Estimate(mean=mean, interval=_exact(mean, patients, self.alpha) if patients else None)
        found = self._mean(values, influence)
        return Estimate(mean=mean, interval=found and found.logit_interval(1 - self.alpha))

    def of_ratios(self, ratios: Sequence[Ratio | None], *, share: bool = True) -> Estimate | None:
        """The mean of a ratio, a share or a number from 0 on; None where a run leaves it undefined."""
        defined = [each for each in ratios if each is not None]
        if len(defined) < len(ratios):
            return None
        values, influence = [each.value for each in defined], [each.influence for each in defined]
        patients = min(each.patients for each in defined)
        if patients < FEWEST_PATIENTS and 0 < sum(values) < len(values):
            return Estimate(mean=float(np.mean(values)), interval=None)
        if share:
            return self.of_share(values, influence, patients=patients)
        return self.of(values, influence, low=0.0)


def _exact(mean: float, patients: int, alpha: float) -> tuple[float, float]:
    if mean == 0:
        return 0.0, float(beta.ppf(1 - alpha / 2, 1, patients))
    return float(beta.ppf(alpha / 2, patients, 1)), 1.0
