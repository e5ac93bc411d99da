"""The choice of a box rule, with boxes by hand."""

import numpy as np
import pytest

from network.detection.clustering import BoxPostprocessing, ScoredBoxes
from network.detection.whole_study import RawDetections
from training.retina_unet.box_rule_sweep import SearchedStudy, best_postprocessing, mean_average_precisions

LESION = np.array([[2.0, 2, 2, 6, 8, 8]])
NOTHING = np.empty((0, 6))
TILES = [(slice(0, 20), slice(0, 40), slice(0, 40))]


def boxes(*rows):
    table = np.array(rows, np.float64).reshape(-1, 7)
    return ScoredBoxes(table[:, :6], table[:, 6], np.ones(len(table)))


def searched(found, lesions):
    return SearchedStudy(RawDetections((found,), TILES, 1), lesions)


def mean_average_precision(found, lesions):
    """Of all studies, each once."""
    return float(mean_average_precisions(found, lesions, np.ones((1, len(found))))[0])


def test_average_precision_by_hand():
    """By falling score: a hit, a false positive in another study, a second box on the same lesion, a hit.

    Two of three lesions are found, at precisions 1 and 2 / 4: (1 + 0.5) / 3.
    """
    second = [10.0, 10, 10, 14, 16, 16]
    found = [boxes([*LESION[0], 0.9], [*LESION[0], 0.5], [*second, 0.3]), boxes([0, 0, 0, 4, 4, 4, 0.7])]
    lesions = [np.array([LESION[0], second, [0, 30, 30, 3, 35, 35]]), NOTHING]
    assert mean_average_precision(found, lesions) == pytest.approx(0.5)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (1, 1), (2, 1), (3, 0.6), (4, 0.4), (6, 0)])
def test_each_threshold_counts_alike(shift, expected):
    """A box moved by n of the lesion's 6 voxels along x has the IoU (6 - n) / (6 + n): 1, 0.71, 0.5, 0.33, 0.2, 0."""
    moved = LESION[0] + np.array([0, 0, shift, 0, 0, shift])
    found = mean_average_precision([boxes([*moved, 0.9])], [LESION])
    assert found == pytest.approx(expected)


def test_without_predictions_nothing_is_found():
    assert mean_average_precision([boxes()], [LESION]) == 0


def test_a_rule_that_joins_the_two_halves_of_a_lesion_is_found():
    """Two boxes of one lesion that overlap by an IoU of 1/3: clustered they give the lesion, apart each is poor."""
    halves = boxes([2, 2, 1, 6, 8, 7, 0.6], [2, 2, 3, 6, 8, 9, 0.6], [10, 20, 20, 14, 26, 26, 0.59])
    study = searched(halves, LESION)
    chosen = best_postprocessing([study])
    by_rule = [
        mean_average_precision([study.found.clustered(rule)], [LESION]) for rule in (BoxPostprocessing(), chosen)
    ]
    assert by_rule[0] <= by_rule[1] == 1


def test_weak_predictions_that_lower_a_good_one_are_cut_off():
    """The cluster of a strong and three weak boxes scores (0.9 + 3 * 0.02) / 4, less than the false positive's 0.4."""
    shared = [[*LESION[0], score] for score in (0.9, 0.02, 0.02, 0.02)]
    study = searched(boxes(*shared, [10, 20, 20, 14, 26, 26, 0.4]), LESION)
    before = mean_average_precision([study.found.clustered(BoxPostprocessing())], [LESION])
    chosen = best_postprocessing([study])
    assert chosen.score_threshold >= 0.05
    assert before == pytest.approx(0.5)
    assert mean_average_precision([study.found.clustered(chosen)], [LESION]) == 1


def test_a_study_that_counts_twice_is_as_good_as_two():
    found = [
        boxes([*LESION[0], 0.9], [0, 0, 0, 2, 2, 2, 0.8]),
        boxes([0, 0, 0, 4, 4, 4, 0.85]),
        boxes([*LESION[0], 0.7]),
    ]
    lesions = [LESION, NOTHING, LESION]
    times = np.array([[1.0, 1, 1], [2, 0, 1]])
    once, resampled = mean_average_precisions(found, lesions, times)
    assert once == pytest.approx(mean_average_precision(found, lesions))
    assert resampled == pytest.approx(mean_average_precision([found[0], found[0], found[2]], [LESION] * 3))


@pytest.mark.parametrize(("with_flat_box", "taken"), [(1, False), (10, True)])
def test_a_rule_supported_by_one_study_only_is_not_chosen(with_flat_box, taken):
    """A flat false box, which a minimum size would remove. A third of the resamples of ten lack any one of them."""
    good, flat = [*LESION[0], 0.9], [10, 20, 20, 10.5, 26, 26, 0.95]
    plain, disturbed = searched(boxes(good), LESION), searched(boxes(good, flat), LESION)
    chosen = best_postprocessing([disturbed] * with_flat_box + [plain] * (10 - with_flat_box))
    assert (chosen.minimum_size_voxels > BoxPostprocessing().minimum_size_voxels) == taken


def test_without_lesions_the_default_rule_stays(caplog):
    assert best_postprocessing([searched(boxes([0, 0, 0, 4, 4, 4, 0.9]), NOTHING)]) == BoxPostprocessing()
    assert "no lesion in the validation studies" in caplog.text
