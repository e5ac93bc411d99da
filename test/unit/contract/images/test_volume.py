"""Voxels, checked against formulas that do not use SimpleITK."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_makers import place_mm
from refusals import refused_with

from contract.images.grid import Grid, fields_of_view_meet, same_grid
from contract.images.volume import (
    Volume,
    from_image,
    image_stem,
    is_image,
    read_grid,
    read_label,
    read_volume,
    resample,
    to_image,
    write_volume,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def save(path: Path, array: np.ndarray, *, vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def index_of(grid: Grid, place: np.ndarray) -> np.ndarray:
    """The continuous index of a place; the axes are perpendicular unit vectors."""
    axes = np.array(grid.direction).reshape(3, 3).T
    return (place - np.array(grid.origin_mm_xyz)) @ axes.T / np.array(grid.spacing_mm_xyz)


def linear_in_space(grid: Grid) -> np.ndarray:
    """A field that linear interpolation reproduces exactly: 3 + 0.5 x - 0.25 y + 0.125 z at each voxel's centre."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    place = place_mm(grid, np.stack([x, y, z], axis=-1).astype(float))
    return (3 + place @ np.array([0.5, -0.25, 0.125])).astype(np.float32)


def test_an_array_that_does_not_fit_its_grid_is_a_bug(tilted_grid: Grid) -> None:
    with pytest.raises(ValueError, match=r"array \(11, 7, 5\) does not fit the grid \(5, 7, 11\)"):
        Volume(np.zeros((11, 7, 5)), tilted_grid)


def test_a_metaimage_keeps_voxels_and_header_to_the_last_bit(tmp_path: Path, noise: Volume) -> None:
    write_volume(tmp_path / "a.mha", noise)
    assert read_grid(tmp_path / "a.mha") == noise.grid
    read = read_volume(tmp_path / "a.mha")
    assert read.grid == noise.grid
    assert read.array.dtype == np.float32
    assert np.array_equal(read.array, noise.array)
    assert b"CompressedData = True" in (tmp_path / "a.mha").read_bytes()


def test_a_nifti_keeps_voxels_exactly_and_the_header_to_single_precision(tmp_path: Path, noise: Volume) -> None:
    write_volume(tmp_path / "a.nii.gz", noise)
    read = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(read.array, noise.array)
    assert read.grid != noise.grid
    assert read.grid.size_xyz == noise.grid.size_xyz
    assert same_grid(read.grid, noise.grid, tolerance_mm=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_every_type_of_voxel_comes_back_as_label_and_as_scan(
    tmp_path: Path, tilted_grid: Grid, dtype: type[np.generic]
) -> None:
    array = (np.arange(5 * 7 * 11).reshape(5, 7, 11) % 6).astype(dtype)
    write_volume(tmp_path / "a.nii.gz", Volume(array, tilted_grid))
    label = read_label(tmp_path / "a.nii.gz", range(6))
    assert label.array.dtype == np.int32
    assert np.array_equal(label.array, array)
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, array.astype(np.float32))


def test_conversion_to_simpleitk_and_back_changes_nothing(noise: Volume) -> None:
    image = to_image(noise)
    assert image.GetSize() == (11, 7, 5)
    assert image.TransformIndexToPhysicalPoint((9, 2, 4)) == pytest.approx(place_mm(noise.grid, np.array([9, 2, 4])))
    assert image.GetPixel(9, 2, 4) == noise.array[4, 2, 9]
    assert from_image(image).grid == noise.grid
    assert np.array_equal(from_image(image).array, noise.array)


def test_an_image_of_another_ending_is_not_written(tmp_path: Path, noise: Volume) -> None:
    with pytest.raises(ValueError, match=r"a.mhd: images are written as .mha or .nii.gz"):
        write_volume(tmp_path / "a.mhd", noise)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with refused_with("a.mha", "image not found"):
        read_volume(tmp_path / "a.mha")
    with refused_with(problem="not a regular file"):
        read_grid(tmp_path)


@pytest.mark.parametrize(("shape", "found"), [((7, 11), "2"), ((2, 3, 4, 5), "4")])
@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_an_image_that_is_not_3d_is_refused(tmp_path: Path, suffix: str, shape: tuple[int, ...], found: str) -> None:
    path = save(tmp_path / f"a{suffix}", np.zeros(shape, np.float32))
    with refused_with(f"a{suffix}", expected="a 3D image", found=f"'?{found}'?D?"):
        read_volume(path)


def test_vectors_or_complex_numbers_as_voxels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", np.zeros((3, 4, 5, 2), np.float32), vector=True)
    with refused_with(expected=r"one value per voxel \(ElementNumberOfChannels = 1\)", found="'2'"):
        read_volume(path)
    path = save(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.complex64))
    with refused_with("a.nii.gz", expected="real numbers as voxels", found="the NIfTI datatype 32"):
        read_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused_and_counted(tmp_path: Path, noise: Volume, value: float) -> None:
    noise.array[1, 2, 3] = value
    noise.array[4, 6, 10] = value
    write_volume(tmp_path / "a.mha", noise)
    with refused_with("a.mha", expected="finite voxels", found="2 NaN or infinite"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.filterwarnings("error")
def test_voxels_beyond_single_precision_are_refused(tmp_path: Path, tilted_grid: Grid) -> None:
    write_volume(tmp_path / "a.mha", Volume(np.full(tilted_grid.shape_zyx, 1e300), tilted_grid))
    with refused_with(expected="finite voxels", found="385 NaN or infinite"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.parametrize("value", [1e34, -2e12])
def test_voxels_that_no_scanner_measures_are_refused_by_the_images_name(
    tmp_path: Path, noise: Volume, value: float
) -> None:
    noise.array[1, 2, 3] = value
    write_volume(tmp_path / "a.mha", noise)
    with refused_with("a.mha", expected=r"voxels between -1e\+12 and 1e\+12"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "expected", "found"),
    [
        (-1, "no negative numbers in a label map", "-1"),
        *(
            (value, "whole numbers in a label map", "fractional or non-finite")
            for value in (0.5, np.nan, np.inf, 2.0**40)
        ),
    ],
)
def test_a_label_map_of_other_than_natural_numbers_is_refused(
    tmp_path: Path, tilted_grid: Grid, value: float, expected: str, found: str
) -> None:
    array = np.zeros(tilted_grid.shape_zyx, np.int16 if value == -1 else np.float64)
    array[2, 3, 4] = value
    write_volume(tmp_path / "a.mha", Volume(array, tilted_grid))
    with refused_with("a.mha", expected=expected, found=found):
        read_label(tmp_path / "a.mha")


def test_a_label_map_with_unknown_values_is_refused_and_they_are_named(tmp_path: Path, tilted_grid: Grid) -> None:
    array = (np.arange(5 * 7 * 11).reshape(5, 7, 11) % 9).astype(np.uint8)
    write_volume(tmp_path / "a.nii.gz", Volume(array, tilted_grid))
    assert read_label(tmp_path / "a.nii.gz").array.max() == 8
    with refused_with(expected=r"label values \[0, 1, 2, 3, 4, 5\]", found=r"\[6, 7, 8\]"):
        read_label(tmp_path / "a.nii.gz", [0, 1, 2, 3, 4, 5])


def test_linear_resampling_onto_a_tilted_grid_agrees_with_the_formula(tilted_grid: Grid) -> None:
    source = replace(tilted_grid, size_xyz=(21, 17, 13), direction=IDENTITY, spacing_mm_xyz=(1.1, 1.3, 1.7))
    target = replace(tilted_grid, size_xyz=(9, 8, 6), spacing_mm_xyz=(1.9, 2.3, 3.1), origin_mm_xyz=(6.0, -3.0, 13.0))
    found = resample(Volume(linear_in_space(source), source), target, interpolation="linear", outside=-7.0)
    z, y, x = np.meshgrid(*(np.arange(n) for n in target.shape_zyx), indexing="ij")
    index = index_of(source, place_mm(target, np.stack([x, y, z], axis=-1).astype(float)))
    inside = ((index >= 0) & (index <= np.array(source.size_xyz) - 1)).all(axis=-1)
    beyond = ((index < -0.5) | (index > np.array(source.size_xyz) - 0.5)).any(axis=-1)
    assert inside.sum() > 50
    assert beyond.sum() > 20
    assert np.abs(found.array - linear_in_space(target))[inside].max() < 1e-4
    assert np.all(found.array[beyond] == -7.0)
    assert found.grid == target


def test_b_splines_reproduce_a_smooth_field_better_than_lines_do(tilted_grid: Grid) -> None:
    source = replace(tilted_grid, size_xyz=(31, 27, 23), spacing_mm_xyz=(1.0, 1.1, 1.3))
    target = replace(source, size_xyz=(15, 14, 11), origin_mm_xyz=tuple(place_mm(source, np.array([7.4, 6.3, 5.6]))))

    def wave(grid: Grid) -> np.ndarray:
        return np.sin(grid.centres_mm().sum(axis=0) / 4).astype(np.float32)

    errors = {
        kind: np.abs(
            resample(Volume(wave(source), source), target, interpolation=kind, outside=0.0).array - wave(target)
        ).max()
        for kind in ("b-spline", "linear")
    }
    assert errors["b-spline"] < 0.01 < errors["linear"]


def test_nearest_resampling_invents_no_value_and_copies_the_nearest_voxel(tilted_grid: Grid) -> None:
    array = (np.arange(5 * 7 * 11).reshape(5, 7, 11) % 7 * 10).astype(np.int32)
    target = replace(tilted_grid, size_xyz=(6, 5, 4), spacing_mm_xyz=(0.4, 1.2, 3.0))
    found = resample(Volume(array, tilted_grid), target, interpolation="nearest", outside=99)
    assert found.array.dtype == np.int32
    for z, y, x in np.ndindex(found.array.shape):
        index = index_of(tilted_grid, place_mm(target, np.array([x, y, z], float)))
        nearest = np.round(index).astype(int)
        if np.all(np.abs(index - nearest) < 0.49) and np.all((nearest >= 0) & (nearest < tilted_grid.size_xyz)):
            assert found.array[z, y, x] == array[tuple(nearest[::-1])]


def test_resampling_onto_the_same_grid_changes_no_bit(noise: Volume) -> None:
    assert np.array_equal(resample(noise, noise.grid, interpolation="b-spline", outside=0.0).array, noise.array)


@pytest.mark.parametrize(
    ("name", "stem"), [("a.mha", "a"), ("10_1.nii.gz", "10_1"), ("a.b.nii", "a.b"), ("02-18-2011.mha", "02-18-2011")]
)
def test_the_name_of_an_image_without_its_ending(name: str, stem: str) -> None:
    assert image_stem(Path("folder") / name) == stem


def test_other_names_keep_their_ending() -> None:
    assert image_stem(Path("a.json")) == "a.json"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.mha", True), ("a.nii.gz", True), ("a.gz", False), (".a.mha", False), ("a.mha.txt", False)],
)
def test_images_are_known_by_their_ending(tmp_path: Path, name: str, expected: bool) -> None:
    (tmp_path / name).write_bytes(b"")
    assert is_image(tmp_path / name) is expected


@pytest.mark.data
def test_the_real_studies_are_read_with_their_own_grids(real_data: Path) -> None:
    """Sizes and spacings as the data's README gives them."""
    folder = real_data / "prostatex" / "mha" / "ProstateX-0218_02-18-2011"
    t2w = read_volume(folder / "ProstateX-0218_02-18-2011_t2w.mha")
    adc = read_grid(folder / "ProstateX-0218_02-18-2011_adc.mha")
    assert t2w.grid.size_xyz == (320, 320, 20)
    assert t2w.grid.spacing_mm_zyx == pytest.approx((3.6, 0.625, 0.625), abs=1e-3)
    assert adc.shape_zyx == (20, 130, 160)
    assert fields_of_view_meet(t2w.grid, adc)
    assert not same_grid(t2w.grid, adc)
