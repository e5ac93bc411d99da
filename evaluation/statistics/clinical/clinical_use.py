"""Clinical use of each configuration: operating points, calibration, net benefit, partial AUROC.

Each is a mean over runs with its interval for new runs and cases, by the influence of each patient
(:mod:`evaluation.statistics.variance.runs_and_cases`); nothing is tested.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from contract.errors import OncoduetError
from evaluation.metrics.calibration import calibration_error, recalibration
from evaluation.metrics.decision_curve import THRESHOLDS_OF_TABLE, benefit_of_cases, net_benefit_of_all
from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet
from evaluation.metrics.partial_auroc import partial_auroc
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.weighted_metrics import weighted_ap
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.clinical.thresholds import AIMS, notes_on_validation, operating_point
from evaluation.statistics.clinical_records import (
    Aim,
    CalibrationSummary,
    Clinical,
    ClinicalConfiguration,
    Estimate,
    NetBenefit,
    TreatAll,
)
from evaluation.statistics.variance.arms import Arm
from evaluation.statistics.variance.estimates import Estimator, ratio, scaled
from evaluation.statistics.variance.influence import ap_derivative, sum_by_patient


def describe_clinically(
    arms: Mapping[str, Arm], truth: TestSet, plan: Analysis, validation: Mapping[str, ScoredRun]
) -> Clinical | None:
    """Describe every configuration; None where the test set has one class only.

    Parameters
    ----------
    validation
        The run on validation cases of each run, by its name; empty: thresholds are chosen on the test set.

    Raises
    ------
    OncoduetError
        There are validation runs, but one class on the test set.
    """
    share = truth.positive_count / len(truth.case_ids)
    if not 0 < share < 1:
        if validation:
            raise OncoduetError("--validation", "the test set lacks positive or negative cases")
        return None
    runs = [run for arm in arms.values() for run in arm.runs]
    partial = plan.partial_auroc
    benefit = net_benefit_of_all(share, THRESHOLDS_OF_TABLE)
    return Clinical(
        thresholds_from="validation" if validation else "test set",
        validation={name: run.metrics_sha256 for name, run in validation.items()},
        notes=notes_on_validation(validation, runs),
        test_prevalence=share,
        prevalence=plan.prevalence,
        partial_of=partial.of,
        partial_at_least=partial.at_least,
        treat_all=tuple(
            TreatAll(threshold=float(each), net_benefit=float(value))
            for each, value in zip(THRESHOLDS_OF_TABLE, benefit, strict=True)
        ),
        configurations=tuple(_describe(arm, truth, plan, validation) for arm in arms.values()),
    )


def prevalence_weights(truth: TestSet, prevalence: float) -> FloatArray:
    """Case weights of mean 1 that give the test set a prevalence."""
    share = truth.positive_count / len(truth.case_ids)
    return np.where(truth.positive, prevalence / share, (1 - prevalence) / (1 - share))


def ap_at_prevalence(truth: TestSet, outcome: Outcome, prevalence: float) -> tuple[float, FloatArray]:
    """AP with cases weighted to a fixed prevalence, and its influence by patient."""
    weights = prevalence_weights(truth, prevalence)
    moved = weights * ap_derivative(truth, outcome, weights)
    for kind in (truth.positive, ~truth.positive):
        moved[kind] -= moved[kind].mean()
    ill = np.unique(truth.patients[truth.lesions > 0]).size
    influence = sum_by_patient(truth, moved) * math.sqrt(ill / max(1, ill - 1))
    return float(weighted_ap(truth, outcome, weights[None])[0]), influence


def partial_auroc_of(truth: TestSet, likelihood: FloatArray, of: Aim, at_least: float) -> tuple[float, FloatArray]:
    """Standardised partial AUROC from a specificity or sensitivity upwards, and its influence by patient."""
    if of == "specificity":
        area, derivative = partial_auroc(truth.positive, likelihood, at_least)
    else:
        area, derivative = partial_auroc(~truth.positive, -likelihood, at_least)
    ones, zeros = truth.positive_count, len(truth.case_ids) - truth.positive_count
    count = np.where(truth.positive, ones, zeros)
    return area, sum_by_patient(truth, derivative * np.sqrt(count / np.maximum(1, count - 1)))


def _describe(arm: Arm, truth: TestSet, plan: Analysis, validation: Mapping[str, ScoredRun]) -> ClinicalConfiguration:
    estimator = Estimator(truth.positive_patients, arm.is_single, plan.alpha)
    likelihoods = [run.outcome.likelihood for run in arm.runs]
    are_probabilities = all(each.max() <= 1 for each in likelihoods)
    partial = [
        partial_auroc_of(truth, each, plan.partial_auroc.of, plan.partial_auroc.at_least) for each in likelihoods
    ]
    chosen_on = [validation.get(run.name, run) for run in arm.runs]
    at_prevalence = None
    if plan.prevalence is not None and truth.lesion_count and arm.runs[0].strict.ap is not None:
        found = [ap_at_prevalence(truth, run.outcome, plan.prevalence) for run in arm.runs]
        at_prevalence = estimator.of_share(*_columns(found))
    return ClinicalConfiguration(
        name=arm.name,
        operating_points=tuple(
            operating_point(aim, at, arm.runs, chosen_on, estimator=estimator, prevalence=plan.prevalence)
            for aim, at in AIMS
        ),
        calibration=_calibration(truth, likelihoods, estimator) if are_probabilities else None,
        net_benefit=_net_benefit(truth, likelihoods, estimator) if are_probabilities else (),
        partial_auroc=estimator.of_share(*_columns(partial)),
        ap_at_prevalence=at_prevalence,
    )


def _calibration(truth: TestSet, likelihoods: Sequence[FloatArray], estimator: Estimator) -> CalibrationSummary:
    one = np.ones(truth.positive.size)
    brier = estimator.of_ratios([ratio(truth, (each - truth.positive) ** 2, one) for each in likelihoods])
    assert brier is not None
    errors = [calibration_error(truth.positive, each) for each in likelihoods]
    found = [recalibration(truth.positive, each) for each in likelihoods]
    fits: dict[str, Estimate | None] = dict.fromkeys(("slope", "intercept", "in_the_large"))
    defined = [each for each in found if each is not None]
    if len(defined) == len(found):
        for number, name in enumerate(fits):
            influence = [scaled(truth, each.influence[number]) for each in defined]
            fits[name] = estimator.of([getattr(each, name) for each in defined], influence)
    return CalibrationSummary(
        brier=brier,
        ece=estimator.of_share([error for error, _ in errors], [scaled(truth, moved) for _, moved in errors]),
        **fits,
    )


def _net_benefit(truth: TestSet, likelihoods: Sequence[FloatArray], estimator: Estimator) -> tuple[NetBenefit, ...]:
    found = []
    for threshold in map(float, THRESHOLDS_OF_TABLE):
        by_run = [benefit_of_cases(truth.positive, each, threshold) for each in likelihoods]
        means = [float(each.mean()) for each in by_run]
        moved = [scaled(truth, (each - each.mean()) / each.size) for each in by_run]
        found.append(NetBenefit(threshold=threshold, net_benefit=estimator.of(means, moved)))
    return tuple(found)


def _columns(found: Sequence[tuple[float, FloatArray]]) -> tuple[list[float], list[FloatArray]]:
    return [value for value, _ in found], [influence for _, influence in found]
