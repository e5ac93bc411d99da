"""Studies by simulation: two configurations, their runs, a test set, and what the tests say about them.

A case's likelihood is ``d y + case + method × case + run × case``: how conspicuous its lesion is in general, to one
method, to one run. The three shares of the variance sum to 1, so a run with separation d has the population AUROC
Φ(d/√2); d varies between runs as the spread of the metric between runs demands. For AP every case has one candidate, as
confident as the case is likely, and every positive case one lesion, which that candidate hits. Two questions are asked
of such studies:

* *False positives*: nothing differs. How often does each test, and the verdict, see a difference? Asked of the very
  functions that ``compare`` uses.
* *Power*: the methods differ by so much. How often is that shown, by runs and cases? Here the case level is the test of
  runs and cases without the swaps, whose p is rarely larger, and the two-level interval has its variance in
  closed form, which the bootstrap follows closely (the tests compare them).

For comparison: bootstrapping a single run of each configuration, which takes one training for the method.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from evaluation.metrics.outcomes import BoolArray, FloatArray, Outcome, TestSet
from evaluation.metrics.placements import placements, ranks_without_ties
from evaluation.statistics.analysis_file import Metric
from evaluation.statistics.bootstrap import stream, two_level_bootstrap
from evaluation.statistics.case_level import (
    MetricByPatient,
    case_level_tests,
    own_variance_by_cases,
    runs_and_cases_test,
)
from evaluation.statistics.parallel import each_of
from evaluation.statistics.run_permutation import order_test
from evaluation.statistics.verdict import Interval95, decide

NullHypothesis = Literal["same method, retrained", "same method, runs equally good", "other method, equally good"]
NULLS: tuple[NullHypothesis, ...] = get_args(NullHypothesis)
"""What "no difference" may mean. Under the last the methods still differ *on this test set*, as the run level finds."""

RATES = ("run level", "swaps alone", "case level", "verdict: better or worse", "bootstrap of single runs")
"""*swaps alone*: the trained networks as they are. *case level*: the larger p, which the verdict uses."""

SimulatedStudy = tuple[BoolArray, FloatArray, FloatArray]

_CHUNK = 20
"""Studies from one random stream."""


@dataclass(frozen=True)
class SimulationSettings:
    """What a study is drawn from."""

    runs: int  # per configuration
    cases: int
    auroc: float = 0.88  # population value of the first configuration, mean over runs
    difference: float = 0.0  # of the metric, second minus first
    prevalence: float = 0.3
    run_sd: float = 0.01  # of the metric's population value between runs of one configuration
    case_share: float = 0.4  # of the variance of likelihoods within a class
    method_share: float = 0.3
    same_method: bool = False  # both configurations share method × case: one method, trained again
    metric: Metric = "auroc"  # what is compared

    @property
    def value(self) -> float:
        """The metric's population value of the first configuration: what its AUROC makes of it."""
        return float(metric_of(self.metric, np.sqrt(2) * ndtri(self.auroc), self.prevalence))

    @property
    def run_share(self) -> float:
        """Of run × case."""
        return 1 - self.case_share - self.method_share


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


def false_positives(
    settings: SimulationSettings, *, studies: int, alpha: float, seed: int, replicates: int = 400, workers: int = 1
) -> dict[str, ErrorRate]:
    """How often each test finds a difference, by the functions that ``compare`` uses; keys are :data:`RATES`.

    Parameters
    ----------
    replicates
        Of the bootstrap in each study.
    """
    tested = partial(_test_chunk, settings, alpha, seed, replicates)
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
    """How often a study shows the second configuration to be better.

    Parameters
    ----------
    alpha
        Two-sided, of one comparison: divide by the number of comparisons for a family.
    margin
        For the key ``on par``: how often the (1 − 2 alpha) interval lies within ± this.

    Returns
    -------
    ``run level``, ``case level`` and ``better`` (both, and the two-level interval above 0).
    """
    judged = partial(_power_chunk, settings, alpha, seed, margin)
    found = np.concatenate(list(each_of(judged, _chunks(studies), workers=workers)))
    names = ["run level", "case level", "better", *(["on par"] if margin is not None else [])]
    return {name: ErrorRate(int(column.sum()), studies) for name, column in zip(names, found.T, strict=False)}


def null_settings(settings: SimulationSettings, null: NullHypothesis) -> SimulationSettings:
    """The same sizes and spreads without a difference."""
    same = null != "other method, equally good"
    spread_of_runs = 0.0 if null == "same method, runs equally good" else settings.run_sd
    return replace(settings, difference=0.0, same_method=same, run_sd=spread_of_runs)


def draw(settings: SimulationSettings, generator: np.random.Generator) -> SimulatedStudy:
    """One study: which cases are positive, shape (cases,), and both arms' likelihoods, shape (runs, cases)."""
    ones = min(settings.cases - 2, max(2, int(generator.binomial(settings.cases, settings.prevalence))))
    positive = np.arange(settings.cases) < ones
    shared = generator.normal(0, np.sqrt(settings.case_share), settings.cases)
    methods = generator.normal(0, np.sqrt(settings.method_share), (2, settings.cases))
    arms = []
    for number in (0, 1):
        value = settings.value + number * settings.difference + generator.normal(0, settings.run_sd, (settings.runs, 1))
        separation = separation_of(settings.metric, value, settings.prevalence)
        noise = generator.normal(0, np.sqrt(settings.run_share), (settings.runs, settings.cases))
        arms.append(separation * positive + shared + methods[0 if settings.same_method else number] + noise)
    return positive, arms[0], arms[1]


def metric_of(metric: Metric, separation: float | FloatArray, prevalence: float) -> FloatArray:
    """Population value of a metric at a separation d of the classes' unit normals."""
    auroc = np.asarray(ndtr(np.asarray(separation) / np.sqrt(2)))
    if metric == "auroc":
        return auroc
    separations, ap = _ap_by_separation(prevalence)
    found = np.interp(separation, separations, ap)
    return np.asarray(found if metric == "ap" else (auroc + found) / 2)


def separation_of(metric: Metric, value: float | FloatArray, prevalence: float) -> FloatArray:
    """The separation at which a metric has a value; values out of reach are brought to the nearest within."""
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


@dataclass(frozen=True)
class RunVariance:
    """Two arms' metric, their difference, and its variance by what is resampled."""

    first: MetricByPatient
    second: MetricByPatient
    difference: float  # second minus first
    case_variance: float  # over cases, the runs taken as they are; for AUROC DeLong's
    two_level_variance: float  # runs and cases, as the two-level bootstrap has it

    @property
    def runs(self) -> FloatArray:
        """The metric of each run of the two arms, shape (2, runs)."""
        return np.stack([self.first.values, self.second.values])


def run_variances(positive: BoolArray, first: FloatArray, second: FloatArray, metric: Metric = "auroc") -> RunVariance:
    """Take a study's means and variances in closed form; likelihoods of shape (runs, cases), without ties."""
    arms = [_by_case(metric, positive, arm) for arm in (first, second)]
    means = [arm.influence.mean(axis=0) for arm in arms]
    case_variance = float(((means[1] - means[0]) ** 2).sum())
    total = case_variance
    for arm in arms:
        # runs, and cases as each run sees them; one run fewer is drawn than there are
        runs = len(arm.values)
        total += float(arm.values.var()) / max(1, runs - 1) + own_variance_by_cases(arm.influence) / runs
    difference = float(arms[1].values.mean() - arms[0].values.mean())
    return RunVariance(arms[0], arms[1], difference, case_variance, total)


def _by_case(metric: Metric, positive: BoolArray, arm: FloatArray) -> MetricByPatient:
    """As :func:`evaluation.statistics.case_level.by_patient`, of all runs at once: one case per patient, no ties."""
    if metric == "score":
        auroc, ap = (_by_case(each, positive, arm) for each in ("auroc", "ap"))
        return MetricByPatient((auroc.values + ap.values) / 2, (auroc.influence + ap.influence) / 2)
    ones, zeros = int(positive.sum()), int((~positive).sum())
    influence = np.empty(arm.shape)
    if metric == "auroc":
        placement = placements(positive, arm, ranks=ranks_without_ties)
        # contiguous: means over cases are then summed in one order
        of_ones, of_zeros = (np.ascontiguousarray(placement[:, kind]) for kind in (positive, ~positive))
        values = of_ones.mean(axis=1)
        influence[:, positive] = (of_ones - values[:, None]) / np.sqrt(ones * (ones - 1))
        influence[:, ~positive] = (of_zeros - values[:, None]) / np.sqrt(zeros * (zeros - 1))
        return MetricByPatient(values, influence)
    order = np.argsort(-arm, axis=1)
    hit, candidates = positive[order].astype(np.float64), np.arange(1.0, positive.size + 1)
    precision = np.cumsum(hit, axis=1) / candidates
    values = (hit * precision).sum(axis=1) / ones
    of_hits = np.cumsum((hit / candidates)[:, ::-1], axis=1)[:, ::-1]
    of_all = np.cumsum((hit * precision / candidates)[:, ::-1], axis=1)[:, ::-1]
    np.put_along_axis(influence, order, hit * (precision + of_hits) - of_all, axis=1)
    return MetricByPatient(values, (influence - values[:, None] * positive) / np.sqrt(ones * (ones - 1)))


def _chunks(studies: int) -> list[tuple[int, int]]:
    return [(number, min(_CHUNK, studies - first)) for number, first in enumerate(range(0, studies, _CHUNK))]


def _test_chunk(
    settings: SimulationSettings, alpha: float, seed: int, replicates: int, chunk: tuple[int, int]
) -> BoolArray:
    """Which of :data:`RATES` found a difference, shape (studies, rates)."""
    number, studies = chunk
    generator = stream(seed, "false positives", str(number))
    return np.array(
        [_tests(draw(settings, generator), settings.metric, alpha, replicates, generator) for _ in range(studies)]
    )


def _tests(
    study: SimulatedStudy, metric: Metric, alpha: float, replicates: int, generator: np.random.Generator
) -> list[bool]:
    positive, first, second = study
    cases = positive.size
    with_ap = metric != "auroc"
    truth = TestSet(tuple(f"{case:06d}" for case in range(cases)), positive, (positive * with_ap).astype(np.int64))
    arms = {
        name: [_outcome(row, positive, with_ap=with_ap) for row in arm]
        for name, arm in (("second", second), ("first", first))
    }
    seed = int(generator.integers(2**31))
    values = run_variances(positive, first, second, metric).runs
    run_p = order_test(values[1].tolist(), values[0].tolist()).p
    at_case_level = case_level_tests(
        truth, arms["second"], arms["first"], fixed=(False, False), draws=1_000, seed=seed
    )[metric]
    draws = two_level_bootstrap(truth, arms, replicates=replicates, seed=seed)
    interval = Interval95.of(draws["second"][metric] - draws["first"][metric], level=1 - alpha)
    single = two_level_bootstrap(
        truth, {name: outcomes[:1] for name, outcomes in arms.items()}, replicates=replicates, seed=seed
    )
    code = decide(
        estimate=at_case_level.swaps.statistic,
        interval=interval,
        run_level_p_holm=run_p,
        case_level_p_holm=at_case_level.p,
        run_level_applies=True,
        spread_known=True,
        equivalent=False,
        alpha=alpha,
    )
    single_interval = Interval95.of(single["second"][metric] - single["first"][metric], level=1 - alpha)
    return [
        run_p <= alpha,
        at_case_level.swaps.p <= alpha,
        at_case_level.p <= alpha,
        code in ("better", "worse"),
        single_interval is not None and (single_interval.low > 0 or single_interval.high < 0),
    ]


def _power_chunk(
    settings: SimulationSettings, alpha: float, seed: int, margin: float | None, chunk: tuple[int, int]
) -> BoolArray:
    number, studies = chunk
    generator = stream(seed, "power", str(number))
    critical = NormalDist().inv_cdf(1 - alpha / 2)
    one_sided = NormalDist().inv_cdf(1 - alpha)
    found = []
    for _ in range(studies):
        study = run_variances(*draw(settings, generator), settings.metric)
        reach = float(np.sqrt(study.two_level_variance))
        at_run_level = order_test(study.runs[1].tolist(), study.runs[0].tolist()).p <= alpha and study.difference > 0
        tested = runs_and_cases_test(study.second, study.first)
        at_case_level = tested is not None and tested.p <= alpha and study.difference > 0
        better = at_run_level and at_case_level and study.difference > critical * reach
        on_par = margin is not None and abs(study.difference) + one_sided * reach < margin
        found.append([at_run_level, at_case_level, better, on_par])
    return np.array(found)


def _outcome(likelihood: FloatArray, positive: BoolArray, *, with_ap: bool) -> Outcome:
    case = np.arange(likelihood.size if with_ap else 0)
    return Outcome(likelihood, case, likelihood[case], positive[case])
