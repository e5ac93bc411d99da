"""Studies by simulation: two configurations, their runs, a test set, and what the tests say about them.

A case's likelihood is ``d y + case + method × case + run × case``: how plain its lesion is to anyone, to one method, to
one run. The three shares of the variance sum to 1, so a run with separation d has the population AUROC Φ(d/√2); d
varies between runs as the spread of AUROC between runs demands. Two questions are asked of such studies:

* *False positives*: nothing differs. How often does each test, and the verdict, see a difference? Asked of the very
  functions that ``compare`` uses.
* *Power*: the methods differ by so much. How often is that shown, by runs and cases? Here the case level is DeLong's
  test and the two-level interval its variance in closed form, which the exact test and the bootstrap follow closely
  (the tests hold them side by side).

Bootstrapping one run of each configuration is shown beside them: it takes one training for the method.
"""

from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtri
from scipy.stats import beta

from evaluation.intervals import percentile_interval, stream, two_level_bootstrap
from evaluation.outcomes import BoolArray, FloatArray, Outcome, Truth
from evaluation.permutation import order_test
from evaluation.swaps import case_swap_tests
from evaluation.verdict import Interval95, decide
from evaluation.workers import each_of

Null = Literal["same method, retrained", "same method, runs equally good", "other method, equal AUROC"]
NULLS: tuple[Null, ...] = get_args(Null)
"""What no difference may mean. Under the last the methods still differ *on this test set*: the run level finds that."""

RATES = ("run level", "case level, p alone", "case level", "verdict: better or worse", "bootstrap of single runs")
"""*case level*: p and the two-level interval, as the verdict uses it where there is no run level."""

Study = tuple[BoolArray, FloatArray, FloatArray]

_CHUNK = 20
"""Studies from one random stream."""


@dataclass(frozen=True)
class World:
    """What a study is drawn from."""

    runs: int  # per configuration
    cases: int
    auroc: float = 0.88  # population value of the first configuration, mean over runs
    difference: float = 0.0  # second minus first
    prevalence: float = 0.3
    run_sd: float = 0.01  # of the population AUROC between runs of one configuration
    case_share: float = 0.4  # of the variance of likelihoods within a class
    method_share: float = 0.3
    same_method: bool = False  # both configurations share method × case: one method, trained again

    @property
    def run_share(self) -> float:
        """Of run × case."""
        return 1 - self.case_share - self.method_share


@dataclass(frozen=True)
class Rate:
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
    world: World, *, studies: int, alpha: float, seed: int, replicates: int = 400, workers: int = 1
) -> dict[str, Rate]:
    """How often each test finds a difference, by the functions that ``compare`` uses; keys are :data:`RATES`.

    Parameters
    ----------
    replicates
        Of the bootstrap in each study.
    """
    tested = partial(_test_chunk, world, alpha, seed, replicates)
    found = np.concatenate(list(each_of(tested, _chunks(studies), workers=workers)))
    return {name: Rate(int(column.sum()), studies) for name, column in zip(RATES, found.T, strict=True)}


def power(
    world: World, *, studies: int, alpha: float, seed: int, margin: float | None = None, workers: int = 1
) -> dict[str, Rate]:
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
    judged = partial(_power_chunk, world, alpha, seed, margin)
    found = np.concatenate(list(each_of(judged, _chunks(studies), workers=workers)))
    names = ["run level", "case level", "better", *(["on par"] if margin is not None else [])]
    return {name: Rate(int(column.sum()), studies) for name, column in zip(names, found.T, strict=False)}


def null_world(world: World, null: Null) -> World:
    """The same sizes and spreads without a difference."""
    same = null != "other method, equal AUROC"
    spread_of_runs = 0.0 if null == "same method, runs equally good" else world.run_sd
    return replace(world, difference=0.0, same_method=same, run_sd=spread_of_runs)


def draw(world: World, generator: np.random.Generator) -> Study:
    """One study: which cases are positive, shape (cases,), and both arms' likelihoods, shape (runs, cases)."""
    ones = min(world.cases - 2, max(2, int(generator.binomial(world.cases, world.prevalence))))
    positive = np.arange(world.cases) < ones
    shared = generator.normal(0, np.sqrt(world.case_share), world.cases)
    methods = generator.normal(0, np.sqrt(world.method_share), (2, world.cases))
    arms = []
    for number in (0, 1):
        auroc = world.auroc + number * world.difference + generator.normal(0, world.run_sd, (world.runs, 1))
        separation = np.sqrt(2) * ndtri(np.clip(auroc, 1e-6, 1 - 1e-6))
        noise = generator.normal(0, np.sqrt(world.run_share), (world.runs, world.cases))
        arms.append(separation * positive + shared + methods[0 if world.same_method else number] + noise)
    return positive, arms[0], arms[1]


@dataclass(frozen=True)
class Spread:
    """Mean AUROC of an arm's runs or of a difference, and its variances by what is drawn anew."""

    runs: FloatArray  # AUROC of each run of the two arms, shape (2, runs)
    difference: float  # second minus first
    case_variance: float  # DeLong: cases alone, the runs taken as they are
    two_level_variance: float  # runs and cases, as the two-level bootstrap has it


def spread(positive: BoolArray, first: FloatArray, second: FloatArray) -> Spread:
    """Take a study's means and variances in closed form; likelihoods of shape (runs, cases), without ties."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    placements = []
    for arm in (first, second):
        ranks = _ranks(arm)
        of_ones = (ranks[:, positive] - _ranks(arm[:, positive])) / zeros
        of_zeros = 1 - (ranks[:, ~positive] - _ranks(arm[:, ~positive])) / ones
        placements.append((of_ones, of_zeros))
    means = [(of_ones.mean(axis=0), of_zeros.mean(axis=0)) for of_ones, of_zeros in placements]
    runs = np.stack([of_ones.mean(axis=1) for of_ones, _ in placements])
    case_variance = _case_variance(means[1][0] - means[0][0], means[1][1] - means[0][1])
    total = float(case_variance)
    for number, (of_ones, of_zeros) in enumerate(placements):
        own = _case_variance(of_ones - means[number][0], of_zeros - means[number][1])
        # runs, and cases as each run sees them; one run fewer is drawn than there are
        total += float(runs[number].var() + own.mean()) / max(1, len(of_ones) - 1)
    return Spread(runs, float(runs[1].mean() - runs[0].mean()), float(case_variance), total)


def _chunks(studies: int) -> list[tuple[int, int]]:
    return [(number, min(_CHUNK, studies - first)) for number, first in enumerate(range(0, studies, _CHUNK))]


def _test_chunk(world: World, alpha: float, seed: int, replicates: int, chunk: tuple[int, int]) -> BoolArray:
    """Which of :data:`RATES` found a difference, shape (studies, rates)."""
    number, studies = chunk
    generator = stream(seed, "false positives", str(number))
    return np.array([_tests(draw(world, generator), alpha, replicates, generator) for _ in range(studies)])


def _tests(study: Study, alpha: float, replicates: int, generator: np.random.Generator) -> list[bool]:
    positive, first, second = study
    cases = positive.size
    truth = Truth(tuple(f"{case:06d}" for case in range(cases)), positive, np.zeros(cases, dtype=np.int64))
    arms = {"second": [_outcome(row) for row in second], "first": [_outcome(row) for row in first]}
    seed = int(generator.integers(2**31))
    aurocs = spread(positive, first, second).runs
    run_p = order_test(aurocs[1].tolist(), aurocs[0].tolist()).p
    swap = case_swap_tests(truth, arms["second"], arms["first"], draws=1_000, seed=seed)["auroc"]
    draws = two_level_bootstrap(truth, arms, replicates=replicates, seed=seed)
    interval = _excludes(draws["second"]["auroc"] - draws["first"]["auroc"], alpha)
    single = two_level_bootstrap(
        truth, {name: outcomes[:1] for name, outcomes in arms.items()}, replicates=replicates, seed=seed
    )
    excludes_0 = interval is not None and (interval.low > 0 or interval.high < 0)
    code = decide(
        estimate=swap.statistic,
        interval=interval,
        run_level_p_holm=run_p,
        case_level_p_holm=swap.p,
        run_level_applies=True,
        spread_known=True,
        equivalent=False,
        alpha=alpha,
    )
    alone = _excludes(single["second"]["auroc"] - single["first"]["auroc"], alpha)
    return [
        run_p <= alpha,
        swap.p <= alpha,
        swap.p <= alpha and excludes_0,
        code in ("better", "worse"),
        alone is not None and (alone.low > 0 or alone.high < 0),
    ]


def _power_chunk(world: World, alpha: float, seed: int, margin: float | None, chunk: tuple[int, int]) -> BoolArray:
    number, studies = chunk
    generator = stream(seed, "power", str(number))
    critical = NormalDist().inv_cdf(1 - alpha / 2)
    one_sided = NormalDist().inv_cdf(1 - alpha)
    found = []
    for _ in range(studies):
        study = spread(*draw(world, generator))
        reach = float(np.sqrt(study.two_level_variance))
        at_run_level = order_test(study.runs[1].tolist(), study.runs[0].tolist()).p <= alpha and study.difference > 0
        at_case_level = study.difference > critical * float(np.sqrt(study.case_variance))
        better = at_run_level and at_case_level and study.difference > critical * reach
        on_par = margin is not None and abs(study.difference) + one_sided * reach < margin
        found.append([at_run_level, at_case_level, better, on_par])
    return np.array(found)


def _outcome(likelihood: FloatArray) -> Outcome:
    nothing = np.zeros(0, dtype=np.int64)
    return Outcome(likelihood, nothing, np.zeros(0), np.zeros(0, dtype=np.bool_))


def _excludes(draws: FloatArray, alpha: float) -> Interval95 | None:
    found = percentile_interval(draws, level=1 - alpha)
    return None if found is None else Interval95(low=found.low, high=found.high, undefined_replicates=found.undefined)


def _ranks(values: FloatArray) -> FloatArray:
    """Rank of each value in its row, from 1."""
    order = np.argsort(values, axis=1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, values.shape[1] + 1)[None, :], axis=1)
    return ranks


def _case_variance(of_ones: FloatArray, of_zeros: FloatArray) -> FloatArray:
    """DeLong's variance of a mean of placements; shape (..., cases of a class)."""
    return np.asarray(
        of_ones.var(axis=-1, ddof=1) / of_ones.shape[-1] + of_zeros.var(axis=-1, ddof=1) / of_zeros.shape[-1]
    )
