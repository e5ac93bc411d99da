"""The run level of a comparison: which runs may be shuffled against which, within which folds, and what comes out.

An ensemble that contains the runs it is compared with, or whose runs stand in a sibling too, is not exchangeable with
them; nor is a baseline, which has no runs. Such pairs are compared at case level alone, and the reason is kept.
"""

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests

from evaluation.analysis import Analysis, Metric
from evaluation.permutation import mean_difference_test, order_test, smallest_order_p
from evaluation.scored_runs import ScoredRun
from evaluation.verdict import RunLevel


def run_level(metric: Metric, a: Sequence[ScoredRun], b: Sequence[ScoredRun], plan: Analysis) -> RunLevel:
    """Test two configurations' runs, unless their design forbids it; ``p_holm`` is left open."""
    alpha = plan.alpha_at(min(len(a), len(b)))
    values = [run_values(arm, metric) for arm in (a, b)]
    defined = [[value for value in arm if value is not None] for arm in values]
    folds = _folds(a, b)
    smallest = None
    reason = no_exchange(a, b)
    if reason is None and any(len(arm) < len(all_of) for arm, all_of in zip(defined, values, strict=True)):
        reason = f"{metric} is undefined on this test set"
    if reason is None:
        smallest = smallest_order_p(len(a), len(b), folds=folds)
        if smallest == 1:
            reason = "one run per configuration leaves nothing to shuffle"
    if reason is not None:
        return RunLevel(
            p=None,
            smallest_attainable_p=smallest,
            p_holm=None,
            alpha=alpha,
            p_of_means=None,
            blocked_by_fold=False,
            reason=reason,
        )
    return RunLevel(
        p=order_test(defined[0], defined[1], folds=folds).p,
        smallest_attainable_p=smallest,
        p_holm=None,
        alpha=alpha,
        p_of_means=mean_difference_test(defined[0], defined[1], folds=folds, seed=plan.seed).p,
        blocked_by_fold=folds is not None,
        reason=None,
    )


def no_exchange(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
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


def _folds(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> tuple[list[int], list[int]] | None:
    """Each run's fold, where all are known, there are several, and the arms have one in common."""
    of_a, of_b = ([run.source.fold for run in arm if run.source.fold is not None] for arm in (a, b))
    known = len(of_a) == len(a) and len(of_b) == len(b)
    several = len(set(of_a) | set(of_b)) > 1
    return (of_a, of_b) if known and several and set(of_a) & set(of_b) else None


def run_values(runs: Sequence[ScoredRun], metric: Metric) -> list[float | None]:
    """The strict metric of each run."""
    return [getattr(run.strict, metric) for run in runs]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust a family's p-values; those that do not exist stay so and do not count."""
    present = [p for p in p_values if p is not None]
    if not present:
        return list(p_values)
    adjusted = iter(multipletests(present, method="holm")[1].tolist())
    return [None if p is None else float(next(adjusted)) for p in p_values]
