"""The run level of a comparison: which runs are exchangeable, within which folds, and the test of their order.

An ensemble is not exchangeable with its members, nor with an ensemble that shares members; nor is a baseline, which has
no runs. Such pairs are compared only at case level, and the reason is kept.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from evaluation.metrics.scored_runs import ScoredRun
from evaluation.statistics.analysis_file import Analysis, Metric
from evaluation.statistics.run_permutation import mean_difference_test, order_test, smallest_order_p
from evaluation.statistics.verdict import RunLevel


def run_level(metric: Metric, a: Sequence[ScoredRun], b: Sequence[ScoredRun], plan: Analysis) -> RunLevel:
    """Test two configurations' runs, unless they are not exchangeable; ``p_holm`` is set later."""
    alpha = plan.alpha_at(min(len(a), len(b)))
    values = [run_values(arm, metric) for arm in (a, b)]
    defined = [[value for value in arm if value is not None] for arm in values]
    folds = common_folds(known_folds(a), known_folds(b))
    smallest = None
    reason = no_exchange(a, b) or no_common_fold(a, b)
    if reason is None and any(len(arm) < len(all_of) for arm, all_of in zip(defined, values, strict=True)):
        reason = f"{metric} is undefined on this test set"
    if reason is None:
        smallest = smallest_order_p(len(a), len(b), folds=folds)
        if smallest == 1:
            reason = "with one run per configuration there is nothing to permute"
    if reason is not None:
        return RunLevel(
            p=None,
            smallest_attainable_p=smallest,
            p_holm=None,
            alpha=alpha,
            p_of_means=None,
            blocked_by_fold=False,
            reason=reason,
            folds=unknown_folds(a, b),
        )
    tested = order_test(defined[0], defined[1], folds=folds)
    return RunLevel(
        p=tested.p,
        probability_above=tested.statistic,
        smallest_attainable_p=smallest,
        p_holm=None,
        alpha=alpha,
        p_of_means=mean_difference_test(defined[0], defined[1], folds=folds, seed=plan.seed).p,
        blocked_by_fold=folds is not None,
        reason=None,
        folds=unknown_folds(a, b) or unequal_folds(a, b),
    )


def no_common_fold(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
    """Why the difference of the two configurations is confounded with that of their folds; None where it is not."""
    of_a, of_b = known_folds(a), known_folds(b)
    if not of_a or not of_b or set(of_a) & set(of_b):
        return None
    return "they share no fold, so that fold and configuration are confounded"


def unknown_folds(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
    """A note where the fold of a trained run is unknown; an ensemble's members may be of several."""
    names = {run.source.configuration: None for run in (*a, *b) if run.source.fold is None and not _has_none(run)}
    if not names:
        return None
    return f"the folds of {' and '.join(names)} are not all known: a difference may be one of folds"


def unequal_folds(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
    """A note where both arms' folds are known and their shares differ; None elsewhere."""
    of_a, of_b = known_folds(a), known_folds(b)
    if not of_a or not of_b or no_common_fold(a, b):
        return None
    shares = [{fold: Fraction(arm.count(fold), len(arm)) for fold in arm} for arm in (of_a, of_b)]
    if shares[0] == shares[1]:
        return None
    return (
        "the folds are not the same on both sides: the run level compares within the common ones, means and case level "
        "do not"
    )


def no_exchange(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
    """Why the two arms' runs are not exchangeable; None if they are."""
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


def common_folds(of_a: list[int], of_b: list[int]) -> tuple[list[int], list[int]] | None:
    """Each run's fold, where all are known, there are several, and the arms have one in common."""
    return (of_a, of_b) if len({*of_a, *of_b}) > 1 and set(of_a) & set(of_b) else None


def _has_none(run: ScoredRun) -> bool:
    return run.is_baseline or run.is_ensemble


def known_folds(runs: Sequence[ScoredRun]) -> list[int]:
    """Each run's fold, or nothing where one is not known."""
    folds = [run.source.fold for run in runs if run.source.fold is not None]
    return folds if len(folds) == len(runs) else []


def run_values(runs: Sequence[ScoredRun], metric: Metric) -> list[float | None]:
    """The strict metric of each run."""
    return [getattr(run.strict, metric) for run in runs]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust a family's p-values (Holm 1979); those that do not exist stay so and do not count."""
    present = np.array([p for p in p_values if p is not None])
    order = np.argsort(present, kind="stable")
    stepped_down = np.maximum.accumulate(present[order] * np.arange(present.size, 0, -1))
    adjusted = np.empty_like(present)
    adjusted[order] = np.minimum(stepped_down, 1.0)
    remaining = iter(adjusted.tolist())
    return [None if p is None else next(remaining) for p in p_values]
