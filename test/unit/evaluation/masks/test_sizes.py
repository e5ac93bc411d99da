import itertools
import math

import numpy as np
import pytest
from evaluation_makers import find_components

from contract.images.grid import Grid
from evaluation.masks.sizes import sizes_of

SPACING = (0.5, 0.75, 3.0)  # x, y, z


def sizes(image):
    z, y, x = image.shape
    grid = Grid((x, y, z), SPACING, (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    return sizes_of(find_components(image), grid)


def largest_distance(mask):
    """Between the centres of all faces of all voxels, pair by pair."""
    spacing = np.array(SPACING[::-1])
    points = [
        np.array(voxel) * spacing + side * spacing * np.eye(3)[axis] / 2
        for voxel in np.argwhere(mask)
        for axis in range(3)
        for side in (-1, 1)
    ]
    return max(float(np.linalg.norm(p - q)) for p, q in itertools.combinations(points, 2))


def test_a_voxel_and_a_bar_by_hand():
    image = np.zeros((3, 4, 9), dtype=bool)
    image[0, 0, 0] = True
    image[2, 3, 2:8] = True
    voxel, bar = sizes(image)
    assert voxel.volume_ml == pytest.approx(0.5 * 0.75 * 3 / 1000)
    assert voxel.diameter_mm == pytest.approx(3.0)  # from its lower to its upper face
    assert bar.volume_ml == pytest.approx(6 * 0.5 * 0.75 * 3 / 1000)
    assert bar.diameter_mm == pytest.approx(math.hypot(2.5, 3.0))  # up at one end, down at the other


@pytest.mark.parametrize("seed", range(8))
def test_diameters_equal_the_largest_of_all_distances(seed):
    image = np.random.default_rng(seed).random((4, 6, 7)) < 0.12 + 0.02 * seed
    components = find_components(image)
    for number, size in enumerate(sizes(image)):
        mask = np.zeros(image.size, dtype=bool)
        mask[components.voxels[components.owners == number]] = True
        assert size.diameter_mm == pytest.approx(largest_distance(mask.reshape(image.shape)))


def test_a_large_ball_takes_no_long_time_and_has_its_diameter():
    z, y, x = np.ogrid[-8:9, -32:33, -48:49]
    (ball,) = sizes((3.0 * z) ** 2 + (0.75 * y) ** 2 + (0.5 * x) ** 2 <= 22.0**2)
    assert ball.diameter_mm == pytest.approx(2 * math.hypot(22.5, 6.5), abs=0.2)  # the slice at 21 mm is 3 mm thick
    assert ball.volume_ml == pytest.approx(4 / 3 * math.pi * 2.2**3, rel=0.01)


def test_nothing_has_no_size():
    assert sizes(np.zeros((2, 3, 4), dtype=bool)) == ()
