"""Where grand-challenge-metrics computes the same: overlap of two masks, and the bootstrap of one run's AUROC."""

import numpy as np
import pytest
from evaluation_makers import find_components
from grand_challenge_metrics.roc import get_bootstrapped_roc_ci_curves
from grand_challenge_metrics.stats import (
    calculate_confusion_matrix,
    dice_from_confusion_matrix,
    jaccard_from_confusion_matrix,
)

from evaluation.matching.cases import Case, MatchingRule
from evaluation.matching.strict import overlaps
from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.statistics.variance.arms import interval_of_mean
from evaluation.statistics.variance.influence import by_patient

SHAPE = (6, 20, 20)


def a_box(rng):
    """A box of random place and size."""
    mask = np.zeros(SHAPE, bool)
    low = [rng.integers(0, length - 4) for length in SHAPE]
    mask[tuple(slice(start, start + int(rng.integers(2, 9))) for start in low)] = True
    return mask


@pytest.mark.parametrize(
    ("overlap", "of_matrix"), [("iou", jaccard_from_confusion_matrix), ("dice", dice_from_confusion_matrix)]
)
def test_overlaps_are_those_of_the_confusion_matrix(overlap, of_matrix):
    """But for 1e-8, which theirs adds so as not to divide by 0."""
    rng, met = np.random.default_rng(0), 0
    for _ in range(50):
        lesion, candidate = a_box(rng), a_box(rng)
        case = Case(find_components(lesion), find_components(candidate), np.ones(1), np.float32(1), 1.0)
        expected = of_matrix(calculate_confusion_matrix(lesion, candidate, [0, 1]))[1]
        assert overlaps(case, MatchingRule(overlap=overlap, narrowest_link=1))[0, 0] == pytest.approx(
            expected, abs=1e-7
        )
        met += expected > 0
    assert met > 10


def test_the_interval_of_one_run_is_that_of_its_bootstrap():
    """Theirs never draws the last case, so one more stands there."""
    rng = np.random.default_rng(1)
    positive = np.arange(400) % 3 == 0
    likelihood = rng.normal(0, 1, 400) + positive
    truth = TestSet(tuple(f"{i:03d}_1" for i in range(400)), positive, positive.astype(int))
    nothing = np.empty(0, int)
    outcome = Outcome(likelihood, nothing, nothing.astype(float), nothing.astype(bool))
    auroc = by_patient(truth, [outcome])["auroc"]
    ours = interval_of_mean(auroc, truth.positive_patients, fixed=True, level=0.95)
    theirs = get_bootstrapped_roc_ci_curves(
        np.append(likelihood, likelihood[0]), np.append(positive, positive[0]), num_bootstraps=4000
    )
    assert ours.low == pytest.approx(theirs.low_az_val, abs=0.006)
    assert ours.high == pytest.approx(theirs.high_az_val, abs=0.006)
