"""Other hit criteria, against counts of voxels."""

import numpy as np
import pytest
from evaluation_makers import find_components, scene
from scipy.ndimage import center_of_mass, label

from evaluation.matching import strict
from evaluation.matching.cases import MatchingRule
from evaluation.matching.hit_criteria import HIT_CRITERIA, HitCriterion, holds_centre, match_with

RULE = MatchingRule(narrowest_link=1)


@pytest.mark.parametrize("reach", range(0, 40, 3))
@pytest.mark.parametrize("criterion", HIT_CRITERIA, ids=str)
def test_a_hit_is_what_the_criterion_says(criterion, reach):
    case, *_ = scene([(20, 40)], [(reach, reach + 15, 0.5)])
    candidate, lesion = set(range(reach, reach + 15)), set(range(20, 40))
    shared = len(candidate & lesion)
    value = {
        "iou": shared / len(candidate | lesion),
        "dice": 2 * shared / (len(candidate) + len(lesion)),
        "centre": float(reach + 7 in lesion),
    }[criterion.name]
    kinds = sorted(finding.kind for finding in match_with(case, RULE, criterion))
    assert kinds == (["tp"] if value >= (criterion.minimum or 1) else ["fn", "fp"])


def test_the_rules_own_criterion_gives_the_strict_findings():
    case, *_ = scene([(5, 20), (30, 40), (60, 80)], [(3, 12, 0.9), (14, 33, 0.8), (35, 38, 0.7), (62, 90, 0.6)])
    for rule in (RULE, MatchingRule(narrowest_link=1, overlap="dice", minimum_overlap=0.2)):
        own = HitCriterion(rule.overlap, rule.minimum_overlap)
        assert match_with(case, rule, own) == strict.match(case, rule)


def test_centres_are_those_of_scipy():
    rng = np.random.default_rng(0)
    lesions, candidates = rng.random((6, 9, 12)) > 0.7, rng.random((6, 9, 12)) > 0.9
    box = np.ones((3, 3, 3))
    of_lesions, count = label(lesions, box)
    of_candidates, others = label(candidates, box)
    expected = np.zeros((count, others))
    for number in range(others):
        centre = tuple(np.rint(center_of_mass(of_candidates == number + 1)).astype(int))
        if of_lesions[centre]:
            expected[of_lesions[centre] - 1, number] = 1
    assert expected.any()
    assert np.array_equal(holds_centre(find_components(lesions), find_components(candidates)), expected)


def test_nothing_hits_where_there_is_no_lesion_or_no_candidate():
    centre = HIT_CRITERIA[-1]
    alone, *_ = scene([], [(1, 5, 0.5)])
    missed, *_ = scene([(1, 5)], [])
    assert [finding.kind for finding in match_with(alone, RULE, centre)] == ["fp"]
    assert [finding.kind for finding in match_with(missed, RULE, centre)] == ["fn"]
