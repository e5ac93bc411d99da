import numpy as np
import pytest

from evaluation.components import find_components, intersections


def test_voxels_that_meet_in_a_corner_are_one_component_and_a_gap_of_one_separates():
    image = np.zeros((4, 5, 6), dtype=bool)
    image[0, 0, 0] = image[1, 1, 1] = True  # share a corner
    image[3, 3, 3] = True
    found = find_components(image)
    assert found.sizes.tolist() == [2, 1]
    assert found.voxels.tolist() == [0, 1 * 30 + 1 * 6 + 1, 3 * 30 + 3 * 6 + 3]
    assert found.owners.tolist() == [0, 0, 1]


def test_intersections_equal_the_count_over_masks():
    random = np.random.default_rng(5)
    for _ in range(20):
        lesions, candidates = (find_components(random.random((5, 6, 7)) < 0.15) for _ in range(2))
        shared = intersections(lesions, candidates)
        assert shared.shape == (len(lesions), len(candidates))
        for lesion in range(len(lesions)):
            for candidate in range(len(candidates)):
                ours = set(lesions.voxels[lesions.owners == lesion].tolist())
                theirs = set(candidates.voxels[candidates.owners == candidate].tolist())
                assert shared[lesion, candidate] == len(ours & theirs)


def test_an_empty_image_has_no_component_and_meets_nothing():
    nothing = find_components(np.zeros((2, 3, 4), dtype=bool))
    assert len(nothing) == 0
    assert intersections(nothing, find_components(np.ones((2, 3, 4), dtype=bool))).shape == (0, 1)


def test_components_of_differently_shaped_images_do_not_meet():
    with pytest.raises(ValueError, match="cannot meet"):
        intersections(find_components(np.ones((2, 3, 4), bool)), find_components(np.ones((4, 3, 2), bool)))
