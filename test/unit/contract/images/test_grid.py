"""Places, parts, sameness and fields of view of grids by formula; axes exchanged and flipped as by ITK's filter."""

import re
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from image_makers import place_mm
from refusals import refused_with

from contract.images.grid import (
    NATIVE,
    Grid,
    along_axes,
    axes_to_lps,
    fields_of_view_meet,
    part_of,
    require_same_grid,
    same_grid,
)
from contract.images.volume import (
    Volume,
    from_image,
    resample,
    to_image,
)


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


IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def test_axes_are_turned_once_and_sizes_are_in_the_patient(tilted_grid: Grid) -> None:
    assert tilted_grid.shape_zyx == (5, 7, 11)
    assert tilted_grid.spacing_mm_zyx == (3.3000001, 10 / 9, 0.1 + 0.2)
    assert tilted_grid.extent_mm_zyx == pytest.approx((16.5000005, 70 / 9, 3.3))
    assert tilted_grid.voxel_volume_ml == pytest.approx(3.3000001 * 10 / 9 * 0.3 / 1000)


def test_corners_are_half_a_voxel_beyond_the_outer_centres(tilted_grid: Grid) -> None:
    expected = [
        place_mm(tilted_grid, np.array([x, y, z])) for x in (-0.5, 10.5) for y in (-0.5, 6.5) for z in (-0.5, 4.5)
    ]
    found = tilted_grid.corners_mm()
    assert found.shape == (8, 3)
    for corner in expected:
        assert np.abs(found - corner).max(axis=1).min() < 1e-9


def test_centres_are_those_of_the_formula(tilted_grid: Grid) -> None:
    centres = tilted_grid.centres_mm()
    assert centres.shape == (3, 5, 7, 11)
    assert centres[:, 4, 2, 9] == pytest.approx(place_mm(tilted_grid, np.array([9, 2, 4])))


def test_grids_are_the_same_up_to_a_thousandth_of_a_millimetre(tilted_grid: Grid) -> None:
    x, y, z = tilted_grid.origin_mm_xyz
    assert same_grid(tilted_grid, replace(tilted_grid, origin_mm_xyz=(x, y, z + 0.9e-3)))
    assert not same_grid(tilted_grid, replace(tilted_grid, origin_mm_xyz=(x, y, z + 1.1e-3)))
    assert not same_grid(tilted_grid, replace(tilted_grid, size_xyz=(11, 7, 6)))
    assert not same_grid(tilted_grid, replace(tilted_grid, direction=IDENTITY))
    assert not same_grid(tilted_grid, replace(tilted_grid, origin_mm_xyz=(x, y, float("nan"))))


def test_a_small_difference_in_spacing_counts_by_its_effect_at_corners(tilted_grid: Grid) -> None:
    x, y, z = tilted_grid.spacing_mm_xyz
    assert same_grid(tilted_grid, replace(tilted_grid, spacing_mm_xyz=(x + 5e-5, y, z)))  # 10.5 × 5e-5 mm
    long = replace(tilted_grid, size_xyz=(500, 7, 5))
    assert not same_grid(long, replace(long, spacing_mm_xyz=(x + 5e-5, y, z)))


def test_another_grid_is_refused_and_both_are_described(tilted_grid: Grid) -> None:
    x, y, z = tilted_grid.origin_mm_xyz
    near, far = (replace(tilted_grid, origin_mm_xyz=(x + shift, y, z)) for shift in (0.09, 0.11))
    require_same_grid(near, tilted_grid, found_name="map.mha", expected_name="t2w.mha")
    with refused_with("^map.mha$", found=f"^{re.escape(far.describe())}$") as refused:
        require_same_grid(far, tilted_grid, found_name="map.mha", expected_name="t2w.mha")
    assert refused.value.expected == (
        "the grid of t2w.mha (size (11, 7, 5), spacing (0.3, 1.11111, 3.3), origin (-0.333333, 0.285714, 11.1111), "
        f"direction {tilted_grid.describe().partition('direction ')[2]})"
    )


def test_mirrored_and_turned_images_are_on_another_grid(tilted_grid: Grid) -> None:
    mirrored = tuple(-value if number % 3 == 2 else value for number, value in enumerate(tilted_grid.direction))
    with refused_with(expected="the grid of"):
        require_same_grid(replace(tilted_grid, direction=mirrored), tilted_grid, found_name="map", expected_name="t2w")


def test_fields_of_view_meet_if_they_share_a_volume(tilted_grid: Grid) -> None:
    inside = replace(tilted_grid, spacing_mm_xyz=(0.01, 0.02, 0.03), direction=IDENTITY)
    assert fields_of_view_meet(tilted_grid, tilted_grid)
    assert fields_of_view_meet(tilted_grid, inside)
    assert fields_of_view_meet(inside, tilted_grid)


def test_fields_of_view_that_only_touch_do_not_meet() -> None:
    a = Grid((10, 10, 10), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
    assert not fields_of_view_meet(a, replace(a, origin_mm_xyz=(0.0, 0.0, 10.0)))
    assert fields_of_view_meet(a, replace(a, origin_mm_xyz=(0.0, 0.0, 9.9)))


def test_tilted_slabs_do_not_meet_although_their_bounding_boxes_do() -> None:
    half = np.sqrt(0.5)
    turned = (half, -half, 0.0, half, half, 0.0, 0.0, 0.0, 1.0)
    a = Grid((100, 10, 10), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), turned)
    beside = tuple(place_mm(a, np.array([0.0, 20.0, 0.0])).tolist())
    b = replace(a, origin_mm_xyz=beside)
    low = np.maximum(a.corners_mm().min(axis=0), b.corners_mm().min(axis=0))
    assert np.all(low < np.minimum(a.corners_mm().max(axis=0), b.corners_mm().max(axis=0)))
    assert not fields_of_view_meet(a, b)


def test_edges_that_pass_each_other_separate_where_no_face_does() -> None:
    """Two rods, crossed like an X and edge to edge: only a common normal of two edges tells them apart."""
    half = np.sqrt(0.5)
    along_x = Grid((40, 2, 2), (1.0, 1.0, 1.0), (-19.5, 0.0, -half), (1.0, 0.0, 0.0, 0.0, half, -half, 0.0, half, half))
    along_y = Grid((2, 40, 2), (1.0, 1.0, 1.0), (0.0, -19.5, 0.0), (half, 0.0, half, 0.0, 1.0, 0.0, -half, 0.0, half))

    def gap(distance_mm: float) -> bool:
        centre = along_y.corners_mm().mean(axis=0) - along_x.corners_mm().mean(axis=0)
        x, y, z = along_y.origin_mm_xyz
        moved = (x - centre[0], y - centre[1], z - centre[2] + distance_mm)
        return fields_of_view_meet(along_x, replace(along_y, origin_mm_xyz=moved))

    reach = 2 * np.sqrt(2)  # half a diagonal of each rod's square section
    assert gap(reach - 0.01)
    assert not gap(reach + 0.01)
