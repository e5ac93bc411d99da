"""Damaged and ambiguous headers of a NIfTI, which ITK would read without complaint."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_makers import nifti_header
from refusals import refused_with

from contract.images.volume import read_grid, read_label, read_volume


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600), "NIfTI-2"),
        (struct.pack(">i", 348) + bytes(340) + b"ni1\0", "half of a NIfTI-1 whose voxels are in another file"),
        (bytes(600), "none"),
    ],
)
def test_another_kind_of_nifti_is_refused_by_its_name(tmp_path: Path, header: bytes, found: str) -> None:
    (tmp_path / "a.nii").write_bytes(header)
    with refused_with("a.nii", expected="the header of a single-file NIfTI-1", found=found):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_in_either_byte_order_is_measured(tmp_path: Path, order: str) -> None:
    voxels = np.arange(60, dtype=f"{order}f4").tobytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_header(order, (3, 4, 5)) + voxels))
    assert np.array_equal(read_volume(path).array, np.arange(60, dtype=np.float32).reshape(5, 4, 3))
    path.write_bytes(gzip.compress(nifti_header(order, (3, 4, 6)) + voxels))
    with refused_with(expected="288 bytes of voxels", found="240: truncated"):
        read_volume(path)


@pytest.mark.parametrize(
    ("sizes", "found"), [((3, 0, 5), r"\[3, 0, 5\]"), ((3, -4, 5), r"\[3, -4, 5\]"), ((), r"\[\]")]
)
def test_a_nifti_header_without_positive_sizes_is_refused(tmp_path: Path, sizes: tuple[int, ...], found: str) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_header("<", sizes) + bytes(240))
    with refused_with(expected="positive sizes in the NIfTI header", found=found):
        read_volume(path)


def test_voxels_that_begin_inside_the_header_or_nowhere_are_refused(tmp_path: Path) -> None:
    header = bytearray(nifti_header("<", (3, 4, 5)))
    for begin in (0.0, 348.0, 352.5, NAN, float("inf"), 1e30, 1e18, -1e18):
        struct.pack_into("<f", header, 108, begin)
        (tmp_path / "a.nii").write_bytes(bytes(header) + bytes(240))
        with refused_with(expected="vox_offset from 352 to 16777216", found=rf"^{re.escape(f'{begin:g}')}$"):
            read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_a_nifti_is_refused_although_itk_reads_zeros(tmp_path: Path, order: str, value: float) -> None:
    voxels = np.ones(60, dtype=f"{order}f4")
    voxels[[7, 59]] = value
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_header(order, (3, 4, 5)) + voxels.tobytes()))
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).sum() == 58
    with refused_with("a.nii.gz", expected="finite voxels", found="2 NaN or infinite"):
        read_volume(path)
    with refused_with("a.nii.gz", expected="whole numbers in a label map"):
        read_label(path)


NAN = float("nan")


INF = float("inf")


TURNED = (0, 1, 0, 0, 0, 0, 0, 0)  # codes, quaternion and offset; the affine follows


BAD_NIFTI = {
    "an unknown datatype": (70, "2h", (9999, 32), "real numbers as voxels", "the NIfTI datatype 9999"),
    "colours": (70, "2h", (2304, 32), "real numbers as voxels", "the NIfTI datatype 2304"),
    "bits of another type": (72, "h", (64,), "32 bits per voxel for the NIfTI datatype 16", "64"),
    "vectors": (68, "h", (1007,), "one value per voxel", "the NIfTI intent 1007"),
    "four axes": (40, "5h", (4, 3, 4, 5, 2), "a 3D image", "4D"),
    "two axes": (40, "3h", (2, 3, 20), "a 3D image", "2D"),
    "a spacing of zero": (80, "3f", (0.5, 0, 3), "positive spacings in the NIfTI header", r"\(0.5, 0, 3\)"),
    "a spacing that is no number": (80, "3f", (NAN, 1, 3), "positive spacings in the NIfTI header", r"\(nan"),
    "an infinite slope": (112, "2f", (INF, 0), "a finite slope and intercept in the NIfTI header", "inf"),
    "a slope that is no number, with an intercept": (112, "2f", (NAN, 3), "a finite slope and intercept", ""),
    "an intercept that is no number": (112, "2f", (1, NAN), "a finite slope and intercept", ""),
    "an intercept without slope": (112, "2f", (0, 3), "a finite slope and intercept", ""),
    "a slope of nearly nothing": (112, "2f", (1e-30, 0), "a finite slope and intercept", ""),
    "an unknown unit": (123, "B", (5,), "lengths in mm in the NIfTI header", "the unit 5"),
    "an offset that is no number": (268, "3f", (NAN, 0, 0), "finite numbers as placement", ""),
    "a quaternion that is no number": (256, "3f", (NAN, 0, 0), "a unit quaternion in the NIfTI header", ""),
    "a quaternion that is too long": (256, "3f", (1, 1, 0), "a unit quaternion in the NIfTI header", ""),
    "an infinite affine": (254, "h24x2f", (1, INF, 0), "finite numbers as placement", ""),
    "an empty affine": (252, "2h6f12f", (*TURNED, *[0] * 12), "perpendicular unit vectors as direction", ""),
    "a sheared affine": (
        252,
        "2h6f12f",
        (*TURNED, 0.5, 0.2, 0, 0, 0, 0.72284, 0, 0, 0, 0, 3, 0),
        "perpendicular unit vectors as direction",
        r"an sform with axes \(0.5, 0, 0\) \(0.2, 0.72284, 0\)",
    ),
    "an affine of other lengths": (
        252,
        "2h6f12f",
        (*TURNED, 5, 0, 0, 0, 0, 7.5, 0, 0, 0, 0, 30, 0),
        "qform, sform and spacings of the NIfTI header that agree",
        r"an sform with axes \(5, 0, 0\) \(0, 7.5, 0\) \(0, 0, 30\) from \(0, 0, 0\) "
        r"and \(0.5, 0.75, 3\) as spacings up to 108 mm apart",
    ),
    "an affine elsewhere": (
        252,
        "2h6f12f",
        (1, 2, *TURNED[2:], 0.5, 0, 0, 20, 0, 0.75, 0, 0, 0, 0, 3, 0),
        "qform, sform and spacings of the NIfTI header that agree",
        r"an sform with axes \(0.5, 0, 0\) \(0, 0.75, 0\) \(0, 0, 3\) from \(20, 0, 0\) "
        r"and a qform with axes \(0.5, 0, 0\) \(0, 0.75, 0\) \(0, 0, 3\) from \(0, 0, 0\) up to 20 mm apart",
    ),
}


def changed_nifti(path: Path, place: int, layout: str, values: tuple[float, ...]) -> Path:
    header = bytearray(nifti_header("<", (3, 4, 5)))
    struct.pack_into(f"<{layout}", header, place, *values)
    path.write_bytes(bytes(header) + bytes(240))
    return path


@pytest.mark.parametrize(("place", "layout", "values", "expected", "found"), BAD_NIFTI.values(), ids=BAD_NIFTI.keys())
def test_a_nifti_header_is_refused_for(
    tmp_path: Path,
    place: int,
    layout: str,
    values: tuple[float, ...],
    expected: str,
    found: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with refused_with(r"a\.nii$", expected=f"^{expected}", found=f"^{found}"):
        read_grid(changed_nifti(tmp_path / "a.nii", place, layout, values))
    assert capfd.readouterr().err == ""


def test_a_nifti_without_placement_is_refused(tmp_path: Path) -> None:
    with refused_with(r"a\.nii$", "neither qform_code nor sform_code is set in the NIfTI header"):
        read_grid(changed_nifti(tmp_path / "a.nii", 252, "2h", (0, 0)))
