from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.metrics.operating_points import (
    called,
    discordant_cases,
    lesion_sensitivity,
    operating_points,
    sensitivity_at,
    specificity_at,
)
from evaluation.metrics.outcomes import Outcome, TestSet


class Run:
    """The parts of a scored run that readings look at: three positive cases, ten negative ones."""

    def __init__(self, likelihood, confidence=(), hit=(), lesions=None, name="run"):
        self.name = name
        positive = np.arange(13) < 3
        self.truth = TestSet(
            tuple(f"{k:02d}" for k in range(13)), positive, positive * 1 if lesions is None else lesions
        )
        case = np.zeros(len(confidence), dtype=int)
        self.outcome = Outcome(np.array(likelihood), case, np.array(confidence), np.array(hit, dtype=bool))
        self.strict = SimpleNamespace(ap=0.5)


def test_operating_points_of_a_table_worked_by_hand():
    # negatives 0.0 to 0.9; at specificity 0.9 nine of ten lie at or below 0.8, and what is above 0.8 is called
    run = Run([0.95, 0.85, 0.35, *np.arange(10) / 10])
    assert sensitivity_at(run, 0.9) == pytest.approx(2 / 3)
    assert called(run, 0.9).tolist() == [True, True, False, *[False] * 9, True]
    assert specificity_at(run, 0.9) == pytest.approx(0.4)  # all three positives needed: 0.35 and up
    assert specificity_at(run, 0.6) == pytest.approx(0.9)  # two of three: 0.85 and up


def test_lesion_sensitivity_stops_before_one_false_positive_too_many():
    # 13 cases: 1/8 per case allows one false positive, so confidences above the second (0.6) count
    run = Run(np.zeros(13), [0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, False, True])
    assert lesion_sensitivity(run, 0.125) == pytest.approx(2 / 3)
    assert lesion_sensitivity(run, 0.01) == pytest.approx(1 / 3)
    assert lesion_sensitivity(run, 8) == 1
    tied = Run(np.zeros(13), [0.9, 0.9], [True, False])
    assert lesion_sensitivity(tied, 0.01) == 0  # the hit cannot be had without its equal


def test_points_are_averaged_over_runs_and_absent_where_undefined():
    runs = [Run([0.95, 0.85, 0.35, *np.arange(10) / 10]), Run([0.95, 0.85, 0.95, *np.arange(10) / 10])]
    found = operating_points(runs).sensitivity_at_specificity
    assert (found.mean, found.sd) == pytest.approx((5 / 6, np.std([2 / 3, 1], ddof=1)))
    assert operating_points(runs[:1]).sensitivity_at_specificity.sd is None
    nothing = operating_points([Run(np.zeros(13), lesions=np.zeros(13, dtype=int))])
    assert set(nothing.lesion_sensitivity.values()) == {None}


def test_discordant_cases_are_correct_in_some_runs_only():
    negatives = np.arange(10) / 10
    runs = [Run([0.95, high, 0.1, *negatives]) for high in (0.85, 0.2, 0.3)]
    (found,) = discordant_cases("ce", runs)
    assert (found.case_id, found.positive, found.right, found.runs) == ("01", True, 1, 3)
    assert found.likelihoods == (0.2, 0.85)
    assert discordant_cases("ce", runs[:1]) == []


def test_discordant_cases_follow_thresholds_chosen_elsewhere():
    runs = [Run([0.95, high, 0.85, *np.arange(10) / 10], name=f"{high}") for high in (0.85, 0.7)]
    (found,) = discordant_cases("ce", runs, {"0.85": 0.82, "0.7": 0.82})
    assert (found.case_id, found.right) == ("01", 1)
    # both runs call the negative of 0.8 and all positives from 0.65, so that the runs agree
    assert discordant_cases("ce", runs, {"0.85": 0.65, "0.7": 0.65}) == []
    # the thresholds belong to the runs: 0.88 misses both of 0.85 in the first, 0.65 finds all in the second
    by_run = discordant_cases("ce", runs, {"0.85": 0.88, "0.7": 0.65})
    assert {case.case_id for case in by_run if case.positive} == {"01", "02"}
