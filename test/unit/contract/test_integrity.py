"""Damaged files, byte by byte: what ITK would read without complaint, or complain about on stderr."""

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from contract.errors import OncoduetError
from contract.integrity import require_whole
from contract.volume import Grid, Volume, read_grid, read_label, read_volume, to_image

HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "0.5 0.75 3",
    "DimSize": "3 4 5",
    "ElementType": "MET_FLOAT",
}
Saved = Callable[[str, bool], Path]


@pytest.fixture
def noise(tilted_grid: Grid) -> Volume:
    """Larger than the buffers through which compressed streams are read."""
    grid = replace(tilted_grid, size_xyz=(61, 52, 43))
    return Volume(np.random.default_rng(3).normal(size=grid.shape_zyx).astype(np.float32), grid)


@pytest.fixture
def saved(tmp_path: Path, noise: Volume) -> Saved:
    """The same image as a file of one of the formats, compressed or not, as other tools write it."""

    def save(suffix: str, compressed: bool) -> Path:
        path = tmp_path / f"image{suffix}"
        sitk.WriteImage(to_image(noise), str(path), useCompression=compressed)
        return path

    return save


def meta_image(path: Path, *, without: str | None = None, **changes: str) -> Path:
    """A MetaImage of 3 × 4 × 5 voxels written by hand."""
    lines = {key: value for key, value in (HEADER | changes).items() if key != without}
    lines.setdefault("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    path.write_bytes(text.encode() + np.arange(60, dtype="<f4").tobytes())
    return path


FORMATS = [(".mha", True), (".mha", False), (".nii.gz", True), (".nii", False)]


@pytest.mark.parametrize(("suffix", "compressed"), FORMATS)
def test_a_whole_file_is_accepted_and_nothing_is_said(
    saved: Saved, noise: Volume, suffix: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, compressed)
    require_whole(path)
    assert np.array_equal(read_volume(path).array, noise.array)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [0, 0.0005, 0.3, 0.5, 0.9, -100, -9, -1])
@pytest.mark.parametrize(("suffix", "compressed"), FORMATS)
def test_a_truncated_file_is_refused_wherever_it_was_cut_and_itk_says_nothing(
    saved: Saved, suffix: str, compressed: bool, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept < 0 else round(kept * len(whole))])  # type: ignore[misc]
    with pytest.raises(OncoduetError, match=r"truncated$|found none$"):
        read_volume(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_a_flipped_byte_in_compressed_voxels_is_refused(
    saved: Saved, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, True)
    spoilt = bytearray(path.read_bytes())
    for place in (len(spoilt) // 2, len(spoilt) - 3):
        spoilt[place] ^= 0x40
        path.write_bytes(spoilt)
        with pytest.raises(OncoduetError, match=r"expected a whole compressed stream, found a damaged one \("):
            read_volume(path)
        spoilt[place] ^= 0x40
    assert capfd.readouterr().err == ""


def test_itk_alone_reads_what_is_refused_here(saved: Saved, noise: Volume) -> None:
    """The reason for the module; once this fails, ITK has become stricter and the module may shrink."""
    path = saved(".nii.gz", True)
    path.write_bytes(path.read_bytes()[:-100_000])
    assert not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), noise.array)
    with pytest.raises(OncoduetError, match="truncated"):
        require_whole(path)


def test_a_header_alone_may_be_asked_for(saved: Saved, noise: Volume) -> None:
    path = saved(".nii.gz", True)
    path.write_bytes(path.read_bytes()[:-100_000])
    require_whole(path, voxels=False)
    assert read_grid(path).size_xyz == noise.grid.size_xyz


def test_a_stream_that_holds_fewer_voxels_than_the_header_promises_is_refused(saved: Saved) -> None:
    path = saved(".mha", True)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 61 52 43", b"DimSize = 61 52 44"))
    with pytest.raises(OncoduetError, match=r"expected 558272 bytes of voxels, found 545584: truncated$"):
        read_volume(path)


def test_the_hand_written_image_is_right(tmp_path: Path) -> None:
    volume = read_volume(meta_image(tmp_path / "a.mha"))
    assert volume.grid.spacing_mm_zyx == (3.0, 0.75, 0.5)
    assert np.array_equal(volume.array, np.arange(60, dtype=np.float32).reshape(5, 4, 3))


BAD_HEADERS = {
    "no size": ({"without": "DimSize"}, "expected DimSize in the MetaImage header, found none"),
    "no number of axes": ({"without": "NDims"}, "expected NDims in the MetaImage header, found none"),
    "no type": ({"without": "ElementType"}, "expected ElementType in the MetaImage header, found none"),
    "a size of zero": ({"DimSize": "0 4 5"}, "expected 3 positive whole numbers as DimSize, found '0 4 5'"),
    "a negative size": ({"DimSize": "-3 4 5"}, "expected 3 positive whole numbers as DimSize, found '-3 4 5'"),
    "half a voxel": ({"DimSize": "3 4 5.5"}, "expected 3 positive whole numbers as DimSize, found '3 4 5.5'"),
    "a size that is no number": ({"DimSize": "3 4 x"}, "expected 3 positive whole numbers as DimSize, found '3 4 x'"),
    "two sizes of three": ({"DimSize": "3 4"}, "expected 3 positive whole numbers as DimSize, found '3 4'"),
    "an unknown type": ({"ElementType": "MET_HALF"}, "MET_DOUBLE, found 'MET_HALF'"),
    "voxels elsewhere": ({"ElementDataFile": "a.raw"}, "(ElementDataFile = LOCAL), found 'a.raw'"),
    "voxels as text": ({"BinaryData": "False"}, "expected binary voxels, found BinaryData = False"),
    "a spacing that is no number": (
        {"ElementSpacing": "0.5 nan 3"},
        "expected finite numbers as ElementSpacing, found '0.5 nan 3'",
    ),
    "an origin that is no number": ({"Offset": "0 0 here"}, "expected finite numbers as Offset, found '0 0 here'"),
    "an infinite direction": (
        {"TransformMatrix": "inf 0 0 0 1 0 0 0 1"},
        "expected finite numbers as TransformMatrix, found 'inf 0 0 0 1 0 0 0 1'",
    ),
    "a spacing of zero": ({"ElementSpacing": "0.5 0 3"}, "expected positive spacings, found (0.5, 0, 3)"),
    "a negative spacing": ({"ElementSpacing": "0.5 1 -3"}, "expected positive spacings, found (0.5, 1, -3)"),
    "a sheared direction": (
        {"TransformMatrix": "1 0.1 0 0 1 0 0 0 1"},
        "expected perpendicular unit vectors as direction, found (1, 0, 0, 0.1, 1, 0, 0, 0, 1)",
    ),
    "a stretched direction": (
        {"TransformMatrix": "1 0 0 0 2 0 0 0 1"},
        "expected perpendicular unit vectors as direction, found (1, 0, 0, 0, 2, 0, 0, 0, 1)",
    ),
    "an empty direction": (
        {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
        "expected perpendicular unit vectors as direction, found (0, 0, 0, 0, 0, 0, 0, 0, 0)",
    ),
}


@pytest.mark.parametrize(("change", "fault"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_header_is_refused_for(
    tmp_path: Path, change: dict[str, str], fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = meta_image(tmp_path / "a.mha", **change)
    with pytest.raises(OncoduetError) as refused:
        read_grid(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert fault in str(refused.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"\n" * 400, b"no image at all" * 40, bytes(400)])
def test_what_is_no_image_is_refused_whatever_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OncoduetError, match=rf"{name}: expected "):
        read_grid(tmp_path / name)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(OncoduetError, match=r"expected an image that ends in .mha, .nii.gz or .nii, found '.nrrd'$"):
        require_whole(tmp_path / "a.nrrd")


def nifti_header(order: str, sizes: tuple[int, ...]) -> bytes:
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}{1 + len(sizes)}h", header, 40, len(sizes), *sizes)
    struct.pack_into(f"{order}2h", header, 70, 16, 32)  # float, 32 bits
    struct.pack_into(f"{order}4f", header, 76, 1.0, 0.5, 0.75, 3.0)
    struct.pack_into(f"{order}f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return bytes(header)


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_in_either_byte_order_is_measured(tmp_path: Path, order: str) -> None:
    voxels = np.arange(60, dtype=f"{order}f4").tobytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_header(order, (3, 4, 5)) + voxels))
    assert np.array_equal(read_volume(path).array, np.arange(60, dtype=np.float32).reshape(5, 4, 3))
    path.write_bytes(gzip.compress(nifti_header(order, (3, 4, 6)) + voxels))
    with pytest.raises(OncoduetError, match=r"expected 288 bytes of voxels, found 240: truncated$"):
        read_volume(path)


@pytest.mark.parametrize(
    ("sizes", "found"), [((3, 0, 5), r"\[3, 0, 5\]"), ((3, -4, 5), r"\[3, -4, 5\]"), ((), r"\[\]")]
)
def test_a_nifti_header_without_positive_sizes_is_refused(tmp_path: Path, sizes: tuple[int, ...], found: str) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_header("<", sizes) + bytes(240))
    with pytest.raises(OncoduetError, match=rf"expected positive sizes in the NIfTI header, found {found}$"):
        read_volume(path)


def test_voxels_that_begin_inside_the_header_are_refused(tmp_path: Path) -> None:
    header = bytearray(nifti_header("<", (3, 4, 5)))
    struct.pack_into("<f", header, 108, 0.0)
    (tmp_path / "a.nii").write_bytes(bytes(header) + bytes(240))
    with pytest.raises(OncoduetError, match=r"expected voxels behind the NIfTI header, found them at byte 0$"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_in_a_nifti_is_refused_though_itk_puts_zeros_there(
    tmp_path: Path, order: str, value: float
) -> None:
    voxels = np.ones(60, dtype=f"{order}f4")
    voxels[[7, 59]] = value
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_header(order, (3, 4, 5)) + voxels.tobytes()))
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).sum() == 58
    for read in (read_volume, read_label):
        with pytest.raises(OncoduetError, match=r"a.nii.gz: expected finite voxels, found 2 NaN or infinite$"):
            read(path)


NAN = float("nan")
BAD_NIFTI = {
    "an unknown datatype": (70, "2h", (9999, 32), "expected real numbers as voxels, found the NIfTI datatype 9999"),
    "colours": (70, "2h", (2304, 32), "expected real numbers as voxels, found the NIfTI datatype 2304"),
    "a spacing of zero": (80, "3f", (0.5, 0.0, 3.0), "expected positive spacings in the NIfTI header, found 0.5, 0, 3"),
    "a spacing that is no number": (
        80,
        "3f",
        (NAN, 1.0, 3.0),
        "expected positive spacings in the NIfTI header, found nan",
    ),
    "an offset that is no number": (
        268,
        "3f",
        (NAN, 0.0, 0.0),
        "expected finite numbers in the NIfTI header, found 0, 0, 0, nan",
    ),
    "an infinite affine": (280, "f", (float("inf"),), "expected finite numbers in the NIfTI header, found "),
    "a sheared affine": (
        252,
        "2h24x12f",
        (0, 1, 1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        "expected a readable image, found: ITK ERROR: ITK only supports orthonormal direction cosines.",
    ),
}


@pytest.mark.parametrize(("place", "layout", "values", "fault"), BAD_NIFTI.values(), ids=BAD_NIFTI.keys())
def test_a_nifti_header_is_refused_for(
    tmp_path: Path, place: int, layout: str, values: tuple[float, ...], fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    header = bytearray(nifti_header("<", (3, 4, 5)))
    struct.pack_into(f"<{layout}", header, place, *values)
    (tmp_path / "a.nii").write_bytes(bytes(header) + bytes(240))
    with pytest.raises(OncoduetError) as refused:
        read_grid(tmp_path / "a.nii")
    assert str(refused.value).startswith(f"{tmp_path / 'a.nii'}: {fault}")
    assert capfd.readouterr().err == ""


def test_what_itk_has_to_say_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header = bytearray(nifti_header("<", (3, 4, 5)))
    struct.pack_into("<2h24x12f", header, 252, 0, 1, 0.5, 0.3, 0, 0, 0, 0.75, 0, 0, 0, 0, 3, 0)
    (tmp_path / "a.nii").write_bytes(bytes(header) + bytes(240))
    with pytest.raises(OncoduetError, match="orthonormal"):
        read_grid(tmp_path / "a.nii")
    assert {record.name for record in caplog.records} == {"contract.volume"}
    assert "unexpected scales in sform" in caplog.text


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_a_small_file_that_inflates_to_much_is_checked_in_little_memory(tmp_path: Path, suffix: str) -> None:
    voxels = bytes(1 << 26)
    path = tmp_path / f"a{suffix}"
    if suffix == ".mha":
        header = "NDims = 3\nDimSize = 1024 1024 64\nElementType = MET_UCHAR\nCompressedData = True\n"
        path.write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + zlib.compress(voxels))
    else:
        path.write_bytes(gzip.compress(nifti_header("<", (256, 256, 256)) + voxels))
    tracemalloc.start()
    try:
        require_whole(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
