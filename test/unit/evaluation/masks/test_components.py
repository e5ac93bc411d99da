import numpy as np
import pytest
from evaluation_makers import find_components
from scipy import ndimage

from evaluation.masks import components
from evaluation.masks.components import ScatteredError, connect, intersections, without_narrow_links


def test_voxels_that_meet_in_a_corner_are_one_component():
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


def boxes(side):
    return [np.ones((slices, smaller, smaller)) for smaller in range(side, 1, -1) for slices in (2, 1)]


def parted(mask, elements):
    """A component's parts by definition: opened by one box after the other, and so are the parts."""
    if not elements:
        return [mask]
    labels, parts = ndimage.label(ndimage.binary_opening(mask, elements[0]), np.ones((3, 3, 3)))
    found = [labels == part for part in range(1, parts + 1)] if parts > 1 else [mask]
    return [smaller for part in found for smaller in parted(part, elements[1:])]


@pytest.mark.parametrize("side", [1, 2, 3])
def test_links_are_cut_as_openings_by_smaller_and_smaller_boxes_cut(side):
    random = np.random.default_rng(side)
    cut = 0
    for _ in range(30):
        rough = ndimage.uniform_filter(random.random((4, 17, 19)), (1, 3, 3))
        image = rough > np.quantile(rough, 0.6)
        components = find_components(image)
        found, origin = without_narrow_links(components, side)
        expected = {}
        for number in range(len(components)):
            mask = np.zeros(image.size, dtype=bool)
            mask[components.voxels[components.owners == number]] = True
            whole = parted(mask.reshape(image.shape), boxes(side))
            cut += len(whole) > 1
            for part in whole:
                expected[tuple(np.flatnonzero(part).tolist())] = number
        ours = {tuple(found.voxels[found.owners == k].tolist()): int(origin[k]) for k in range(len(found))}
        assert ours == expected
    assert (cut > 0) == (side > 1)


def test_a_component_that_stays_in_one_piece_stays_as_it_is():
    image = np.zeros((3, 9, 9), dtype=bool)
    image[1, 2:7, 2:7] = True
    image[1, 4, 7:9] = True  # a tail, but nothing at its end
    image[0, 0, :] = True  # thin all over
    components = find_components(image)
    assert without_narrow_links(components, 3)[0] is components


@pytest.mark.parametrize(
    ("limit", "found"), [("MOST_VOXEL_RUNS", "runs of voxels along x"), ("MOST_COMPONENTS", "connected")]
)
def test_the_limits_are_reached_by_one_more(monkeypatch: pytest.MonkeyPatch, limit: str, found: str) -> None:
    voxels = np.arange(0, 60, 3)
    monkeypatch.setattr(components, limit, 20)
    assert len(connect(voxels, (1, 1, 60))) == 20
    monkeypatch.setattr(components, limit, 19)
    with pytest.raises(ScatteredError, match=f"expected at most 19 {found}.*, found 20$"):
        connect(voxels, (1, 1, 60))
