from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.cards import Card, load_card
from contract.errors import OncoduetError
from contract.volume import Grid, Volume, write_volume
from network.study import (
    StudyImage,
    network_spacing_mm_zyx,
    predicted_region,
    read_study,
    read_study_label,
    study_grid,
    to_reference,
)

GridMaker = Callable[..., Grid]


def centre_mm(grid: Grid) -> np.ndarray:
    return grid.corners_mm().mean(axis=0)


def slice_positions_mm(grid: Grid) -> np.ndarray:
    """Where the slices lie along the grid's own third axis."""
    normal = np.array(grid.direction).reshape(3, 3)[:, 2]
    return np.array(grid.origin_mm_xyz) @ normal + np.arange(grid.size_xyz[2]) * grid.spacing_mm_xyz[2]


def with_geometry(card: Card, **changes: object) -> Card:
    return card.model_copy(update={"geometry": card.geometry.model_copy(update=changes)})


@pytest.fixture
def picai() -> Card:
    return load_card("cspca-picai")


@pytest.fixture
def rsna() -> Card:
    return load_card("cspca-rsna2022")


def ramp(grid: Grid) -> np.ndarray:
    """A value that grows linearly through the patient, so that every position has its own."""
    x, y, z = grid.centres_mm()
    return (500 + 2 * x - 3 * y + 5 * z).astype(np.float32)


@pytest.fixture
def make_study_files(tmp_path: Path, make_grid: GridMaker) -> Callable[..., dict[str, Path]]:
    def make(reference: Grid) -> dict[str, Path]:
        grids = {
            "t2w": reference,
            "adc": make_grid((90, 92, 30), (1.61, 1.72, 3.9)),
            "hbv": make_grid((100, 95, 34), (1.5, 1.6, 3.3)),
        }
        paths = {}
        for number, (channel, grid) in enumerate(grids.items()):
            paths[channel] = tmp_path / f"study_{channel}.mha"
            write_volume(paths[channel], Volume(ramp(grid) + 100 * np.float32(number), grid))
        return paths

    return make


def test_without_spacing_and_crop_the_study_grid_is_the_reference_grid(picai: Card, make_grid: GridMaker) -> None:
    reference = make_grid((40, 36, 9), (0.8, 0.9, 3.0))
    assert study_grid(picai, reference) == reference
    assert network_spacing_mm_zyx(picai, reference) == (3.0, 0.9, 0.8)


def test_resampled_axes_get_the_cards_spacing_and_crop_around_the_middle_of_the_reference(
    rsna: Card, make_grid: GridMaker
) -> None:
    reference = make_grid((201, 190, 31), (0.6, 0.7, 2.2))
    grid = study_grid(rsna, reference)
    assert grid.size_xyz == (160, 160, 20)
    assert grid.spacing_mm_xyz == (0.5, 0.5, 3.6)
    assert grid.direction == reference.direction
    np.testing.assert_allclose(centre_mm(grid), centre_mm(reference), atol=1e-9)


@pytest.mark.parametrize(("slices", "first"), [(25, 2), (24, 2), (20, 0), (19, 0), (17, -1), (16, -2)])
def test_native_slices_are_kept_where_they_lie_and_labelled_with_the_cards_spacing(
    rsna: Card, make_grid: GridMaker, slices: int, first: int
) -> None:
    reference = make_grid((300, 310, slices), (0.6, 0.7, 3.0))
    grid = study_grid(rsna, reference)
    assert grid.spacing_mm_xyz == (0.5, 0.5, 3.0)
    positions = slice_positions_mm(reference)[0] + 3.0 * (first + np.arange(20))
    np.testing.assert_allclose(slice_positions_mm(grid), positions, atol=1e-9)
    assert network_spacing_mm_zyx(rsna, grid) == (3.6, 0.5, 0.5)


@pytest.mark.parametrize(
    ("spacing_z_mm", "kept"), [(2.9, False), (2.91, True), (4.29, True), (4.3, False), (5.0, False)]
)
def test_slices_are_native_strictly_between_the_cards_bounds(
    rsna: Card, make_grid: GridMaker, spacing_z_mm: float, kept: bool
) -> None:
    grid = study_grid(rsna, make_grid((320, 320, 20), (0.5, 0.5, spacing_z_mm)))
    assert grid.spacing_mm_xyz[2] == (spacing_z_mm if kept else 3.6)


def test_axes_that_have_the_cards_spacing_already_are_cropped_by_whole_voxels(rsna: Card, make_grid: GridMaker) -> None:
    reference = make_grid((321, 320, 20), (0.5, 0.5, 3.6))
    grid = study_grid(rsna, reference)
    step = np.linalg.inv(np.array(reference.direction).reshape(3, 3)) @ (
        np.array(grid.origin_mm_xyz) - np.array(reference.origin_mm_xyz)
    )
    np.testing.assert_allclose(step / np.array(reference.spacing_mm_xyz), [80, 80, 0], atol=1e-9)


def test_spacing_without_a_crop_covers_the_whole_reference(picai: Card, make_grid: GridMaker) -> None:
    reference = make_grid((40, 36, 9), (0.8, 0.9, 3.0))
    grid = study_grid(with_geometry(picai, spacing_mm_zyx=(6.0, 2.0, 2.0)), reference)
    assert grid.size_xyz == (16, 16, 4)  # 32 mm, 32.4 mm and 27 mm (4.5 rounds to the even 4)
    np.testing.assert_allclose(centre_mm(grid), centre_mm(reference), atol=1e-9)


def test_every_channel_is_brought_to_the_same_places_of_the_patient(
    rsna: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]]
) -> None:
    study = read_study(rsna, make_study_files(make_grid((300, 310, 24), (0.6, 0.7, 3.0))), name="s")
    assert study.array.shape == (3, 20, 160, 160)
    assert study.array.dtype == np.float32
    for number, channel in enumerate(study.array):
        np.testing.assert_allclose(channel, ramp(study.grid) + 100 * number, atol=0.5)


def test_voxels_beyond_a_channels_field_of_view_get_its_fill_value(
    picai: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    card = picai.model_copy(
        update={
            "channels": tuple(
                each.model_copy(update={"outside": -7.0}) if each.name == "adc" else each for each in picai.channels
            )
        }
    )
    paths = make_study_files(make_grid((60, 50, 9), (0.8, 0.9, 3.0)))
    small = make_grid((10, 10, 4), (2.0, 2.0, 3.0))
    nearly_even = 900 + 0.01 * np.random.default_rng(1).random((4, 10, 10), np.float32)
    write_volume(paths["adc"], Volume(nearly_even, small))
    adc = read_study(card, paths, name="s").array[1]
    assert adc[0, 0, 0] == -7.0
    assert adc[4, 25, 30] == pytest.approx(900, abs=0.1)


def test_a_probability_comes_back_to_the_same_places_of_the_patient(
    rsna: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]]
) -> None:
    reference = make_grid((300, 310, 24), (0.6, 0.7, 3.0))
    study = read_study(rsna, make_study_files(reference), name="s")
    back = to_reference(rsna, ramp(study.grid) / 1000, study)
    assert back.grid == reference
    assert back.array.dtype == np.float32
    inside = back.array > 0
    assert inside.sum() == pytest.approx(20 * 160 * 160 * 0.25 / 0.42, rel=0.02)
    np.testing.assert_allclose(back.array[inside], ramp(reference)[inside] / 1000, atol=2e-3)


def test_a_probability_on_the_reference_grid_comes_back_unchanged(picai: Card, make_grid: GridMaker) -> None:
    reference = make_grid((40, 36, 9), (0.8, 0.9, 3.0))
    study = StudyImage(np.zeros((3, 9, 36, 40), np.float32), reference, reference, (3.0, 0.9, 0.8))
    probability = np.random.default_rng(0).random((9, 36, 40)).astype(np.float32)
    np.testing.assert_array_equal(to_reference(picai, probability, study).array, probability)


def test_predictions_outside_the_central_box_are_zero(picai: Card, make_grid: GridMaker) -> None:
    card = with_geometry(picai, keep_central_mm_zyx=(9.0, 18.0, 8.0))
    reference = make_grid((20, 30, 9), (0.8, 0.9, 3.0))
    study = StudyImage(np.zeros((3, 9, 30, 20), np.float32), reference, reference, (3.0, 0.9, 0.8))
    kept = to_reference(card, np.ones((9, 30, 20), np.float32), study).array
    # z: 9 slices of 3 mm, 9 mm keep the middle 3; y: 18 mm keep 20 of 30 voxels of 0.9 mm; x: 8 mm keep 10 of 20.
    expected = np.zeros((9, 30, 20))
    expected[3:6, 5:25, 5:15] = 1
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(predicted_region(card, reference), expected > 0)


def test_the_central_box_of_the_picai_card_is_20_by_384_by_384_voxels_of_the_challenge(
    picai: Card, make_grid: GridMaker
) -> None:
    region = predicted_region(picai, make_grid((640, 640, 31), (0.5, 0.5, 3.0)))
    assert region.any(axis=(1, 2)).sum() == 27  # 81 mm of 3 mm slices
    assert region[15].any(axis=0).sum() == 384
    assert region[15].any(axis=1).sum() == 384


def test_the_predicted_region_of_a_cropping_card_is_its_crop(rsna: Card, make_grid: GridMaker) -> None:
    region = predicted_region(rsna, make_grid((320, 320, 24), (0.5, 0.5, 3.6)))
    assert region.any(axis=(1, 2)).sum() == 20
    assert region.sum() == 20 * 160 * 160


def test_label_values_become_class_indices_on_the_study_grid(
    rsna: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    card = rsna.model_copy(
        update={
            "classes": (
                rsna.classes[0].model_copy(update={"name": "zone", "values": (7,)}),
                rsna.classes[0].model_copy(update={"values": (2, 4)}),
            )
        }
    )
    reference = make_grid((300, 310, 24), (0.6, 0.7, 3.0))
    study = read_study(card, make_study_files(reference), name="s")
    label = np.zeros(reference.shape_zyx, np.int32)
    label[10:14, 150:160, 140:150] = 2
    label[10:14, 160:170, 140:150] = 4
    label[10:14, 170:180, 140:150] = 7
    write_volume(tmp_path / "label.nii.gz", Volume(label, reference))
    classes = read_study_label(card, tmp_path / "label.nii.gz", study)
    assert classes.shape == (20, 160, 160)
    volume_ml = np.bincount(classes.ravel(), minlength=3)[1:] * study.grid.voxel_volume_ml
    np.testing.assert_allclose(volume_ml, np.array([400, 800]) * reference.voxel_volume_ml, rtol=0.03)


def test_a_label_map_on_another_grid_than_the_reference_is_refused(
    picai: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    study = read_study(picai, make_study_files(make_grid((40, 36, 9), (0.8, 0.9, 3.0))), name="s")
    write_volume(
        tmp_path / "label.nii.gz", Volume(np.zeros((9, 36, 41), np.int32), make_grid((41, 36, 9), (0.8, 0.9, 3.0)))
    )
    with pytest.raises(OncoduetError, match=r"label\.nii\.gz: expected the grid of the reference channel"):
        read_study_label(picai, tmp_path / "label.nii.gz", study)


def test_a_label_value_that_the_card_does_not_name_is_refused(
    picai: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    reference = make_grid((40, 36, 9), (0.8, 0.9, 3.0))
    study = read_study(picai, make_study_files(reference), name="s")
    write_volume(tmp_path / "label.nii.gz", Volume(np.full(reference.shape_zyx, 6, np.int32), reference))
    with pytest.raises(OncoduetError, match=r"expected label values \[0, 1, 2, 3, 4, 5\], found \[6\]"):
        read_study_label(picai, tmp_path / "label.nii.gz", study)


def test_channels_with_disjoint_fields_of_view_are_refused(
    picai: Card, make_grid: GridMaker, make_study_files: Callable[..., dict[str, Path]]
) -> None:
    paths = make_study_files(make_grid((40, 36, 9), (0.8, 0.9, 3.0)))
    away = make_grid((10, 10, 4), (2.0, 2.0, 3.0), centre_mm=(500.0, 0.0, 0.0))
    write_volume(paths["hbv"], Volume(np.ones((4, 10, 10), np.float32), away))
    with pytest.raises(OncoduetError, match=r"study s: expected .*study_hbv\.mha to share a field of view with 't2w'"):
        read_study(picai, paths, name="s")


@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
def test_the_lesion_of_a_real_study_lies_within_the_study_grid(real_data: Path, card_name: str) -> None:
    card = load_card(card_name)
    folder = real_data / "prostatex" / "mha" / "11373_1001396"
    study = read_study(card, {name: folder / f"11373_1001396_{name}.mha" for name in card.channel_names}, name="0000")
    labels = real_data / "prostatex" / "labels"
    lesion = read_study_label(card, labels / "csPCa_lesion_human_expert_resampled" / "11373_1001396.nii.gz", study) > 0
    gland = read_study_label(card, labels / "whole_gland_Bosma22b" / "11373_1001396.nii.gz", study) > 0
    # 0.31 mL by the data's README; both cards keep its 3 mm slices of 0.5 mm pixels.
    assert lesion.sum() * study.grid.voxel_volume_ml == pytest.approx(0.3105, abs=1e-4)
    assert (lesion & gland).sum() > 0.9 * lesion.sum()
    adc = study.array[card.channel_names.index("adc")]
    assert np.median(adc[lesion]) < np.median(adc[gland & ~lesion])  # restricted diffusion
