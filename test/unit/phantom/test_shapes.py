"""Shapes fill the volume that geometry says, on any grid, and random fields have mean 0 and variance 1."""

from dataclasses import replace

import numpy as np
import pytest

from contract.images.grid import Grid
from phantom.shapes import Between, Ellipsoid, RandomField, Tube, Within

TILT = np.radians(20)
GRID = Grid(
    size_xyz=(60, 50, 40),
    spacing_mm_xyz=(0.9, 1.1, 1.3),
    origin_mm_xyz=(-26.0, -18.0, -30.0),
    direction=(1, 0, 0, 0, np.cos(TILT), -np.sin(TILT), 0, np.sin(TILT), np.cos(TILT)),
)
POINTS = GRID.centres_mm().astype(np.float32)


def centre_of_grid() -> tuple[float, float, float]:
    x, y, z = GRID.corners_mm().mean(axis=0).tolist()
    return x, y, z


def volume_mm3(fill: np.ndarray) -> float:
    return float(fill.sum()) * GRID.voxel_volume_ml * 1000


@pytest.mark.parametrize("turn_rad", [0.0, 0.7])
def test_a_turned_ellipsoid_on_a_tilted_grid_has_its_volume_and_centre(turn_rad):
    axes = (12.0, 7.0, 9.0)
    fill = Ellipsoid(centre_of_grid(), axes, turn_rad).fill(POINTS, edge_mm=1.0)
    assert volume_mm3(fill) == pytest.approx(4 / 3 * np.pi * np.prod(axes), rel=0.02)
    centroid = (POINTS * fill).sum(axis=(1, 2, 3)) / fill.sum()
    assert centroid == pytest.approx(np.array(centre_of_grid()), abs=0.05)


def test_turning_by_a_right_angle_exchanges_the_first_two_axes():
    turned = Ellipsoid(centre_of_grid(), (12, 7, 9), turn_rad=np.pi / 2).fill(POINTS, edge_mm=1.0)
    exchanged = Ellipsoid(centre_of_grid(), (7, 12, 9)).fill(POINTS, edge_mm=1.0)
    assert np.allclose(turned, exchanged, atol=1e-4)


def test_scaling_multiplies_the_volume_by_the_cube():
    shape = Ellipsoid(centre_of_grid(), (6, 5, 7))
    volumes = [volume_mm3(each.fill(POINTS, edge_mm=1.0)) for each in (shape, shape.scaled(1.5))]
    assert volumes[1] / volumes[0] == pytest.approx(1.5**3, rel=0.03)


def test_between_and_within_are_difference_and_intersection():
    outer, inner = Ellipsoid(centre_of_grid(), (10, 9, 8)), Ellipsoid(centre_of_grid(), (5, 4, 4))
    outer_mm3, inner_mm3 = (volume_mm3(each.fill(POINTS, edge_mm=0.01)) for each in (outer, inner))
    assert volume_mm3(Between(outer, inner).fill(POINTS, edge_mm=0.01)) == pytest.approx(
        outer_mm3 - inner_mm3, rel=1e-4
    )
    assert volume_mm3(Within(inner, outer).fill(POINTS, edge_mm=0.01)) == pytest.approx(inner_mm3, rel=1e-4)


def test_bumps_change_the_surface_and_not_where_the_shape_is():
    smooth = Ellipsoid(centre_of_grid(), (9, 8, 7))
    bumps = RandomField.draw(np.random.default_rng(1), length_mm=5.0)
    bumpy = Ellipsoid(centre_of_grid(), (9, 8, 7), bumps=bumps, bump_height=0.1)
    a, b = (each.fill(POINTS, edge_mm=0.01) > 0.5 for each in (smooth, bumpy))
    assert 0.8 < (a & b).sum() / (a | b).sum() < 0.99


def test_random_fields_have_mean_0_variance_1_and_their_correlation():
    near, far, apart_mm = [], [], 4.0
    for seed in range(400):
        field = RandomField.draw(np.random.default_rng(seed), length_mm=apart_mm)
        points = np.zeros((3, 1, 1, 2), dtype=np.float32)
        points[1, 0, 0, 1] = apart_mm
        value = field.at(points).ravel()
        near.append(value[0])
        far.append(value[1])
    assert np.mean(near) == pytest.approx(0, abs=0.15)
    assert np.var(near) == pytest.approx(1, abs=0.15)
    assert np.mean(np.multiply(near, far)) == pytest.approx(np.exp(-0.5), abs=0.12)


def straight_tube(radius_mm: float = 6.0) -> Tube:
    x, y, z = centre_of_grid()
    return Tube(((x - 8, y - 5, z - 6), (x, y, z), (x + 8, y + 5, z + 6)), (radius_mm,) * 3)


def test_a_straight_tube_has_the_volume_of_a_cylinder_with_round_ends():
    tube = straight_tube()
    length = 2 * np.sqrt(8**2 + 5**2 + 6**2)
    expected = np.pi * 6**2 * length + 4 / 3 * np.pi * 6**3
    assert volume_mm3(tube.fill(POINTS, edge_mm=1.0)) == pytest.approx(expected, rel=0.02)
    assert volume_mm3(tube.grown(-2).fill(POINTS, edge_mm=1.0)) == pytest.approx(
        np.pi * 4**2 * length + 4 / 3 * np.pi * 4**3, rel=0.03
    )
    assert straight_tube(1.0).at_least(6.0) == tube


def test_a_tube_knows_place_distance_and_radius():
    tube = Tube(((0, 0, 0), (10, 0, 0), (10, 20, 0)), (2.0, 4.0, 6.0))
    points = np.array([[5, 3, 0], [10, 10, 7], [-4, 0, 0]], dtype=np.float32).T.reshape(3, 1, 1, 3)
    distance, radius, place = (each.ravel() for each in tube.nearest(points))
    assert distance == pytest.approx([3, 7, 4])
    assert radius == pytest.approx([3, 5, 2])
    assert place == pytest.approx([0.25, 0.75, 0])  # half of the first piece, half of the second, the start


def test_a_tube_thinner_than_a_voxel_fills_its_cross_sections_share():
    tube = straight_tube(0.4)
    assert tube.fill(POINTS, edge_mm=2.0).max() <= np.pi * 0.2**2


def test_a_smooth_tube_runs_through_its_points():
    corners = [(0.0, 0.0, 0.0), (10.0, 4.0, 2.0), (18.0, -3.0, 9.0)]
    tube = Tube.through(corners, [3.0, 5.0, 4.0], pieces=8)
    assert [tube.line_mm[place] for place in (0, 4, 8)] == [pytest.approx(corner) for corner in corners]
    assert [tube.radii_mm[place] for place in (0, 4, 8)] == pytest.approx([3, 5, 4])


@pytest.mark.parametrize("turn_rad", [0.0, 0.7])
@pytest.mark.parametrize("bumpy", [False, True])
def test_nothing_is_filled_outside_a_shapes_box(turn_rad, bumpy):
    bumps = RandomField.draw(np.random.default_rng(2), length_mm=5.0, waves=12) if bumpy else None
    ellipsoid = Ellipsoid(centre_of_grid(), (9, 5, 7), turn_rad, bumps, 0.1 if bumpy else 0.0)
    tube = replace(straight_tube(4.0), bumps=bumps, bump_height=0.1 if bumpy else 0.0)
    for shape in (
        ellipsoid,
        tube,
        Within(ellipsoid, Ellipsoid(centre_of_grid(), (400, 400, 400))),
        Between(ellipsoid, tube),
    ):
        low, high = (np.array(corner)[:, None, None, None] for corner in shape.box_mm(edge_mm=1.5))
        outside = ((low > POINTS) | (high < POINTS)).any(axis=0)
        assert outside.any()
        fill = shape.fill(POINTS, edge_mm=1.5)
        assert fill[~outside].max() > 0.9
        assert not fill[outside].any()
