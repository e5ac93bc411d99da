"""The run level of a comparison: whether two configurations' runs rank differently on this test set.

Runs are shuffled between the configurations, within folds where these are known; runs of folds that the other lacks are
left out, as its cases' difficulty is that of the fold. An ensemble that contains the runs it
is compared with, or that shares runs with a sibling, is not exchangeable with them; nor is a baseline, which has no
runs. Such pairs have no run level, and the reason is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.metrics.scored_run import ScoredRun
from evaluation.statistics.analysis_file import METRIC_NAMES, Analysis, Metric
from evaluation.statistics.conclusions import DISAGREE, NO_ORDER, ON_THIS_TEST_SET, TOO_FEW_TO_ORDER, is_shown
from evaluation.statistics.resampling.run_permutation import mean_difference_test, order_test, smallest_order_p
from evaluation.statistics.variance.pairing import NO_COMMON_FOLD, known_folds
from evaluation.statistics.verdict_records import RunLevel


@dataclass(frozen=True)
class RunValues:
    """One metric of a configuration's runs."""

    configuration: str
    runs: Sequence[str]
    """Names of the runs."""
    values: Sequence[float | None]
    """Value of each run; None where the metric is undefined."""
    folds: Sequence[int]
    """Fold of each run; empty where not all are known."""

    def of_folds(self, folds: set[int]) -> "RunValues":
        """Only the runs of some folds."""
        kept = [number for number, fold in enumerate(self.folds) if fold in folds]
        return replace(
            self,
            runs=[self.runs[number] for number in kept],
            values=[self.values[number] for number in kept],
            folds=[self.folds[number] for number in kept],
        )

    @property
    def defined(self) -> list[float]:
        """The values that exist."""
        return [value for value in self.values if value is not None]


def values_of(runs: Sequence[ScoredRun], metric: Metric) -> RunValues:
    """The strict metric of scored runs."""
    return RunValues(
        configuration=runs[0].source.configuration,
        runs=tuple(run.name for run in runs),
        values=tuple(getattr(run.strict, metric) for run in runs),
        folds=known_folds(runs),
    )


def run_level(metric: Metric, a: RunValues, b: RunValues, plan: Analysis, *, reason: str | None = None) -> RunLevel:
    """Test two configurations' runs; ``p_holm`` and ``sentence`` are left open.

    Parameters
    ----------
    reason
        Why their design forbids the test, if it does (:func:`no_exchange`).
    """
    alpha = plan.level_at([len(a.runs), len(b.runs)])
    pooled = a, b
    a, b = on_common_folds(a, b)
    if reason is None and a.folds and b.folds and not set(a.folds) & set(b.folds):
        reason = NO_COMMON_FOLD
    if reason is None and any(len(arm.defined) < len(arm.values) for arm in pooled):
        reason = f"{METRIC_NAMES[metric]} is undefined on this test set"
    folds = common_folds(a.folds, b.folds)
    smallest = smallest_order_p(len(a.runs), len(b.runs), folds=folds) if reason is None else None
    if smallest == 1:
        reason = "with one run per configuration there is nothing to permute"
    if reason is not None:
        return RunLevel(
            p=None,
            p_holm=None,
            smallest_attainable_p=smallest,
            alpha=alpha,
            p_of_means=None,
            blocked_by_fold=False,
            reason=reason,
        )
    tested = order_test(a.defined, b.defined, folds=folds)
    return RunLevel(
        p=tested.p,
        p_holm=None,
        p_one_sided=_one_sided(*pooled, None),
        p_one_sided_within_folds=_one_sided(a, b, folds) if folds else {},
        probability_above=tested.statistic,
        smallest_attainable_p=smallest,
        alpha=alpha,
        p_of_means=mean_difference_test(a.defined, b.defined, folds=folds, seed=plan.seed).p,
        blocked_by_fold=folds is not None,
        reason=None,
    )


def on_common_folds(a: RunValues, b: RunValues) -> tuple[RunValues, RunValues]:
    """Both without the runs of folds that the other lacks; unchanged where folds are unknown, or none is common."""
    common = set(a.folds) & set(b.folds)
    return (a.of_folds(common), b.of_folds(common)) if common else (a, b)


def _one_sided(a: RunValues, b: RunValues, folds: tuple[Sequence[int], Sequence[int]] | None) -> dict[str, float]:
    turned = folds and (folds[1], folds[0])
    return {
        a.configuration: order_test(a.defined, b.defined, folds=folds, alternative="greater").p,
        b.configuration: order_test(b.defined, a.defined, folds=turned, alternative="greater").p,
    }


def common_folds(a: Sequence[int], b: Sequence[int]) -> tuple[Sequence[int], Sequence[int]] | None:
    """Each run's fold, where all are known, there are several, and the arms have one in common."""
    return (a, b) if len({*a, *b}) > 1 and set(a) & set(b) else None


def describe(level: RunLevel, a: RunValues, b: RunValues, *, looks: bool = False) -> str | None:
    """Sentence on what the run level shows; where the means favour the other side, also the run that decides them.

    Parameters
    ----------
    looks
        Whether alpha is the level of a look.
    """
    if level.p_holm is None or level.probability_above is None:
        return None
    a, b = on_common_folds(a, b)
    if level.smallest_attainable_p is not None and level.smallest_attainable_p > level.alpha:
        return TOO_FEW_TO_ORDER.format(at_look=" at this look" if looks else "")
    if not is_shown(level.p_holm, level.alpha) or level.probability_above == 0.5:
        return NO_ORDER
    favoured, other = (a, b) if level.probability_above > 0.5 else (b, a)
    names = {"favoured": favoured.configuration, "other": other.configuration}
    if np.mean(favoured.defined) >= np.mean(other.defined):
        return ON_THIS_TEST_SET.format(**names)
    return DISAGREE.format(**names, run=_farthest(a, b))


def no_exchange(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
    """Why the two arms' runs may not be shuffled, for any number of runs; None if they may."""
    if any(run.is_baseline for run in (*a, *b)):
        return "a baseline is a fixed rule without runs"
    if any(run.is_ensemble and not run.source.runs for run in (*a, *b)):
        return "the runs of the ensemble are not known"
    of_a, of_b = ({member for run in arm for member in run.source.runs} for arm in (a, b))
    if of_a & of_b:
        return "both contain the same runs: an ensemble is not exchangeable with its members"
    for arm, members in ((a, of_a), (b, of_b)):
        if sum(len(set(run.source.runs)) for run in arm) > len(members):
            return f"the ensembles of {arm[0].source.configuration} share runs with one another"
    return None


def _farthest(a: RunValues, b: RunValues) -> str:
    """The run farthest from the median of its arm."""
    return max(
        (abs(value - float(np.median(arm.defined))), run)
        for arm in (a, b)
        for run, value in zip(arm.runs, arm.defined, strict=True)
    )[1]
