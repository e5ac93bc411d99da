"""The study grid, and the way from the network's grid back to the reference image's file."""

import copy
from itertools import product

import numpy as np
import pytest
from studies import IDENTITY, read_study, tilted_grid, with_geometry

from contract.card import load_card
from contract.images.grid import Grid, along_axes, axes_to_lps
from contract.images.volume import Volume, write_volume
from network.preprocessing.nnunet_preprocessing import preprocess
from network.study.placement import Placement

PICAI, RSNA, CT_RSNA = (load_card(name) for name in ("cspca-picai", "cspca-rsna2022", "pdac-rsna2022"))


def centre_mm(grid):
    return grid.corners_mm().mean(axis=0)


def slice_positions_mm(grid):
    """Where the slices are along the grid's own third axis."""
    normal = np.array(grid.direction).reshape(3, 3)[:, 2]
    return np.array(grid.origin_mm_xyz) @ normal + np.arange(grid.size_xyz[2]) * grid.spacing_mm_xyz[2]


def test_without_spacing_and_crop_the_study_grid_is_the_reference_grid():
    reference = tilted_grid((40, 36, 9), (0.8, 0.9, 3.0))
    placement = Placement.of(PICAI, reference)
    assert placement.grid == placement.reference == placement.native == reference
    assert placement.spacing_mm_zyx == (3.0, 0.9, 0.8)


@pytest.mark.parametrize(
    ("card", "reference", "size_xyz", "spacing_mm_xyz"),
    [
        pytest.param(RSNA, ((201, 190, 31), (0.6, 0.7, 2.2)), (160, 160, 20), (0.5, 0.5, 3.6), id="crop"),
        # 32 mm, 32.4 mm and 27 mm (4.5 rounds to the even 4)
        pytest.param(
            with_geometry(PICAI, spacing_mm_zyx=(6.0, 2.0, 2.0)),
            ((40, 36, 9), (0.8, 0.9, 3.0)),
            (16, 16, 4),
            (2.0, 2.0, 6.0),
            id="no crop",
        ),
    ],
)
def test_resampled_axes_are_centred_on_the_reference(card, reference, size_xyz, spacing_mm_xyz):
    reference = tilted_grid(*reference)
    grid = Placement.of(card, reference).grid
    assert (grid.size_xyz, grid.spacing_mm_xyz, grid.direction) == (size_xyz, spacing_mm_xyz, reference.direction)
    np.testing.assert_allclose(centre_mm(grid), centre_mm(reference), atol=1e-9)


@pytest.mark.parametrize(("slices", "first"), [(25, 2), (24, 2), (20, 0), (19, 0), (17, -1), (16, -2)])
def test_native_slices_keep_their_place_and_get_the_cards_spacing(slices, first):
    reference = tilted_grid((300, 310, slices), (0.6, 0.7, 3.0))
    placement = Placement.of(RSNA, reference)
    assert placement.grid.spacing_mm_xyz == (0.5, 0.5, 3.0)
    positions = slice_positions_mm(reference)[0] + 3.0 * (first + np.arange(20))
    np.testing.assert_allclose(slice_positions_mm(placement.grid), positions, atol=1e-9)
    assert placement.spacing_mm_zyx == (3.6, 0.5, 0.5)


@pytest.mark.parametrize(
    ("spacing_z_mm", "kept"), [(2.9, False), (2.91, True), (4.29, True), (4.3, False), (5.0, False)]
)
def test_slices_are_native_strictly_between_the_cards_bounds(spacing_z_mm, kept):
    grid = Placement.of(RSNA, tilted_grid((320, 320, 20), (0.5, 0.5, spacing_z_mm))).grid
    assert grid.spacing_mm_xyz[2] == (spacing_z_mm if kept else 3.6)


def test_axes_with_the_cards_spacing_are_cropped_by_whole_voxels():
    reference = tilted_grid((321, 320, 20), (0.5, 0.5, 3.6))
    grid = Placement.of(RSNA, reference).grid
    step = np.linalg.inv(np.array(reference.direction).reshape(3, 3)) @ (
        np.array(grid.origin_mm_xyz) - np.array(reference.origin_mm_xyz)
    )
    np.testing.assert_allclose(step / np.array(reference.spacing_mm_xyz), [80, 80, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("reference", "size_xyz", "spacing_mm_xyz"),
    [
        # 512 columns of 0.75 mm become 256; the same factor holds along y and z.
        (((512, 400, 300), (0.75, 0.75, 1.0)), (256, 200, 150), (1.5, 1.5, 2.0)),
        (((200, 200, 20), (2.0, 2.0, 5.0)), (200, 200, 20), (2.0, 2.0, 5.0)),
    ],
)
def test_stage_1_has_at_most_as_many_columns_as_the_card_says(reference, size_xyz, spacing_mm_xyz):
    placement = Placement.of(CT_RSNA.localising(), Grid(*reference, (0.0, 0.0, 0.0), IDENTITY))
    assert (placement.grid.size_xyz, placement.grid.spacing_mm_xyz) == (size_xyz, spacing_mm_xyz)
    assert placement.spacing_mm_zyx == spacing_mm_xyz[::-1]


# The way back


def test_a_probability_returns_to_the_same_places_of_the_patient():
    def ramp(grid):
        x, y, z = grid.centres_mm()
        return ((500 + 2 * x - 3 * y + 5 * z) / 1000).astype(np.float32)

    reference = tilted_grid((300, 310, 24), (0.6, 0.7, 3.0))
    placement = Placement.of(RSNA, reference)
    back = placement.to_file(ramp(placement.grid))
    assert back.grid == reference
    assert back.array.dtype == np.float32
    inside = back.array > 0
    assert inside.sum() == pytest.approx(20 * 160 * 160 * 0.25 / 0.42, rel=0.02)
    np.testing.assert_allclose(back.array[inside], ramp(reference)[inside], atol=2e-3)


def test_a_probability_on_the_reference_grid_returns_unchanged():
    placement = Placement.of(PICAI, tilted_grid((40, 36, 9), (0.8, 0.9, 3.0)))
    probability = np.random.default_rng(0).random((9, 36, 40)).astype(np.float32)
    np.testing.assert_array_equal(placement.to_file(probability).array, probability)


def test_predictions_outside_the_central_box_are_zero():
    placement = Placement.of(
        with_geometry(PICAI, keep_central_mm_zyx=(9.0, 18.0, 8.0)), tilted_grid((20, 30, 9), (0.8, 0.9, 3.0))
    )
    # z: 9 slices of 3 mm, 9 mm keep the middle 3; y: 18 mm keep 20 of 30 voxels of 0.9 mm; x: 8 mm keep 10 of 20.
    expected = np.zeros((9, 30, 20))
    expected[3:6, 5:25, 5:15] = 1
    np.testing.assert_array_equal(placement.to_file(np.ones((9, 30, 20), np.float32)).array, expected)
    np.testing.assert_array_equal(placement.kept_region(), expected > 0)


def test_the_central_box_follows_the_cards_exchanged_axes():
    card = with_geometry(PICAI, orientation="LPS", keep_central_mm_zyx=(9.0, 18.0, 8.0))
    sagittal = Grid((9, 20, 30), (3.0, 0.8, 0.9), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0))
    placement = Placement.of(card, sagittal)
    assert placement.reference.shape_zyx == (9, 30, 20)
    expected = np.zeros((30, 20, 9), bool)
    expected[5:25, 5:15, 3:6] = True
    np.testing.assert_array_equal(placement.kept_region(), expected)


@pytest.mark.parametrize(
    ("card", "reference", "voxels_zyx"),
    [
        pytest.param(PICAI, ((640, 640, 31), (0.5, 0.5, 3.0)), (27, 384, 384), id="81 mm of 3 mm slices"),
        pytest.param(RSNA, ((320, 320, 24), (0.5, 0.5, 3.6)), (20, 160, 160), id="its crop"),
    ],
)
def test_the_kept_region_of_a_challenges_card_has_its_size(card, reference, voxels_zyx):
    region = Placement.of(card, tilted_grid(*reference)).kept_region()
    found = tuple(int(region.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1)))
    assert found == voxels_zyx
    assert region.sum() == np.prod(voxels_zyx)


@pytest.mark.parametrize("geometry", ["cspca-picai", "cspca-rsna2022", "LPS"])
def test_boxes_stay_where_their_voxels_are_in_the_patient(geometry):
    """By the grids' own way from voxels to the patient: corners of the box on both grids are the same places."""
    card = with_geometry(PICAI, orientation="LPS") if geometry == "LPS" else load_card(geometry)
    native = tilted_grid((30, 24, 9), (0.8, 0.9, 3.0))
    placement = Placement.of(card, native)
    box = np.array([[1.0, 2.0, 3.5, 4.0, 9.0, 8.25]])
    reference = native if card.geometry.orientation == "native" else along_axes(native, axes_to_lps(native))

    def places(grid, corners_zyx):
        index = (np.array(corners_zyx) - 0.5)[:, ::-1]
        direction = np.array(grid.direction).reshape(3, 3)
        return np.array(grid.origin_mm_xyz) + (index * grid.spacing_mm_xyz) @ direction.T

    found = placement.boxes_to_reference(box).reshape(2, 3)
    np.testing.assert_allclose(places(reference, found), places(placement.grid, box.reshape(2, 3)), atol=1e-4)


def test_boxes_of_a_grid_cut_from_the_reference_keep_whole_voxels():
    card = with_geometry(PICAI, spacing_mm_zyx=None, crop_size_zyx=(7, 20, 24))
    placement = Placement.of(card, tilted_grid((30, 24, 9), (0.8, 0.9, 3.0)))
    boxes = placement.boxes_to_reference(np.array([[0.0, 0, 0, 7, 20, 24]]))
    np.testing.assert_array_equal(boxes, [[1, 2, 3, 8, 22, 27]])  # (9 - 7) / 2, (24 - 20) / 2, (30 - 24) / 2


# What of the network's grid the central box depends on


@pytest.mark.parametrize(
    ("spacing", "target", "transpose"),
    list(product([None, (3.0, 1.3, 1.1)], [(3.0, 1.0, 1.0), (2.2, 0.8, 1.7), (6.5, 2.5, 0.6)], [(0, 1, 2), (1, 2, 0)])),
)
def test_what_is_outside_the_region_cannot_be_seen_in_the_box(
    tmp_path, tiny_plans, tiny_dataset, spacing, target, transpose
):
    plans = copy.deepcopy(tiny_plans)
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [transpose.index(axis) for axis in range(3)]
    plans["configurations"]["3d_fullres"]["spacing"] = [target[axis] for axis in transpose]
    card = with_geometry(PICAI, keep_central_mm_zyx=(21.0, 25.0, 33.0), spacing_mm_zyx=spacing, crop_size_zyx=None)
    reference = tilted_grid((90, 80, 17), (0.9, 1.0, 3.0))
    grids = {"t2w": reference, "adc": tilted_grid((70, 66, 20), (2.0, 2.0, 3.0)), "hbv": reference}
    rng, paths = np.random.default_rng(0), {}
    for name, grid in grids.items():
        array = 1000 + 10 * rng.random(grid.shape_zyx, dtype=np.float32)
        if name != "adc":
            array[:, :9] = array[:, :, :5] = 0
        paths[name] = tmp_path / f"{name}.mha"
        write_volume(paths[name], Volume(array, grid))
    study = read_study(card, paths)
    preprocessed = preprocess(study.array, study.placement.spacing_mm_zyx, plans=plans, dataset=tiny_dataset)
    box = study.placement.kept_box()
    assert box is not None
    region = preprocessed.grid.region_of(box)
    assert region is not None
    probability = np.random.default_rng(1).random((1, *preprocessed.data.shape[1:]), dtype=np.float32)
    inside = np.zeros_like(probability)
    inside[(0, *region)] = probability[(0, *region)]
    assert 0 < np.count_nonzero(inside) < 0.6 * inside.size
    found, expected = (
        study.placement.to_file(preprocessed.grid.to_study_grid(each)[0]).array for each in (inside, probability)
    )
    assert np.count_nonzero(expected) > 1000
    np.testing.assert_array_equal(found, expected)


def test_without_a_central_box_everything_is_needed():
    bare = with_geometry(PICAI, keep_central_mm_zyx=None)
    assert Placement.of(bare, tilted_grid((40, 36, 9), (0.9, 1.0, 3.0))).kept_box() is None
