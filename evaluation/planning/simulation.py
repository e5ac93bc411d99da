"""Simulated studies: two configurations, their runs, a test set, and the results of the tests.

The likelihood of a case is ``d y + case + method × case + run × case``: how conspicuous its lesion is to any reader,
to one method, to one run. The three shares of the variance sum to 1, so a run with separation d has the population
AUROC Φ(d/√2); d varies between runs, and between folds, as the spread of the metric demands. For AP every case has one
candidate, as confident as the case is likely, and every positive case one lesion, which that candidate hits.

* *Errors* (:data:`SCENARIOS`): nothing differs. How often does each test see a difference, and how often does the
  interval hold the true one?
* *Power*: the methods differ by so much. How often is that shown?
* *False "on par"*: of several configurations that all differ from a reference by the margin, is any declared on par?

For comparison, one run of each configuration is tested as if it were the method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from contract.process.workers import each_of
from evaluation.metrics.outcomes import BoolArray, FloatArray, IntArray
from evaluation.metrics.placement_values import placement_values
from evaluation.statistics.adjustment import holm
from evaluation.statistics.analysis_file import Metric
from evaluation.statistics.resampling.random_streams import stream
from evaluation.statistics.resampling.run_permutation import order_test
from evaluation.statistics.variance.influence import MetricByPatient
from evaluation.statistics.variance.runs_and_cases import DifferenceTest, approximation, nested, paired

Tests = list[DifferenceTest | None]
"""Test of each other configuration; None where nothing varies."""

_ROUNDING = 1e-9

_CHUNK = 20
"""Number of studies from one random stream."""


@dataclass(frozen=True)
class SimulationSettings:
    """Parameters of a simulated study."""

    runs: int  # of the first configuration
    cases: int
    other_runs: int | None = None  # of the second; None: as many
    auroc: float = 0.88  # population value of the first configuration, mean over runs
    difference: float = 0.0  # of the metric, second minus first
    prevalence: float = 0.3
    run_sd: float = 0.01  # of the metric's population value between runs of one configuration
    other_run_sd: float | None = None  # of the second; None: the same
    folds: int = 1  # run k of both configurations is of fold k modulo folds
    fold_sd: float = 0.0  # of the metric between folds, the same for both configurations
    case_share: float = 0.4  # of the variance of likelihoods within a class
    method_share: float = 0.3
    same_method: bool = False  # both configurations share method × case: one method, trained again
    ensemble_of: int = 1  # the second is the mean of so many networks, one of them that of the first's run
    studies_per_patient: int = 1  # whose case and method effects correlate by 0.5
    tied: float = 0.0  # share of the cases at the lowest likelihood, as if without candidates
    metric: Metric = "auroc"  # what is compared

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where a number is not finite, or a share or spread is negative."""
        parts = (self.case_share, self.method_share, 1 - self.case_share - self.method_share + _ROUNDING)
        spreads = (self.run_sd, self.other_run_sd or 0.0, self.fold_sd)
        finite = np.isfinite([self.auroc, self.difference, self.prevalence, *parts, *spreads]).all()
        if not finite or min(*parts, *spreads) < 0:
            raise ValueError(f"no study can be drawn from {self}")

    @property
    def value(self) -> float:
        """The metric's population value of the first configuration: what its AUROC makes of it."""
        return float(metric_of(self.metric, np.sqrt(2) * ndtri(self.auroc), self.prevalence))

    @property
    def run_share(self) -> float:
        """Share of run × case; the other shares may exceed 1 by rounding."""
        return max(0.0, 1 - self.case_share - self.method_share)

    @property
    def is_paired(self) -> bool:
        """Whether run k of one configuration is compared with run k of the other."""
        return self.folds > 1 or self.ensemble_of > 1


SCENARIOS: Mapping[str, Mapping[str, object]] = {
    "same method, retrained": {"same_method": True},
    "same method, runs equally good": {"same_method": True, "run_sd": 0.0},
    "other method, equally good": {},
    "other method, run sd 0.003 v 0.03": {"run_sd": 0.003, "other_run_sd": 0.03},
    "same method, 3 v 20 runs": {"same_method": True, "runs": 3, "other_runs": 20, "run_sd": 0.02},
    "same method, 2 v 10 runs": {"same_method": True, "runs": 2, "other_runs": 10, "run_sd": 0.02},
    "same method, 2 v 6, sd 0.03 v 0.01": {
        "same_method": True,
        "runs": 2,
        "other_runs": 6,
        "run_sd": 0.03,
        "other_run_sd": 0.01,
    },
    "same method, 2 v 2, sd 0.003 v 0.03": {"same_method": True, "runs": 2, "run_sd": 0.003, "other_run_sd": 0.03},
    "same method, 2 folds shared (2 pairs)": {"same_method": True, "runs": 2, "folds": 2, "run_sd": 0.02},
    "other method, 2 v 3 (runs v readers)": {"runs": 2, "other_runs": 3, "other_run_sd": 0.03},
    "other method, 10 positives": {"positives": 10},
    "other method, 60 % of cases tied": {"tied": 0.6},
    "other method, 2 studies per patient": {"studies_per_patient": 2},
    "same method, 5 folds shared": {"same_method": True, "folds": 5, "fold_sd": 0.012, "run_sd": 0.008},
    "ensemble of 4 v its member": {"ensemble_of": 4},
    "other method, by AP": {"metric": "ap"},
}
"""What "no difference" may mean, as changes of the settings; in the second and third, methods still differ or do not
differ *on this test set*, which the run level rightly finds."""

RATES = ("this test set", "new runs and cases", "interval covers", "single runs")
"""*this test set*: the run level. *single runs*: one run of each configuration, taken for the method."""


@dataclass(frozen=True)
class SimulatedStudy:
    """One study."""

    positive: BoolArray  # (cases,)
    patients: IntArray  # (cases,), those of one patient side by side
    arms: tuple[FloatArray, ...]  # likelihoods of each configuration, (runs, cases)

    @property
    def positive_patients(self) -> BoolArray:
        """Shape (patients,)."""
        return self.positive[self.first_cases]

    @property
    def first_cases(self) -> IntArray:
        """Index of each patient's first case."""
        return np.flatnonzero(np.diff(self.patients, prepend=-1))


@dataclass(frozen=True)
class ErrorRate:
    """A share of simulated studies."""

    found: int
    studies: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.found / self.studies

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval by the chance of simulation (Clopper and Pearson)."""
        low = float(beta.ppf(0.025, self.found, self.studies - self.found + 1)) if self.found else 0.0
        missed = self.studies - self.found
        return low, float(beta.ppf(0.975, self.found + 1, missed)) if missed else 1.0


def error_rates(
    settings: SimulationSettings, *, studies: int, alpha: float, seed: int, workers: int = 1
) -> dict[str, ErrorRate]:
    """How often each test rejects, and how often the (1 − alpha) interval covers; keys are :data:`RATES`."""
    tested = partial(_errors, settings, alpha, seed)
    found = np.concatenate(list(each_of(tested, _chunks(studies), workers=workers)))
    return {name: ErrorRate(int(column.sum()), studies) for name, column in zip(RATES, found.T, strict=True)}


def power(
    settings: SimulationSettings,
    *,
    studies: int,
    alpha: float,
    seed: int,
    margin: float | None = None,
    workers: int = 1,
) -> dict[str, ErrorRate]:
    """How often a study shows the second configuration to be better, or worse where the difference is negative.

    Parameters
    ----------
    alpha
        Two-sided, of one comparison: divide by the number of comparisons for a family.
    margin
        For the key ``on par``: how often the (1 − 2 alpha) interval is within ± this.

    Returns
    -------
    ``this test set`` (the run level), ``better`` (new runs and cases) and, with a margin, ``on par``.
    """
    judged = partial(_power, settings, alpha, seed, margin)
    found = np.concatenate(list(each_of(judged, _chunks(studies), workers=workers)))
    names = ["this test set", "better", *(["on par"] if margin is not None else [])]
    return {name: ErrorRate(int(column.sum()), studies) for name, column in zip(names, found.T, strict=False)}


def any_false_on_par(
    settings: SimulationSettings, *, comparisons: int, studies: int, alpha: float, seed: int, workers: int = 1
) -> ErrorRate:
    """How often any of several configurations that all differ from a reference by the margin is declared on par with
    it.

    ``settings.difference`` is the true difference and the margin. Holm adjusts over the comparisons.
    """
    judged = partial(_false_on_par, settings, comparisons, alpha, seed)
    found = np.concatenate(list(each_of(judged, _chunks(studies), workers=workers)))
    return ErrorRate(int(found.sum()), studies)


def scenario(settings: SimulationSettings, name: str) -> SimulationSettings:
    """The settings of one of :data:`SCENARIOS`, without a difference."""
    changes = dict(SCENARIOS[name])
    positives = changes.pop("positives", None)
    if positives is not None:
        changes["prevalence"] = float(str(positives)) / settings.cases
    return replace(settings, difference=0.0, **changes)  # type: ignore[arg-type]


def is_approximate(settings: SimulationSettings) -> bool:
    """Whether ``compare`` would mark p of most such studies as approximate."""
    patients = settings.cases // settings.studies_per_patient
    positive = np.arange(patients) < round(settings.prevalence * patients)
    if settings.is_paired:
        return approximation(positive, [(settings.runs, "pairs of runs")]) is not None
    others = settings.runs if settings.other_runs is None else settings.other_runs
    return approximation(positive, [(settings.runs, "runs"), (others, "runs")]) is not None


def draw(settings: SimulationSettings, generator: np.random.Generator, *, others: int = 1) -> SimulatedStudy:
    """One study of a configuration and ``others``; a patient has ``studies_per_patient`` cases, all of one class."""
    cases, per = settings.cases, settings.studies_per_patient
    ones = min(cases - 2, max(2, int(generator.binomial(cases, settings.prevalence))))
    positive = np.arange(cases) < ones
    patients = np.concatenate([np.arange(ones) // per, (ones - 1) // per + 1 + np.arange(cases - ones) // per])
    shared = np.sqrt(settings.case_share) * _correlated(patients, 1, generator)
    methods = np.sqrt(settings.method_share) * _correlated(patients, others + settings.ensemble_of, generator)
    folds = generator.normal(0, settings.fold_sd, settings.folds)

    def networks(method: int, runs: int, spread: float) -> tuple[FloatArray, FloatArray]:
        """Deviations of the metric, shape (runs, 1), and what is no signal, shape (runs, cases)."""
        deviation = generator.normal(0, spread, (runs, 1)) + folds[np.arange(runs) % settings.folds][:, None]
        own = generator.normal(0, np.sqrt(settings.run_share), (runs, cases))
        return deviation, shared + methods[method] + own

    def arm(value: float, deviation: FloatArray, noise: FloatArray, scale: float = 1.0) -> FloatArray:
        separation = separation_of(settings.metric, value + deviation, settings.prevalence)
        likelihood = scale * separation * positive + noise
        if not settings.tied:
            return likelihood
        return np.maximum(likelihood, np.quantile(likelihood, settings.tied, axis=1, keepdims=True))

    first = networks(0, settings.runs, settings.run_sd)
    arms = [arm(settings.value, *first)]
    aim = settings.value + settings.difference
    if settings.ensemble_of > 1:
        members = [first, *(networks(k, settings.runs, settings.run_sd) for k in range(1, settings.ensemble_of))]
        deviation, noise = (np.mean([member[part] for member in members], axis=0) for part in (0, 1))
        variance = settings.case_share + (1 - settings.case_share) / settings.ensemble_of
        return SimulatedStudy(positive, patients, (*arms, arm(aim, deviation, noise, scale=variance**0.5)))
    runs = settings.runs if settings.other_runs is None else settings.other_runs
    spread = settings.run_sd if settings.other_run_sd is None else settings.other_run_sd
    for other in range(others):
        arms.append(arm(aim, *networks(0 if settings.same_method else 1 + other, runs, spread)))
    return SimulatedStudy(positive, patients, tuple(arms))


def against_first(study: SimulatedStudy, settings: SimulationSettings, metrics: Sequence[MetricByPatient]) -> Tests:
    """Test each other configuration minus the first on new runs and cases, paired where the settings say so."""
    first, *others = metrics
    if settings.is_paired:
        pairs = [([k], [k]) for k in range(settings.runs)]
        return [paired(other, first, study.positive_patients, pairs) for other in others]
    return [nested(other, first, study.positive_patients) for other in others]


def metric_of(metric: Metric, separation: float | FloatArray, prevalence: float) -> FloatArray:
    """Population value of a metric at a separation d of the classes' unit normals."""
    auroc = np.asarray(ndtr(np.asarray(separation) / np.sqrt(2)))
    if metric == "auroc":
        return auroc
    separations, ap = _ap_by_separation(prevalence)
    found = np.interp(separation, separations, ap)
    return np.asarray(found if metric == "ap" else (auroc + found) / 2)


def separation_of(metric: Metric, value: float | FloatArray, prevalence: float) -> FloatArray:
    """The separation at which a metric has a value; values out of range are clipped."""
    if metric == "auroc":
        return np.asarray(np.sqrt(2) * ndtri(np.clip(value, 1e-6, 1 - 1e-6)))
    separations, _ = _ap_by_separation(prevalence)
    return np.asarray(np.interp(value, metric_of(metric, separations, prevalence), separations))


@lru_cache
def _ap_by_separation(prevalence: float) -> tuple[FloatArray, FloatArray]:
    """AP = E[precision at a positive case's likelihood], by numerical integration over its quantiles."""
    separations = np.linspace(-4, 8, 601)
    share = (np.arange(2_000) + 0.5) / 2_000  # of positive cases above
    hits = prevalence * share
    false = (1 - prevalence) * ndtr(-(separations[:, None] - ndtri(share)[None, :]))
    return separations, (hits / (hits + false)).mean(axis=1)


def metric_by_patient(study: SimulatedStudy, metric: Metric) -> list[MetricByPatient]:
    """As :func:`~evaluation.statistics.variance.influence.by_patient` of each arm, all runs at once; no ties in AP."""
    if metric == "score":
        both = zip(metric_by_patient(study, "auroc"), metric_by_patient(study, "ap"), strict=True)
        return [
            MetricByPatient((auroc.values + ap.values) / 2, (auroc.influence + ap.influence) / 2) for auroc, ap in both
        ]
    return [(_auroc if metric == "auroc" else _ap)(study, arm) for arm in study.arms]


def _auroc(study: SimulatedStudy, arm: FloatArray) -> MetricByPatient:
    of_cases, values = placement_values(study.positive, arm), np.empty(len(arm))
    for kind in (study.positive, ~study.positive):
        values = of_cases[:, kind].mean(axis=1)
        of_cases[:, kind] = (of_cases[:, kind] - values[:, None]) / np.sqrt(kind.sum() * (kind.sum() - 1))
    return MetricByPatient(values, np.add.reduceat(of_cases, study.first_cases, axis=1))


def _ap(study: SimulatedStudy, arm: FloatArray) -> MetricByPatient:
    positive, influence = study.positive, np.empty(arm.shape)
    ones = int(positive.sum())
    order = np.argsort(-arm, axis=1)
    hit, candidates = positive[order].astype(np.float64), np.arange(1.0, positive.size + 1)
    precision = np.cumsum(hit, axis=1) / candidates
    values = (hit * precision).sum(axis=1) / ones
    of_hits = np.cumsum((hit / candidates)[:, ::-1], axis=1)[:, ::-1]
    of_all = np.cumsum((hit * precision / candidates)[:, ::-1], axis=1)[:, ::-1]
    np.put_along_axis(influence, order, hit * (precision + of_hits) - of_all, axis=1)
    influence = np.add.reduceat((influence - values[:, None] * positive) / ones, study.first_cases, axis=1)
    ill = int(study.positive_patients.sum())
    return MetricByPatient(values, influence * np.sqrt(ill / max(1, ill - 1)))


def _correlated(patients: IntArray, rows: int, generator: np.random.Generator) -> FloatArray:
    """Unit normals, shape (rows, cases), that correlate by 0.5 within a patient with several cases."""
    of_cases = generator.normal(size=(rows, patients.size))
    if patients[-1] == patients.size - 1:
        return of_cases
    of_patients = generator.normal(size=(rows, patients[-1] + 1))[:, patients]
    return np.asarray((of_patients + of_cases) / np.sqrt(2))


def _chunks(studies: int) -> list[tuple[int, int]]:
    return [(number, min(_CHUNK, studies - first)) for number, first in enumerate(range(0, studies, _CHUNK))]


def _errors(settings: SimulationSettings, alpha: float, seed: int, chunk: tuple[int, int]) -> BoolArray:
    """Which of :data:`RATES` happened, shape (studies, rates)."""
    number, studies = chunk
    generator = stream(seed, "error rates", str(number))
    found = []
    for _ in range(studies):
        study = draw(settings, generator)
        metrics = metric_by_patient(study, settings.metric)
        (tested,) = against_first(study, settings, metrics)
        one_run = [MetricByPatient(each.values[:1], each.influence[:1]) for each in metrics]
        single = nested(one_run[1], one_run[0], study.positive_patients, fixed=(True, True))
        low, high = tested.interval(1 - alpha) if tested else (0.0, 0.0)
        found.append(
            [
                _on_this_test_set(settings, metrics) <= alpha,
                tested is not None and tested.p <= alpha,
                low <= settings.difference <= high,
                single is not None and single.p <= alpha,
            ]
        )
    return np.array(found)


def _power(
    settings: SimulationSettings, alpha: float, seed: int, margin: float | None, chunk: tuple[int, int]
) -> BoolArray:
    number, studies = chunk
    generator = stream(seed, "power", str(number))
    found = []
    for _ in range(studies):
        study = draw(settings, generator)
        metrics = metric_by_patient(study, settings.metric)
        (tested,) = against_first(study, settings, metrics)
        is_found = tested is not None and tested.estimate * (settings.difference or 1.0) > 0
        found.append(
            [
                is_found and _on_this_test_set(settings, metrics) <= alpha,
                is_found and tested is not None and tested.p <= alpha,
                margin is not None and tested is not None and tested.p_not_equivalent(margin) <= alpha,
            ]
        )
    return np.array(found)


def _false_on_par(
    settings: SimulationSettings, comparisons: int, alpha: float, seed: int, chunk: tuple[int, int]
) -> BoolArray:
    number, studies = chunk
    generator = stream(seed, "false on par", str(number))
    found = []
    for _ in range(studies):
        study = draw(settings, generator, others=comparisons)
        tests = against_first(study, settings, metric_by_patient(study, settings.metric))
        p_values = holm([None if test is None else test.p_not_equivalent(settings.difference) for test in tests])
        found.append(any(p is not None and p <= alpha for p in p_values))
    return np.array(found)


def _on_this_test_set(settings: SimulationSettings, metrics: Sequence[MetricByPatient]) -> float:
    first, second = (each.values.tolist() for each in metrics)
    if settings.folds == 1:
        return order_test(second, first).p
    return order_test(
        second,
        first,
        folds=([k % settings.folds for k in range(len(second))], [k % settings.folds for k in range(len(first))]),
    ).p
