"""Intervals: a two-level bootstrap over runs and cases for every metric, and DeLong's for AUROC.

A replicate draws patients (with all their cases) and, within each configuration, runs; both with replacement and
crossed. One draw of the patients serves all configurations, so that every difference is paired. Intervals are
percentiles. Replicates without a positive or without a negative case leave a metric undefined: they are left out and
counted.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import NormalDist

import numpy as np

from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet, weighted_ap, weighted_auroc
from evaluation.metrics.placements import placements
from evaluation.statistics.parallel import each_of

_BLOCK = 500
"""Replicates at a time: bounds the memory, changes no result."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval, with the replicates that had to be left out."""

    low: float
    high: float
    undefined: int


def two_level_bootstrap(
    truth: TestSet, configurations: Mapping[str, Sequence[Outcome]], *, replicates: int, seed: int, workers: int = 1
) -> dict[str, dict[str, FloatArray]]:
    """Resample every configuration's mean AUROC, AP and score.

    A configuration's draws depend on its own name and runs, the truth and the seed; not on other configurations.

    Parameters
    ----------
    configurations
        The outcomes of each configuration's runs, by its name.
    workers
        Processes; the result does not depend on them.

    Returns
    -------
    By configuration and metric (``auroc``, ``ap``, ``score``): the mean over the drawn runs in each replicate, shape
    (replicates,), NaN where undefined. Replicate k has the same patients in all of them.
    """
    runs = [outcome for outcomes in configurations.values() for outcome in outcomes]
    values = each_of(partial(_of_run, truth, replicates, seed), runs, workers=workers)
    draws = {}
    for name, outcomes in configurations.items():
        auroc, ap = (np.stack(found) for found in zip(*islice(values, len(outcomes)), strict=True))
        share = _run_shares(len(outcomes), replicates, stream(seed, "runs", name))
        per_run = {"auroc": auroc, "ap": ap, "score": (auroc + ap) / 2}
        draws[name] = {metric: (share * each).sum(axis=0) for metric, each in per_run.items()}
    return draws


def percentile_interval(draws: FloatArray, *, level: float) -> Interval | None:
    """The central interval that holds ``level`` of the defined draws, or None when none is defined."""
    defined = draws[np.isfinite(draws)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), int(draws.size - defined.size))


def delong_interval(
    truth: TestSet, first: Sequence[Outcome], second: Sequence[Outcome] = (), *, level: float
) -> tuple[float, float] | None:
    """DeLong's interval for the mean AUROC of some runs, or for the difference of two such means.

    The runs are taken as they are: only the cases vary. The mean over runs has the mean of their kernels, so the
    formula holds for it unchanged (DeLong, DeLong & Clarke-Pearson, Biometrics 1988).

    Returns
    -------
    Low and high, not clipped; None where a class has fewer than two cases or a patient has several.
    """
    if min(truth.positive_count, len(truth.case_ids) - truth.positive_count) < 2:
        return None
    if truth.patient_count < len(truth.case_ids):
        return None
    of_positives, of_negatives = _mean_placements(truth, first)
    if second:
        others = _mean_placements(truth, second)
        of_positives, of_negatives = of_positives - others[0], of_negatives - others[1]
    variance = of_positives.var(ddof=1) / of_positives.size + of_negatives.var(ddof=1) / of_negatives.size
    centre = float(of_positives.mean())
    reach = NormalDist().inv_cdf((1 + level) / 2) * float(np.sqrt(variance))
    return centre - reach, centre + reach


def stream(seed: int, *names: str) -> np.random.Generator:
    """A random stream per purpose, independent of what else is computed."""
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def case_weights(truth: TestSet, replicates: int, seed: int) -> FloatArray:
    """How often each replicate draws each case, shape (replicates, cases)."""
    patients = truth.patient_count
    drawn = stream(seed, "patients").multinomial(patients, np.full(patients, 1 / patients), size=replicates)
    return drawn[:, truth.patients].astype(np.float64)


def _run_shares(runs: int, replicates: int, generator: np.random.Generator) -> FloatArray:
    """Weight of each run in each replicate's mean, shape (runs, replicates).

    One run fewer is drawn than there are: the mean then varies as much as the runs' variance says, where drawing all
    of them would make it vary too little, by half for two runs (Rao & Wu, JASA 1988).
    """
    drawn = max(1, runs - 1)
    return generator.multinomial(drawn, np.full(runs, 1 / runs), size=replicates).T / drawn


def _of_run(truth: TestSet, replicates: int, seed: int, outcome: Outcome) -> tuple[FloatArray, FloatArray]:
    """One run's AUROC and AP in each replicate."""
    weights = case_weights(truth, replicates, seed)
    blocks = [weights[start : start + _BLOCK] for start in range(0, replicates, _BLOCK)]
    auroc = np.concatenate([weighted_auroc(truth, outcome.likelihood, block) for block in blocks])
    return auroc, np.concatenate([weighted_ap(truth, outcome, block) for block in blocks])


def _mean_placements(truth: TestSet, outcomes: Sequence[Outcome]) -> tuple[FloatArray, FloatArray]:
    """Placements of the positive and of the negative cases, averaged over the runs."""
    found = np.zeros(len(truth.case_ids))
    for outcome in outcomes:
        found += placements(truth.positive, outcome.likelihood)
    found /= len(outcomes)
    return found[truth.positive], found[~truth.positive]
