"""The run level of a comparison: whether two configurations' runs rank differently on this test set.

Runs are shuffled between the configurations, within folds where these are known. An ensemble that contains the runs it
is compared with, or that shares runs with a sibling, is not exchangeable with them; nor is a baseline, which has no
runs. Such pairs have no run level, and the reason is kept.
"""

from collections.abc import Sequence

import numpy as np

from evaluation.metrics.scored_runs import ScoredRun
from evaluation.statistics.analysis_file import Analysis, Metric
from evaluation.statistics.pairing import NO_COMMON_FOLD, known_folds, share_a_fold
from evaluation.statistics.run_permutation import mean_difference_test, order_test, smallest_order_p
from evaluation.statistics.verdict import DISAGREE, NO_ORDER, ON_THIS_TEST_SET, RunLevel

Runs = Sequence[ScoredRun]


def run_level(metric: Metric, a: Runs, b: Runs, plan: Analysis) -> RunLevel:
    """Test two configurations' runs, unless their design forbids it; ``p_holm`` and ``sentence`` are left open."""
    alpha = plan.level_at([len(a), len(b)])
    values = [run_values(arm, metric) for arm in (a, b)]
    defined = [[value for value in arm if value is not None] for arm in values]
    folds = _folds(a, b)
    smallest = None
    reason = no_exchange(a, b) or (None if share_a_fold(a, b) else NO_COMMON_FOLD)
    if reason is None and any(len(arm) < len(all_of) for arm, all_of in zip(defined, values, strict=True)):
        reason = f"{metric} is undefined on this test set"
    if reason is None:
        smallest = smallest_order_p(len(a), len(b), folds=folds)
        if smallest == 1:
            reason = "one run per configuration leaves nothing to shuffle"
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
    tested = order_test(defined[0], defined[1], folds=folds)
    turned = None if folds is None else (folds[1], folds[0])
    return RunLevel(
        p=tested.p,
        p_holm=None,
        p_one_sided={
            a[0].source.configuration: order_test(defined[0], defined[1], folds=folds, alternative="greater").p,
            b[0].source.configuration: order_test(defined[1], defined[0], folds=turned, alternative="greater").p,
        },
        probability_above=tested.statistic,
        smallest_attainable_p=smallest,
        alpha=alpha,
        p_of_means=mean_difference_test(defined[0], defined[1], folds=folds, seed=plan.seed).p,
        blocked_by_fold=folds is not None,
        reason=None,
    )


def describe(level: RunLevel, metric: Metric, a: Runs, b: Runs) -> str | None:
    """What the run level shows, in its own direction; where the means favour the other side, which run decides them."""
    if level.p_holm is None or level.probability_above is None:
        return None
    if level.p_holm > level.alpha or level.probability_above == 0.5:
        return NO_ORDER
    favoured, other = (a, b) if level.probability_above > 0.5 else (b, a)
    names = {"favoured": favoured[0].source.configuration, "other": other[0].source.configuration}
    means = [np.mean([value for value in run_values(arm, metric) if value is not None]) for arm in (favoured, other)]
    if means[0] >= means[1]:
        return ON_THIS_TEST_SET.format(**names)
    return DISAGREE.format(**names, run=_farthest(metric, a, b))


def no_exchange(a: Runs, b: Runs) -> str | None:
    """Why the two arms' runs may not be shuffled, whatever their number; None if they may."""
    if any(run.is_baseline for run in (*a, *b)):
        return "a baseline is a fixed rule without runs"
    if any(run.is_ensemble and not run.source.runs for run in (*a, *b)):
        return "the ensemble does not say which runs it contains"
    of_a, of_b = ({member for run in arm for member in run.source.runs} for arm in (a, b))
    if of_a & of_b:
        return "both hold the same runs: an ensemble is not exchangeable with its members"
    for arm, members in ((a, of_a), (b, of_b)):
        if sum(len(set(run.source.runs)) for run in arm) > len(members):
            return f"the ensembles of {arm[0].source.configuration} share runs with one another"
    return None


def run_values(runs: Runs, metric: Metric) -> list[float | None]:
    """The strict metric of each run."""
    return [getattr(run.strict, metric) for run in runs]


def _farthest(metric: Metric, a: Runs, b: Runs) -> str:
    """The run farthest from the median of its arm."""
    distances = []
    for arm in (a, b):
        values = np.array([value for value in run_values(arm, metric) if value is not None])
        distances += [(abs(value - np.median(values)), run.name) for run, value in zip(arm, values, strict=True)]
    return max(distances)[1]


def _folds(a: Runs, b: Runs) -> tuple[list[int], list[int]] | None:
    """Each run's fold, where all are known, there are several, and the arms have one in common."""
    of_a, of_b = known_folds(a), known_folds(b)
    several = len({*of_a, *of_b}) > 1
    return (of_a, of_b) if several and set(of_a) & set(of_b) else None
