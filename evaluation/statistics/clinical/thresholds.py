"""Operating points of runs whose thresholds were chosen on validation cases.

A threshold is chosen for each run on its own validation cases, or on the test set where there are none, which is
optimistic. Intervals take the thresholds as fixed: their variation between runs counts, that with other validation
cases does not. On the test set every run has the wanted specificity or sensitivity by construction, so its equality
over runs says nothing about run × case variation, which is then counted with the cases.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from contract.text import first_few, short_hash
from evaluation.metrics.operating_points import threshold_of_sensitivity, threshold_of_specificity
from evaluation.metrics.outcomes import BoolArray, FloatArray
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import find_scored_runs, read_scored_runs
from evaluation.statistics.clinical_records import Aim, Estimate, OperatingPoint
from evaluation.statistics.variance.estimates import Estimator, Ratio, ratio

AIMS: tuple[tuple[Aim, float], ...] = (("specificity", 0.90), ("sensitivity", 0.90))


def read_validation(folders: Sequence[Path], runs: Sequence[ScoredRun]) -> dict[str, ScoredRun]:
    """The run on validation cases of each test run, by the test run's name; others are left out.

    Parameters
    ----------
    folders
        Scored runs, or folders of them; folds may have different cases.
    runs
        Runs on the test set.

    Raises
    ------
    OncoduetError
        A test run has none or several; a card differs; its cases are those of the test set, or all of one class.
    """
    found: dict[object, tuple[Path, ScoredRun]] = {}
    wanted = {_key(run) for run in runs}
    for folder in [each for path in folders for each in find_scored_runs(path)]:
        run = read_scored_runs([folder])[0]
        key = _key(run)
        if key not in wanted:
            continue
        if key in found:
            raise OncoduetError(folder, f"duplicate run {run.name}, also in {found[key][0]}")
        _require_fit(folder, run, runs[0])
        found[key] = folder, run
    missing = [run.name for run in runs if _key(run) not in found]
    if missing:
        raise OncoduetError(
            ", ".join(map(str, folders[:3])),
            f"no scored run on validation cases for {first_few(missing, 3)}",
        )
    return {run.name: found[_key(run)][1] for run in runs}


def notes_on_validation(validation: Mapping[str, ScoredRun], runs: Sequence[ScoredRun]) -> tuple[str, ...]:
    """Limitations of thresholds from these validation cases."""
    if not validation:
        return ()
    ids = set(runs[0].truth.case_ids)
    shared = {case for run in validation.values() for case in run.truth.case_ids if case in ids}
    trained = [name for name, run in validation.items() if run.trained_on]
    unknown = [name for name, run in validation.items() if run.trained_on is None and not run.is_baseline]
    notes = []
    if shared:
        notes.append(f"{len(shared)} ids of validation cases, such as {min(shared)}, are also in the test set.")
    if trained:
        notes.append(f"Some validation cases were trained on by {first_few(trained, 3)}.")
    if unknown:
        notes.append(f"Whether validation cases were trained on is not known for {first_few(unknown, 3)}.")
    return tuple(notes)


def operating_point(
    aim: Aim,
    at_least: float,
    runs: Sequence[ScoredRun],
    chosen_on: Sequence[ScoredRun],
    *,
    estimator: Estimator,
    prevalence: float | None,
) -> OperatingPoint:
    """One configuration's operating point on the test set, which has both classes.

    Parameters
    ----------
    chosen_on
        For each run, the run that its threshold is chosen on.
    prevalence
        Stated prevalence for the predictive values.
    """
    choose = threshold_of_specificity if aim == "specificity" else threshold_of_sensitivity
    thresholds = [choose(run.truth.positive, run.outcome.likelihood, at_least) for run in chosen_on]
    truth = runs[0].truth
    called = np.stack([run.outcome.likelihood >= each for run, each in zip(runs, thresholds, strict=True)])
    positive = truth.positive
    sensitivity = [_share(ratio(truth, row & positive, positive)) for row in called]
    specificity = [_share(ratio(truth, ~row & ~positive, ~positive)) for row in called]
    fixed = estimator
    if all(run is other for run, other in zip(runs, chosen_on, strict=True)):
        fixed = estimator.brought_to_one_value()
    by_aim = {name: fixed if name == aim else estimator for name in ("sensitivity", "specificity")}
    has_lesions = truth.lesion_count > 0 and runs[0].strict.ap is not None
    lesions, false = [], []
    for run, threshold in zip(runs, thresholds, strict=True):
        reached = run.outcome.confidence >= threshold
        hits, others = (
            np.bincount(run.outcome.candidate_case[reached & kind], minlength=positive.size).astype(np.float64)
            for kind in (run.outcome.hit, ~run.outcome.hit)
        )
        lesions.append(ratio(truth, hits, truth.lesions.astype(np.float64)))
        false.append(ratio(truth, others, np.ones(positive.size)))
    values: list[Estimate | None] = [None, None]
    if prevalence is not None:
        values = _predictive_values(sensitivity, specificity, prevalence, fixed)
    return OperatingPoint(
        aim=aim,
        at_least=at_least,
        thresholds={run.name: each for run, each in zip(runs, thresholds, strict=True)},
        sensitivity=_defined(by_aim["sensitivity"].of_ratios(sensitivity)),
        specificity=_defined(by_aim["specificity"].of_ratios(specificity)),
        true_positives=_mean_count(called & positive),
        false_negatives=_mean_count(~called & positive),
        false_positives=_mean_count(called & ~positive),
        true_negatives=_mean_count(~called & ~positive),
        ppv=fixed.of_ratios([ratio(truth, row & positive, row) for row in called]),
        npv=fixed.of_ratios([ratio(truth, ~row & ~positive, ~row) for row in called]),
        ppv_at_prevalence=values[0],
        npv_at_prevalence=values[1],
        lesion_sensitivity=by_aim["sensitivity"].of_ratios(lesions) if has_lesions else None,
        false_positives_per_case=fixed.of_ratios(false, share=False) if has_lesions else None,
    )


def _predictive_values(
    sensitivity: Sequence[Ratio], specificity: Sequence[Ratio], prevalence: float, estimator: Estimator
) -> list[Estimate | None]:
    """PPV and NPV at a prevalence by Bayes' rule, their influences by the delta method."""
    ppv = [by_bayes(yes, no, prevalence) for yes, no in zip(sensitivity, specificity, strict=True)]
    npv = [by_bayes(no, yes, 1 - prevalence) for yes, no in zip(sensitivity, specificity, strict=True)]
    found: list[Estimate | None] = []
    for pairs in (ppv, npv):
        defined = [each for each in pairs if each is not None]
        whole = len(defined) == len(pairs)
        found.append(estimator.of_share([v for v, _ in defined], [i for _, i in defined]) if whole else None)
    return found


def by_bayes(right: Ratio, other: Ratio, share: float) -> tuple[float, FloatArray] | None:
    """``right·share / (right·share + (1 − other)(1 − share))`` with its influence."""
    true, false = right.value * share, (1 - other.value) * (1 - share)
    if not true + false:
        return None
    moved = (false * share * right.influence + true * (1 - share) * other.influence) / (true + false) ** 2
    return true / (true + false), moved


def _key(run: ScoredRun) -> tuple[object, ...]:
    """Configuration, fold and restart; where these are not known, what was trained."""
    source = run.source
    known = source.fold is not None and source.restart is not None
    return source.configuration, source.fold, source.restart, None if known else frozenset(source.runs)


def _require_fit(folder: Path, run: ScoredRun, test: ScoredRun) -> None:
    if run.source.card_sha256 != test.source.card_sha256:
        raise OncoduetError(
            folder, expected=f"the card of the test set ({short_hash(test.source.card_sha256)})",
            found=short_hash(run.source.card_sha256),
        )  # fmt: skip
    if run.truth.case_ids == test.truth.case_ids:
        raise OncoduetError(folder, "its cases are those of the test set")
    if not 0 < run.truth.positive_count < len(run.truth.case_ids):
        raise OncoduetError(
            folder,
            expected="positive and negative validation cases",
            found=f"{run.truth.positive_count} positive of {len(run.truth.case_ids)}",
        )


def _mean_count(called: BoolArray) -> float:
    return float(called.sum(axis=1).mean())


def _share(found: Ratio | None) -> Ratio:
    assert found is not None  # both classes occur
    return found


def _defined(found: Estimate | None) -> Estimate:
    assert found is not None
    return found
