import numpy as np
import pytest
from evaluation_makers import find_components
from scipy import ndimage

ANYWHERE = np.ones((3, 3, 3))


def shapes(seed):
    """Rough blobs, dense noise, and components whose boxes are larger than the image."""
    random = np.random.default_rng(seed)
    rough = ndimage.uniform_filter(random.random((5, 17, 23)), (1, 3, 3))
    diagonals = np.zeros((5, 5, 23), dtype=bool)
    for column in range(0, 18, 3):
        diagonals[np.arange(5), np.arange(5), np.arange(5) + column] = True
    return [rough > np.quantile(rough, 0.6), random.random((4, 9, 11)) < 0.7, diagonals]


def held(components, bits):
    mask = np.zeros(components.shape_zyx, dtype=bool)
    for box, some in zip(components.boxes, bits, strict=True):
        mask.ravel()[components.voxels[box.members[box.holds(some)]]] = True
    return mask


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("side", "slices"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_openings_are_those_of_the_image(seed, side, slices):
    for image in shapes(seed):
        components = find_components(image)
        expected = ndimage.binary_opening(image, np.ones((slices, side, side)))
        assert (held(components, [box.opened(side, slices) for box in components.boxes]) == expected).all()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_surely_one_component_is_one(seed):
    seen = set()
    for image in shapes(seed):
        components = find_components(image)
        for box in components.boxes:
            for side in (1, 2, 3):
                bits = box.opened(side, 1)
                parts = np.zeros(image.size, dtype=bool)
                parts[components.voxels[box.members[box.holds(bits)]]] = True
                count = ndimage.label(parts.reshape(image.shape), ANYWHERE)[1]
                seen.add((box.is_surely_one(bits), count > 1))
    assert (True, False) in seen
    assert (False, True) in seen
    assert (True, True) not in seen


def test_an_ellipsoid_is_surely_one_and_two_slices_apart_are_not():
    z, y, x = np.ogrid[-3:4, -9:10, -11:12]
    (box,) = find_components((z / 3) ** 2 + (y / 9) ** 2 + (x / 11) ** 2 <= 1).boxes
    assert box.is_surely_one(box.bits)
    middle = ((1 << box.slice) - 1) << 3 * box.slice
    assert not box.is_surely_one(box.bits & ~middle)
    assert box.is_surely_one(0)


def test_boxes_larger_than_the_image_become_one():
    image = shapes(0)[2]
    components = find_components(image)
    assert len(components) == 6
    (box,) = components.boxes
    assert box.holds(box.bits).all()
    assert len(find_components(np.zeros((2, 3, 4), dtype=bool)).boxes) == 0
