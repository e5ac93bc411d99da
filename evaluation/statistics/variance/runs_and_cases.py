"""Test and interval of a difference for new runs and new cases, each the other's inverse.

Obuchowski and Rockette's analysis (Communications in Statistics 1995), with runs as readers and configurations as
modalities. The difference of two means of a metric has the variance ``V = V_runs + C``. With ``I`` the influence of
each patient on a run's metric (its derivative by the patient's weight, the infinitesimal jackknife):

*nested*, runs of a and b trained independently
    ``V_runs = s²(a)/r(a) + s²(b)/r(b)``, s² the variance of the metric over r runs.
*paired*, run k of a with run k of b, which share a fold or a network
    ``V_runs = s²(d)/r``, of the r differences d.

``C = max(0, T − own)``: T = Σ ``Ī²`` is the variance by cases of the difference, the runs taken as they are; ``own`` is
the part of it that each run has to itself, which s² holds already. For AUROC and one case per patient T is DeLong's
(Biometrics 1988).

``difference/√V`` is compared with Student's t. Satterthwaite's degrees of freedom count runs and cases, T₁ and T₀ being
the parts of T by positive and by negative patients::

    df = V² / (Σ v²/(r − 1) + (C/T)² (T₁²/(n₁ − 1) + T₀²/(n₀ − 1)))

Without the cases' terms and for arms of equal size and spread these are Hillis' (Statistics in Medicine 2007); without
the runs' terms, for two single networks, Welch's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from evaluation.metrics.outcomes import BoolArray, FloatArray
from evaluation.statistics.variance.influence import MetricByPatient, own_variance_by_cases

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Runs of a and of b that share a fold or a network, by index; each pair gives one difference of means."""

FEWEST_PATIENTS = 3
"""Fewest patients of a class: one has no variance, and that of two is so uncertain that p is too small."""
FEW_CASES = 20
"""Fewest positive or negative patients for which p is not called approximate."""
FEWEST_RUNS = 3
FEW_RUNS = 5
UNEQUAL = 3
"""Design limits: p is called approximate for fewer than three runs (or readers, or pairs), and for fewer than five
against more than three times as many."""

_ROUNDING = 1e-12
"""Smaller standard errors are rounding errors."""


@dataclass(frozen=True)
class DifferenceTest:
    """A difference with the variance that it has over new runs and new cases."""

    estimate: float
    """Mean of a minus mean of b."""
    variance_of_runs: float
    variance_of_cases: float
    """Variance that the cases add, C."""
    degrees_of_freedom: float

    @property
    def standard_error(self) -> float:
        """Of the estimate: √V."""
        return math.sqrt(self.variance_of_runs + self.variance_of_cases)

    @property
    def p(self) -> float:
        """Two-sided, of no difference."""
        return 2 * float(student.sf(abs(self.estimate) / self.standard_error, self.degrees_of_freedom))

    def p_not_above(self, bound: float) -> float:
        """One-sided, of a difference of at most ``bound``."""
        return float(student.sf((self.estimate - bound) / self.standard_error, self.degrees_of_freedom))

    def p_not_below(self, bound: float) -> float:
        """One-sided, of a difference of at least ``bound``."""
        return float(student.cdf((self.estimate - bound) / self.standard_error, self.degrees_of_freedom))

    def p_not_equivalent(self, margin: float) -> float:
        """The larger of two one-sided tests (Schuirmann 1987), of a difference of ± ``margin`` or more."""
        return max(self.p_not_above(-margin), self.p_not_below(margin))

    def interval(self, level: float) -> tuple[float, float]:
        """The t-interval; at 1 − p it ends at 0."""
        reach = float(student.isf((1 - level) / 2, self.degrees_of_freedom)) * self.standard_error
        return self.estimate - reach, self.estimate + reach

    def logit_interval(self, level: float) -> tuple[float, float]:
        """The t-interval of a mean within 0 and 1, on the logit scale, where it covers better."""
        slope = 1 / (self.estimate * (1 - self.estimate))
        reach = float(student.isf((1 - level) / 2, self.degrees_of_freedom)) * self.standard_error * slope
        low, high = expit(logit(self.estimate) + np.array([-reach, reach]))
        return float(low), float(high)


def mean_of(
    arm: MetricByPatient, positive: BoolArray, *, fixed: bool = False, own_is_seen: bool = True
) -> DifferenceTest | None:
    """The mean of one arm over new runs and cases: its difference from 0; parameters as of :func:`nested`."""
    nothing = MetricByPatient(np.zeros(1), np.zeros((1, positive.size)))
    return nested(arm, nothing, positive, fixed=(fixed, True), own_is_seen=own_is_seen)


def nested(
    a: MetricByPatient,
    b: MetricByPatient,
    positive: BoolArray,
    *,
    fixed: tuple[bool, bool] = (False, False),
    own_is_seen: bool = True,
) -> DifferenceTest | None:
    """Compare two arms whose runs were trained independently.

    Parameters
    ----------
    positive
        Whether a patient has a positive case, shape (patients,).
    fixed
        Whether an arm is a fixed rule, or is to be taken as one: it has no variance over runs.
    own_is_seen
        Whether the spread between runs holds what each sees of the cases in its own way. It does not where runs were
        brought to one value on these cases, such as a specificity: C is all of T then.

    Returns
    -------
    None where an arm has a single run although it is not fixed, where a class has :func:`too_few` patients, or where
    nothing varies.
    """
    arms = (a, b)
    if any(len(arm.values) < 2 and not is_fixed for arm, is_fixed in zip(arms, fixed, strict=True)):
        return None
    by_arm = [0.0 if is_fixed else _variance_of_mean(arm.values) for arm, is_fixed in zip(arms, fixed, strict=True)]
    own = sum(
        own_variance_by_cases(arm.influence) / len(arm.values)
        for arm, is_fixed in zip(arms, fixed, strict=True)
        if not is_fixed and own_is_seen
    )
    return _test(
        float(a.values.mean() - b.values.mean()),
        [(variance, len(arm.values) - 1) for variance, arm in zip(by_arm, arms, strict=True)],
        a.influence.mean(axis=0) - b.influence.mean(axis=0),
        own,
        positive,
    )


def paired(a: MetricByPatient, b: MetricByPatient, positive: BoolArray, pairs: Pairs) -> DifferenceTest | None:
    """Compare two arms by the differences within ``pairs``; None for fewer than two, and as :func:`nested`."""
    if len(pairs) < 2:
        return None
    values = np.array([a.values[list(of_a)].mean() - b.values[list(of_b)].mean() for of_a, of_b in pairs])
    influence = np.stack(
        [a.influence[list(of_a)].mean(axis=0) - b.influence[list(of_b)].mean(axis=0) for of_a, of_b in pairs]
    )
    return _test(
        float(values.mean()),
        [(_variance_of_mean(values), len(pairs) - 1)],
        influence.mean(axis=0),
        own_variance_by_cases(influence) / len(pairs),
        positive,
    )


def _test(
    estimate: float,
    of_runs: Sequence[tuple[float, int]],
    influence: FloatArray,
    own: float,
    positive: BoolArray,
) -> DifferenceTest | None:
    """``of_runs``: each variance of a mean over runs, with its degrees of freedom."""
    if too_few(positive):
        return None
    squares = influence**2
    by_class = [(float(squares[kind].sum()), int(kind.sum()) - 1) for kind in (positive, ~positive)]
    together = sum(part for part, _ in by_class)
    of_cases = max(0.0, together - own)
    variance = sum(each for each, _ in of_runs) + of_cases
    if math.sqrt(variance) < _ROUNDING:
        return None
    spread = sum(each**2 / freedom for each, freedom in of_runs if each)
    if of_cases:
        spread += (of_cases / together) ** 2 * sum(part**2 / max(1, freedom) for part, freedom in by_class)
    return DifferenceTest(estimate, variance - of_cases, of_cases, variance**2 / spread)


def too_few(positive: BoolArray) -> str | None:
    """Why cases cannot be asked about: a class holds one or two patients. None if not, or if it does not occur."""
    for name, members in (("positive", positive), ("negative", ~positive)):
        count = int(members.sum())
        if 0 < count < FEWEST_PATIENTS:
            return f"{count} {name} {'patient' if count == 1 else 'patients'}, too few to tell how cases vary"
    return None


def approximation(positive: BoolArray, drawn: Sequence[tuple[int, str]]) -> str | None:
    """Why p is approximate; None where simulations show it to be right.

    Parameters
    ----------
    drawn
        What varies, and how many there are of it, such as ``(3, "runs"), (20, "runs")`` of two nested arms, or
        ``(5, "pairs of runs")``; nothing for what is fixed.
    """
    kinds = (int(positive.sum()), int((~positive).sum()))
    if min(kinds) < FEW_CASES:
        return f"there are fewer than {FEW_CASES} {'positive' if kinds[0] < kinds[1] else 'negative'} patients"
    return approximation_by_runs(drawn)


def approximation_by_runs(drawn: Sequence[tuple[int, str]]) -> str | None:
    """As :func:`approximation`, however many patients there are."""
    if not drawn:
        return None
    (fewest, few), (most, many) = min(drawn), max(drawn)
    if fewest < FEWEST_RUNS:
        return f"there are only {fewest} {few}"
    if fewest < FEW_RUNS and most > UNEQUAL * fewest:
        return f"{fewest} {few} are compared with {most}" + ("" if many == few else f" {many}")
    return None


def _variance_of_mean(values: FloatArray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
