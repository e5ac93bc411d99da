"""Strict matching against brute force, and against picai-eval where the two differ."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from evaluation_makers import case_of, scene
from picai_eval import evaluate as oracle

from evaluation.matching import picai, strict
from evaluation.matching.cases import MatchingRule


def of_kind(findings, kind):
    return [each.confidence for each in findings if each.kind == kind]


def largest_matching(reachable):
    """Brute force: the most lesions that can have a candidate of their own."""
    lesions, candidates = reachable.shape
    if lesions > candidates:
        return largest_matching(reachable.T)
    return max(
        sum(bool(reachable[lesion, candidate]) for lesion, candidate in enumerate(order))
        for order in permutations(range(candidates), lesions)
    )


def best_total(overlap, reachable):
    """Brute force: the largest total overlap when every candidate (column) gets a lesion that it may take."""
    lesions, candidates = overlap.shape
    return max(
        sum(overlap[lesion, candidate] for candidate, lesion in enumerate(order))
        for order in permutations(range(lesions), candidates)
        if all(reachable[lesion, candidate] for candidate, lesion in enumerate(order))
    )


def test_accepted_candidates_are_a_largest_matching_at_every_threshold():
    random = np.random.default_rng(11)
    rejected = 0
    for _ in range(400):
        lesions, candidates = random.integers(1, 6, 2)
        overlap = np.where(random.random((lesions, candidates)) < 0.5, random.random((lesions, candidates)), 0)
        reachable = overlap >= 0.1
        confidences = random.choice([0.2, 0.4, 0.4, 0.6, 0.9], candidates)
        accepted = strict.accept(reachable, confidences, overlap.max(axis=0))
        for threshold in np.unique(confidences):
            above = confidences >= threshold
            hits = sum(confidences[candidate] >= threshold for candidate in accepted)
            assert hits == largest_matching(reachable[:, above])
        rejected += sum(reachable[:, candidate].any() for candidate in set(range(candidates)) - set(accepted))
        pairs = strict.pair(overlap, reachable, accepted)
        assert sorted(candidate for _, candidate in pairs) == sorted(accepted)
        assert len({lesion for lesion, _ in pairs}) == len(accepted)
        assert all(reachable[pair] for pair in pairs)
        if accepted:
            total = sum(overlap[pair] for pair in pairs)
            assert total == pytest.approx(best_total(overlap[:, accepted], reachable[:, accepted]), abs=1e-12)
    assert rejected > 100


def test_plain_greedy_would_lose_a_lesion_that_an_augmenting_path_keeps():
    # the strong candidate prefers the first lesion, which is all that the weak one can reach
    reachable = np.array([[True, True], [True, False]])
    assert strict.accept(reachable, np.array([0.9, 0.4]), np.array([0.8, 0.5])) == [0, 1]
    assert strict.pair(np.array([[0.8, 0.5], [0.2, 0.0]]), reachable, [0, 1]) == [(0, 1), (1, 0)]


def test_ties_of_confidence_are_visited_by_larger_best_overlap():
    reachable = np.array([[True, True]])
    assert strict.accept(reachable, np.array([0.5, 0.5]), np.array([0.3, 0.4])) == [1]
    assert strict.accept(reachable, np.array([0.5, 0.5]), np.array([0.4, 0.4])) == [0]


def test_quirk_3_four_small_overlaps_beat_three_large_ones_only_in_strict():
    # each candidate covers the end of one lesion and most of the next: either 3 pairs of IoU 0.6 or 4 of about 0.11
    lesions = [(0, 20), (21, 41), (42, 62), (63, 83)]
    candidates = [(16, 36, 0.8), (37, 57, 0.7), (58, 78, 0.6), (79, 91, 0.5)]
    case, detection_map, label = scene(lesions, candidates)
    reference = oracle([detection_map], [label], num_parallel_calls=1).lesion_results[0]
    assert sum(1 for row in reference if row[0] == 1 and row[1] > 0) == 3
    assert len(of_kind(picai.match(case, MatchingRule()), "tp")) == 3
    assert len(of_kind(strict.match(case, MatchingRule()), "tp")) == 4


def test_quirk_4_a_weak_candidate_displaces_a_strong_one_only_in_picai():
    case, detection_map, label = scene([(10, 30)], [(8, 18, 0.9), (19, 31, 0.2)])  # IoU 8/22 and 11/21
    reference = oracle([detection_map], [label], num_parallel_calls=1).lesion_results[0]
    weak, strong = float(np.float32(0.2)), float(np.float32(0.9))
    assert [row[:2] for row in reference] == [(1, weak)]
    by_picai, by_strict = picai.match(case, MatchingRule()), strict.match(case, MatchingRule())
    assert (of_kind(by_picai, "tp"), of_kind(by_picai, "ignored")) == ([weak], [strong])
    assert (of_kind(by_strict, "tp"), of_kind(by_strict, "ignored")) == ([strong], [weak])
    assert [each.overlap for each in by_strict] == [8 / 22, 11 / 21]


def test_overlaps_are_raw_in_strict_and_carry_an_epsilon_in_picai():
    case, _, _ = scene([(10, 20)], [(10, 15, 0.5)])
    [hit] = strict.match(case, MatchingRule())
    assert hit.overlap == 0.5
    [hit] = picai.match(case, MatchingRule())
    assert 0 < hit.overlap - 0.5 < 1e-8


def test_an_overlap_of_exactly_the_minimum_is_a_hit():
    rule = MatchingRule(minimum_overlap=0.2)
    case, _, _ = scene([(10, 20)], [(18, 20, 0.5)])
    assert [each.kind for each in strict.match(case, rule)] == ["tp"]
    case, _, _ = scene([(10, 20)], [(19, 20, 0.5)])
    missed, false = strict.match(case, rule)
    assert (missed.kind, missed.confidence, missed.overlap) == ("fn", 0.0, 0.1)
    assert (false.kind, false.confidence, false.overlap) == ("fp", 0.5, 0.1)


def test_the_card_may_ask_for_dice_instead_of_iou():
    case, _, _ = scene([(10, 20)], [(15, 25, 0.5)])  # 5 shared of 10 and 10
    assert strict.match(case, MatchingRule(overlap="dice"))[0].overlap == 0.5
    assert strict.match(case, MatchingRule(overlap="iou"))[0].overlap == 5 / 15


def test_cases_without_lesions_or_without_candidates():
    case, _, _ = scene([], [(10, 12, 0.5), (20, 30, 0.25)])
    assert of_kind(strict.match(case, MatchingRule()), "fp") == [0.5, 0.25]
    case, _, _ = scene([(10, 12), (20, 30)], [])
    assert [each.kind for each in strict.match(case, MatchingRule())] == ["fn", "fn"]
    case, _, _ = scene([], [])
    assert strict.match(case, MatchingRule()) == ()


PLACES = [(6, 6), (6, 40), (40, 6), (40, 40), (24, 24)]


def guesses(joined, thickness=1, slices=1):
    """Five equal guesses, one of which is the lesion; joined by lines of so many voxels in y or x, or not."""
    label, map_ = (np.zeros((12, 64, 64), dtype=np.float32) for _ in range(2))
    for y, x in PLACES:
        map_[4:8, y : y + 10, x : x + 10] = 0.5
    label[4:8, 6:16, 6:16] = 1
    if joined:
        linked = map_[5 : 5 + slices]
        linked[:, 8 : 8 + thickness, 6:46] = linked[:, 6:46, 8 : 8 + thickness] = 0.5
        linked[:, 42 : 42 + thickness, 6:46] = linked[:, 26 : 26 + thickness, 6:30] = 0.5
    return case_of(map_, label)


@pytest.mark.parametrize(("thickness", "slices"), [(1, 1), (2, 1), (3, 1), (6, 1), (2, 2), (1, 3)])
def test_guesses_joined_by_thin_lines_or_sheets_count_separately(thickness, slices):
    apart, joined = guesses(joined=False), guesses(joined=True, thickness=thickness, slices=slices)
    assert (len(apart.candidates), len(joined.candidates)) == (5, 1)
    assert strict.match(joined, MatchingRule()) == strict.match(apart, MatchingRule())
    assert [each.kind for each in strict.match(joined, MatchingRule())] == ["tp", "fp", "fp", "fp", "fp"]
    assert [each.kind for each in picai.match(joined, MatchingRule())] == ["tp"]  # the reference's answer stays


def test_small_guesses_joined_by_lines_are_cut_too():
    label, joined = (np.zeros((6, 20, 20), dtype=np.float32) for _ in range(2))
    for y, x in ((4, 2), (4, 9), (12, 2), (12, 9)):
        joined[1:4, y : y + 2, x : x + 2] = 0.5  # 12 voxels each, no square of three fits
    label[1:4, 4:6, 2:4] = 1
    joined[2, 4, 2:11] = joined[2, 12, 2:11] = joined[2, 4:13, 2] = 0.5
    case = case_of(joined, label)
    assert len(case.candidates) == 1
    assert [each.kind for each in strict.match(case, MatchingRule())] == ["tp", "fp", "fp", "fp"]


def test_lines_as_wide_as_the_card_allows_join():
    joined = guesses(joined=True, thickness=3, slices=2)
    assert [each.kind for each in strict.match(joined, MatchingRule())] == ["tp"]
    assert len(strict.match(joined, MatchingRule(narrowest_link=4))) == 5
    assert len(strict.match(guesses(joined=True), MatchingRule(narrowest_link=1))) == 1


def test_confidences_that_code_a_rank_gain_nothing():
    # only their order counts: any increasing change of all confidences leaves kinds and partners as they are
    random = np.random.default_rng(2)
    for _ in range(50):
        stretches = [(start, start + 6, float(random.choice([0.25, 0.5, 0.75]))) for start in range(0, 96, 8)]
        lesions = [(int(start), int(start) + 5) for start in random.choice(np.arange(0, 95, 7), 4, replace=False)]
        case, _, _ = scene(lesions, stretches)
        coded = replace(case, confidences=0.999 + case.confidences / 1e6)
        one, other = (strict.match(each, MatchingRule()) for each in (case, coded))
        assert [replace(each, confidence=0) for each in one] == [replace(each, confidence=0) for each in other]


@pytest.mark.parametrize(("width", "gap"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("solid", [False, True])
def test_combs_hit_lesions_only_where_they_are_solid(width, gap, solid):
    # teeth of one or two voxels: no square of the card's side parts them, and half the voxels reach an IoU of 0.1
    label, combs = (np.zeros((12, 64, 64), dtype=np.float32) for _ in range(2))
    for y, x in PLACES:
        for tooth in range(0, 10, width + gap):
            combs[4:8, y : y + 10, x + tooth : x + tooth + width] = 0.5
        combs[4:8, y : y + width, x : x + 10] = 0.5
    combs[5, 8 : 8 + width, 6:46] = combs[5, 6:46, 8 : 8 + width] = 0.5
    combs[5, 42 : 42 + width, 6:46] = combs[5, 26 : 26 + width, 6:30] = 0.5
    y, x = PLACES[-1]
    if solid:
        combs[4:8, y : y + 10, x : x + 10] = 0.5
    free = []  # where it hits without a false positive
    for place in PLACES:
        label[:] = 0
        label[4:8, place[0] : place[0] + 10, place[1] : place[1] + 10] = 1
        case = case_of(combs, label)
        assert len(case.candidates) == 1
        kinds = [each.kind for each in strict.match(case, MatchingRule())]
        assert "tp" in kinds or not (solid and place == PLACES[-1])
        free += [place] if "tp" in kinds and "fp" not in kinds else []
        assert [each.kind for each in picai.match(case, MatchingRule())] == ["tp"]  # the reference's answer stays
    assert free in ([], PLACES[-1:] * solid)
