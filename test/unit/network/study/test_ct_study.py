"""CT studies: axes of any orientation, regions, and what is refused."""

import numpy as np
import pytest
import SimpleITK as sitk
from refusals import refused_with
from studies import read_study, read_study_label, with_geometry

from contract.card import load_card
from contract.images.grid import Grid, axes_to_lps
from contract.images.volume import Volume, read_volume, write_volume
from network.study.placement import Placement
from network.study.scan import read_scan, stack

SIZE_XYZ, SPACING_MM_XYZ = (22, 18, 9), (1.5, 1.75, 4.0)


def ct_grid(*signs, tilt_rad=0.0):
    """A grid around the origin whose axes run as the signs say, tilted about the patient's long axis."""
    cos, sin = np.cos(tilt_rad), np.sin(tilt_rad)
    direction = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(signs).astype(float)
    corner = -direction @ ((np.array(SIZE_XYZ) - 1) / 2 * np.array(SPACING_MM_XYZ))
    return Grid(SIZE_XYZ, SPACING_MM_XYZ, tuple(corner.tolist()), tuple(direction.ravel().tolist()))


def hounsfield(grid):
    """Air around a body that differs along all directions."""
    x, y, z = grid.centres_mm()
    body = 60 + x - 2 * y + 1.5 * z + 200 * (np.hypot(x - 4, y - 5) < 3)
    return np.where((x / 14) ** 2 + (y / 13) ** 2 <= 1, body, -1000.0)


@pytest.fixture
def panorama():
    return load_card("pdac-panorama")


@pytest.fixture
def write_ct(tmp_path):
    def write(grid, *, dtype=np.int16, name="ct", array=None):
        path = tmp_path / f"{name}.mha"
        write_volume(path, Volume((hounsfield(grid) if array is None else array).astype(dtype), grid))
        return path

    return write


@pytest.mark.parametrize("tilt_rad", [0.0, 0.2])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)])
def test_every_orientation_gives_the_same_study_and_returns_to_its_axes(panorama, write_ct, signs, tilt_rad):
    plain = read_study(panorama, {"ct": write_ct(ct_grid(1, 1, 1, tilt_rad=tilt_rad))})
    grid = ct_grid(*signs, tilt_rad=tilt_rad)
    flipped = read_study(panorama, {"ct": write_ct(grid)})
    assert np.array_equal(flipped.array, plain.array)
    assert flipped.placement.native == grid
    probability = (flipped.array[0] + 1000) / 2000
    back = flipped.placement.to_file(probability)
    assert back.grid == grid
    expected = np.clip((hounsfield(grid).astype(np.int16).astype(np.float32) + 1000) / 2000, 0, 1)
    assert np.array_equal(back.array, expected)


def test_axes_in_another_order_are_exchanged(panorama, tmp_path, write_ct):
    """A sagittal acquisition: slices run from right to left."""
    plain = read_study(panorama, {"ct": write_ct(ct_grid(1, 1, 1))})
    sagittal = sitk.PermuteAxes(sitk.ReadImage(str(tmp_path / "ct.mha")), [1, 2, 0])
    sitk.WriteImage(sagittal, str(tmp_path / "sagittal.mha"))
    assert np.array_equal(read_study(panorama, {"ct": tmp_path / "sagittal.mha"}).array, plain.array)


def test_a_region_keeps_its_voxels_and_returns_to_its_place(panorama, write_ct):
    grid = ct_grid(-1, -1, 1)
    region = (slice(2, 7), slice(3, 15), slice(5, 20))
    scan = read_scan(panorama, {"ct": write_ct(grid)}, name="s")
    placement = Placement.of(panorama, grid, region=region)
    array = stack(scan, placement)
    axes = axes_to_lps(grid)
    whole = axes.apply(hounsfield(grid).astype(np.int16).astype(np.float32))
    assert np.array_equal(array[0], whole[region])
    back = placement.to_file(np.full(array.shape[1:], 0.5, np.float32))
    expected = np.zeros(grid.shape_zyx, np.float32)
    axes.apply(expected)[region] = 0.5
    assert np.array_equal(back.array, expected)
    assert back.grid == grid


def test_label_maps_are_rotated_with_the_image(panorama, write_ct, tmp_path):
    found = []
    for signs in [(1, 1, 1), (1, -1, -1)]:
        grid = ct_grid(*signs)
        x, y, z = grid.centres_mm()
        label = np.where((np.abs(x - 3) < 4) & (np.abs(y + 2) < 3) & (np.abs(z - 4) < 5), 4, 0)
        write_volume(tmp_path / "label.nii.gz", Volume(label.astype(np.uint8), grid))
        study = read_study(panorama, {"ct": write_ct(grid)})
        found.append(read_study_label(panorama, tmp_path / "label.nii.gz", study))
    assert np.array_equal(*found)
    assert set(np.unique(found[0])) == {0, 4}


def test_stage_1_sees_the_whole_scan_on_the_cards_coarse_grid(panorama, write_ct):
    coarse = read_study(panorama.localising(), {"ct": write_ct(ct_grid(1, 1, 1))})
    assert coarse.placement.spacing_mm_zyx == (9.0, 4.5, 4.5)
    assert coarse.array.shape == (1, 4, 7, 7)  # 36, 31.5 and 33 mm


def test_a_resampled_ct_is_padded_with_air(panorama, write_ct):
    scan = read_scan(panorama, {"ct": write_ct(ct_grid(1, 1, 1))}, name="s")
    cropping = with_geometry(panorama, crop_size_zyx=(9, 18, 40))
    array = stack(scan, Placement.of(cropping, scan.native))
    assert array.shape == (1, 9, 18, 40)
    assert (array[..., :9] == -1024).all()
    assert (array[..., -9:] == -1024).all()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_a_ct_may_be_stored_as_any_number(panorama, write_ct, dtype):
    grid = ct_grid(1, 1, 1)
    stored = read_study(panorama, {"ct": write_ct(grid, dtype=dtype, array=np.round(hounsfield(grid)))})
    assert stored.array.dtype == np.float32
    assert np.array_equal(stored.array[0], np.round(hounsfield(grid)).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_an_mr_may_be_stored_as_any_number(tmp_path, dtype):
    card = load_card("cspca-picai")
    grid = Grid((20, 18, 6), (0.5, 0.5, 3.0), (1.0, 2.0, 3.0), ct_grid(1, 1, 1).direction)
    array = np.random.default_rng(1).integers(210, 255, (3, *grid.shape_zyx))
    paths = {name: tmp_path / f"{name}.mha" for name in card.channel_names}
    for path, each in zip(paths.values(), array, strict=True):
        write_volume(path, Volume(each.astype(dtype), grid))
    assert np.array_equal(read_study(card, paths).array, array.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "found"), [((0.0, 900.0), "0 to 900"), ((0.0, 255.0), "0 to 255"), ((-1000.0, 60.0), "-1000 to 60")]
)
def test_intensities_that_no_ct_has_are_refused(panorama, write_ct, values, found):
    grid = ct_grid(1, 1, 1)
    array = np.linspace(*values, num=int(np.prod(grid.shape_zyx))).reshape(grid.shape_zyx)
    path = write_ct(grid, dtype=np.float32, array=array)
    with refused_with(r"ct\.mha", expected="intensities of 'ct'", found=found):
        read_study(panorama, {"ct": path})


def test_a_single_slice_is_refused(panorama, tmp_path):
    grid = Grid((22, 18, 1), SPACING_MM_XYZ, (0.0, 0.0, 0.0), ct_grid(1, 1, 1).direction)
    write_volume(tmp_path / "ct.mha", Volume(np.zeros((1, 18, 22), np.int16), grid))
    with refused_with("study s", expected=r"ct\.mha to have several slices.", found="22 × 18 × 1"):
        read_study(panorama, {"ct": tmp_path / "ct.mha"})


@pytest.mark.parametrize("spacing", ["0 1.75 4", "-1.5 1.75 4"])
def test_a_spacing_of_zero_or_less_is_refused(panorama, write_ct, spacing):
    path = write_ct(ct_grid(1, 1, 1))
    content = path.read_bytes()
    assert b"ElementSpacing = 1.5 1.75 4" in content
    path.write_bytes(content.replace(b"ElementSpacing = 1.5 1.75 4", f"ElementSpacing = {spacing}".encode()))
    with refused_with(r"ct\.mha", expected="."):
        read_study(panorama, {"ct": path})


def test_headers_that_differ_by_rounding_are_one_grid_and_others_are_not(tmp_path):
    card = load_card("cspca-picai")
    grid = Grid((20, 18, 6), (0.5, 0.5, 3.0), (1.0, 2.0, 3.0), ct_grid(1, 1, 1).direction)
    noise = 1000 + np.random.default_rng(1).random((3, *grid.shape_zyx)).astype(np.float32)

    def stacked(shift_mm):
        paths = {}
        for channel, array in zip(card.channel_names, noise, strict=True):
            x, y, z = grid.origin_mm_xyz
            moved = Grid(grid.size_xyz, grid.spacing_mm_xyz, (x + shift_mm * (channel == "adc"), y, z), grid.direction)
            paths[channel] = tmp_path / f"{channel}.mha"
            write_volume(paths[channel], Volume(array, moved))
        return read_study(card, paths).array

    assert np.array_equal(stacked(1e-6), noise)
    assert not np.array_equal(stacked(0.25)[1], noise[1])
    with refused_with("study s", expected=r"adc\.mha to share a field of view with 't2w'"):
        stacked(40.0)


@pytest.mark.data
def test_a_real_mr_is_no_ct_and_a_real_ct_is_one(panorama, real_data):
    mr = real_data / "ct" / "example_mr_sm.nii.gz"
    with refused_with(r"example_mr_sm\.nii\.gz", expected="intensities of 'ct'"):
        read_study(panorama, {"ct": mr}, name="mr")
    native = real_data / "ct" / "example_ct.nii.gz"  # direction (-1, -1, 1)
    study = read_study(panorama, {"ct": native}, name="ct")
    assert np.array_equal(study.array[0], read_volume(native).array[:, ::-1, ::-1])
