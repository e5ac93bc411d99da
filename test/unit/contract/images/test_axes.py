"""Axes exchanged and flipped, with ITK's own orientation filter as the oracle, and parts of grids."""

import numpy as np
import pytest
import SimpleITK as sitk

from contract.images.grid import NATIVE, Grid, along_axes, axes_to_lps, part_of, same_grid
from contract.images.volume import Volume, from_image, resample, to_image


def directions(count: int) -> list[tuple[float, ...]]:
    """Rotations of every kind: axes in any order and sense, tilted by up to 30 degrees."""
    rng = np.random.default_rng(3)
    found = []
    while len(found) < count:
        axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
        skew = rng.normal(0, 0.15, (3, 3))
        rotation, signs = np.linalg.qr(np.eye(3) + skew - skew.T)
        direction = axes @ rotation @ np.diag(np.sign(np.diag(signs)))
        if np.linalg.det(direction) > 0:
            found.append(tuple(direction.ravel().tolist()))
    return found


@pytest.mark.parametrize("direction", directions(40))
def test_axes_to_lps_are_those_of_itk(direction):
    grid = Grid((4, 5, 6), (1.0, 2.0, 3.0), (5.0, -7.0, 9.0), direction)
    array = np.random.default_rng(0).normal(size=grid.shape_zyx).astype(np.float32)
    axes = axes_to_lps(grid)
    oracle = from_image(sitk.DICOMOrient(to_image(Volume(array, grid)), "LPS"))
    assert np.array_equal(axes.apply(array), oracle.array)
    assert same_grid(along_axes(grid, axes), oracle.grid, tolerance_mm=1e-9)
    assert np.array_equal(axes.undo(axes.apply(array)), array)


def test_native_axes_change_nothing(tilted_grid, noise):
    assert np.array_equal(NATIVE.apply(noise.array), noise.array)
    assert same_grid(along_axes(tilted_grid, NATIVE), tilted_grid, tolerance_mm=1e-12)


def test_a_part_of_a_grid_gets_the_voxels_as_they_are(noise):
    box = (slice(1, 4), slice(2, 7), slice(3, 9))
    image = to_image(noise)[3:9, 2:7, 1:4]
    part = from_image(image)
    assert part_of(part.grid, noise.grid) == box
    assert np.array_equal(resample(noise, part.grid, interpolation="b-spline", outside=0.0).array, noise.array[box])


def test_a_grid_between_the_voxels_or_beyond_the_border_is_no_part(noise):
    for image in (to_image(noise)[3:9, 2:7, 1:4],):
        shifted = from_image(image).grid
        origin = np.array(shifted.origin_mm_xyz)
        axis = np.array(shifted.direction).reshape(3, 3)[:, 0]
        between = Grid(shifted.size_xyz, shifted.spacing_mm_xyz, tuple(origin + 0.1 * axis), shifted.direction)
        assert part_of(between, noise.grid) is None
    assert part_of(noise.grid, shifted) is None
    other = Grid(noise.grid.size_xyz, (1.0, 1.0, 1.0), noise.grid.origin_mm_xyz, noise.grid.direction)
    assert part_of(other, noise.grid) is None
