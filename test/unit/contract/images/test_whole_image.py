"""Damaged, ambiguous and lying files, byte by byte: what ITK would read without complaint, or follow elsewhere."""

import gzip
import os
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from refusals import refused_with

from contract.images.grid import Grid
from contract.images.volume import Volume, read_grid, read_label, read_volume, to_image
from contract.images.whole_image import read_header, read_voxels, require_whole

HEADER = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
    "ElementSpacing": "0.5 0.75 3", "DimSize": "3 4 5", "ElementType": "MET_FLOAT",
}  # fmt: skip
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
def test_whole_file_is_accepted_silently(
    saved: Saved, noise: Volume, suffix: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, compressed)
    require_whole(path)
    assert np.array_equal(read_volume(path).array, noise.array)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [0, 0.0005, 0.3, 0.5, 0.9, -100, -9, -1])
@pytest.mark.parametrize(("suffix", "compressed"), FORMATS)
def test_truncated_file_is_refused_at_every_length_silently(
    saved: Saved, suffix: str, compressed: bool, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept < 0 else round(kept * len(whole))])  # type: ignore[misc]
    with refused_with(f"^{path}$") as refused:
        read_volume(path)
    assert re.search("truncated$|has no ElementDataFile$|^none$", refused.value.problem or refused.value.found or "")
    assert capfd.readouterr().err == ""


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


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_a_flipped_byte_in_compressed_voxels_is_refused(
    saved: Saved, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, True)
    spoilt = bytearray(path.read_bytes())
    for place in (len(spoilt) // 2, len(spoilt) - 3):
        spoilt[place] ^= 0x40
        path.write_bytes(spoilt)
        with refused_with(problem="compressed stream is damaged: "):
            read_volume(path)
        spoilt[place] ^= 0x40
    assert capfd.readouterr().err == ""


def test_itk_reads_what_is_refused_here(saved: Saved, noise: Volume) -> None:
    """The reason for the module; once this fails, ITK has become stricter and the module may shrink."""
    path = saved(".nii.gz", True)
    path.write_bytes(path.read_bytes()[:-100_000])
    assert not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), noise.array)
    with refused_with(problem="truncated"):
        require_whole(path)


def test_a_header_can_be_read_without_voxels(saved: Saved, noise: Volume) -> None:
    path = saved(".nii.gz", True)
    path.write_bytes(path.read_bytes()[:-100_000])
    require_whole(path, voxels=False)
    assert read_grid(path).size_xyz == noise.grid.size_xyz


def test_a_stream_with_fewer_voxels_than_the_header_says_is_refused(saved: Saved) -> None:
    path = saved(".mha", True)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 61 52 43", b"DimSize = 61 52 44"))
    with refused_with(expected="558272 bytes of voxels", found="545584: truncated"):
        read_volume(path)


def test_the_hand_written_image_is_right(tmp_path: Path) -> None:
    volume = read_volume(meta_image(tmp_path / "a.mha"))
    assert volume.grid.spacing_mm_zyx == (3.0, 0.75, 0.5)
    assert np.array_equal(volume.array, np.arange(60, dtype=np.float32).reshape(5, 4, 3))


BAD_HEADERS = {
    "no type": ({"without": "ElementType"}, "an ElementType among MET_CHAR", ""),
    "no kind of object": ({"without": "ObjectType"}, r"an image \(ObjectType = Image\)", "'none'"),
    "four axes": ({"NDims": "4", "DimSize": "3 4 5 1"}, r"a 3D image \(NDims = 3\)", "'4'"),
    "axes enough to overflow ITK": ({"NDims": "8000", "DimSize": "1 " * 4000}, r"a 3D image \(NDims = 3\)", "'8000'"),
    "a size of zero": ({"DimSize": "0 4 5"}, "3 positive whole numbers as DimSize", "'0 4 5'"),
    "a negative size": ({"DimSize": "-3 4 5"}, "3 positive whole numbers as DimSize", "'-3 4 5'"),
    "half a voxel": ({"DimSize": "3 4 5.5"}, "3 positive whole numbers as DimSize", "'3 4 5.5'"),
    "a size that is no number": ({"DimSize": "3 4 x"}, "3 numbers as DimSize", "'3 4 x'"),
    "two sizes of three": ({"DimSize": "3 4"}, "3 numbers as DimSize", "'3 4'"),
    "spaces that are no spaces": ({"DimSize": "3\u00a04 5"}, "3 numbers as DimSize", r"'3Â\\xa04 5'"),
    "two spacings of three": ({"ElementSpacing": "0.5 1"}, "3 numbers as ElementSpacing", "'0.5 1'"),
    "a huge size": ({"DimSize": "1e200 4 5"}, "3 positive whole numbers as DimSize", "'1e200 4 5'"),
    "a size of 3000 digits": ({"DimSize": f"{'9' * 3000} 4 5"}, "3 numbers as DimSize", ""),
    "more voxels than any scan has": ({"DimSize": "4000 4000 4000"}, "at most 2147483648 voxels", "64000000000"),
    "an unknown type": ({"ElementType": "MET_HALF"}, "MET_DOUBLE", "'MET_HALF'"),
    "vectors": ({"ElementType": "MET_FLOAT_ARRAY"}, "MET_DOUBLE", "'MET_FLOAT_ARRAY'"),
    "several channels": ({"ElementNumberOfChannels": "foo"}, r"one value per voxel \(Elem", ""),
    "voxels elsewhere": ({"ElementDataFile": "a.raw"}, r"in the file itself \(ElementDataFile = LOCAL\)", "'a.raw'"),
    "a list of files": ({"ElementDataFile": "LIST"}, r"in the file itself \(ElementDataFile = LOCAL\)", "'LIST'"),
    "a pattern of files": ({"ElementDataFile": "%d.raw 1 9 1"}, r"\(ElementDataFile = LOCAL\)", "'%d.raw 1 9 1'"),
    "voxels as text": ({"BinaryData": "False"}, r"binary voxels \(BinaryData = True\)", "'False'"),
    "a byte order that is none": ({"BinaryDataByteOrderMSB": "Yes"}, "BinaryDataByteOrderMSB = True or False", "'Yes'"),
    "a real number of axes": ({"NDims": "3.0"}, r"a 3D image \(NDims = 3\)", "'3.0'"),
    "a header in front": ({"HeaderSize": "100"}, r"that begin behind the header \(HeaderSize = 0\)", "'100'"),
    "another origin": ({"ImagePosition": "1 2 3"}, "a MetaImage header without ImagePosition", ""),
    "another scale": ({"ElementToIntensityFunctionSlope": "2"}, r"voxels that are the intensities \(El", ""),
    "metres": ({"DistanceUnits": "m"}, r"lengths in mm \(DistanceUnits = mm\)", "'m'"),
    "a key in lower case": ({"headersize": "100"}, "HeaderSize in the MetaImage header", "headersize"),
    "a spacing that is no number": ({"ElementSpacing": "0.5 nan 3"}, "3 numbers as ElementSpacing", "'0.5 nan 3'"),
    "an origin that is no number": ({"Offset": "0 0 here"}, "3 numbers as Offset", "'0 0 here'"),
    "an infinite origin": ({"Offset": "0 0 1e999"}, "3 numbers as Offset", "'0 0 1e999'"),
    "a distant origin": ({"Offset": "0 0 1e9"}, r"an origin within 1e\+06 mm", r"\(0, 0, 1e\+09\)"),
    "a note beyond a double": ({"ElementMax": "1e999"}, "1 numbers as ElementMax", "'1e999'"),
    "a note that underflows": ({"ElementMin": "1e-400"}, "1 numbers as ElementMin", "'1e-400'"),
    "an infinite direction": (
        {"TransformMatrix": "inf 0 0 0 1 0 0 0 1"},
        "9 numbers as TransformMatrix",
        "'inf 0 0 0 1 0 0 0 1'",
    ),
    "a spacing of zero": ({"ElementSpacing": "0.5 0 3"}, "positive spacings", r"\(0.5, 0, 3\)"),
    "a negative spacing": ({"ElementSpacing": "0.5 1 -3"}, "positive spacings", r"\(0.5, 1, -3\)"),
    "a sheared direction": (
        {"TransformMatrix": "1 0.1 0 0 1 0 0 0 1"},
        "perpendicular unit vectors as direction",
        r"\(1, 0, 0, 0.1, 1, 0, 0, 0, 1\)",
    ),
    "a stretched direction": (
        {"TransformMatrix": "1 0 0 0 2 0 0 0 1"},
        "perpendicular unit vectors as direction",
        r"\(1, 0, 0, 0, 2, 0, 0, 0, 1\)",
    ),
    "an empty direction": (
        {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
        "perpendicular unit vectors as direction",
        r"\(0, 0, 0, 0, 0, 0, 0, 0, 0\)",
    ),
    "a huge direction": ({"TransformMatrix": "1e300 0 0 0 1 0 0 0 1"}, "perpendicular unit vectors", ""),
    "a compressed length of nothing": (
        {"CompressedData": "True"},
        "the length of the compressed voxels as CompressedDataSize",
        "none",
    ),
    "a compressed length of 0": ({"CompressedData": "True", "CompressedDataSize": "0"}, "CompressedDataSize", "0"),
    "a compressed length beyond the file": (
        {"CompressedData": "True", "CompressedDataSize": "1000"},
        r"1000 bytes of compressed voxels \(CompressedDataSize\)",
        "240: truncated",
    ),
    "a compressed length within it": (
        {"CompressedData": "True", "CompressedDataSize": "100"},
        r"100 bytes of compressed voxels \(CompressedDataSize\)",
        "240",
    ),
}


@pytest.mark.parametrize(("change", "expected", "found"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_header_is_refused_for(
    tmp_path: Path, change: dict[str, str], expected: str, found: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = meta_image(tmp_path / "a.mha", **change)
    with refused_with(f"^{path}$", expected=expected, found=found):
        read_grid(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        *(
            ({"without": key}, f"MetaImage header has no {key}")
            for key in ("DimSize", "NDims", "ElementSpacing", "Offset", "TransformMatrix")
        ),
        ({"ElementByteOrderMSB": "True"}, "BinaryDataByteOrderMSB and its synonym "),
        ({"Position": "1 2 3"}, "Offset and its synonym Position differ"),
    ],
)
def test_a_header_lacks_or_contradicts_a_key(
    tmp_path: Path, change: dict[str, str], problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with refused_with("a.mha$", problem):
        read_grid(meta_image(tmp_path / "a.mha", **change))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"\n" * 400, b"no image at all" * 40, bytes(400)])
def test_a_file_that_is_no_image_is_refused_under_every_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refused_with(f"{name}$") as refused:
        read_grid(tmp_path / name)
    problems = "file is truncated|compressed stream is damaged|MetaImage header has no "
    assert refused.value.expected or re.match(problems, refused.value.problem or "")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    with refused_with(expected="an image that ends in .mha, .nii.gz or .nii", found="'.nrrd'"):
        require_whole(tmp_path / "a.nrrd")


LINES = {
    "a colon for the sign": (b"ElementDataFile : /truth/a.mha\0 =", "'ElementDataFile : /truth/a.mha\\x00 =\\n'"),
    "a second file": (b"ElementDataFile : a=/../truth/a.mha", "'ElementDataFile : a=/../truth/a.mha\\n'"),
    "a NUL": (b"Comment = a\0b", "'Comment = a\\x00b\\n'"),
    "a tab in the key": (b"Header\tSize = 100", "'Header\\tSize = 100\\n'"),
    "another alphabet": ("Größe = 1".encode(), "'GrÃ¶Ã\\x9fe = 1\\n'"),
    "no sign": (b"Comment", "'Comment\\n'"),
    "no key": (b" = 3", "' = 3\\n'"),
    "an empty line": (b"", "'\\n'"),
    "a space in front": (b" HeaderSize = 100", "' HeaderSize = 100\\n'"),
    "two spaces": (b"HeaderSize  = 100", "'HeaderSize  = 100\\n'"),
}


@pytest.mark.parametrize(("line", "found"), LINES.values(), ids=LINES.keys())
def test_a_line_that_is_not_key_sign_value_is_refused(tmp_path: Path, line: bytes, found: str) -> None:
    path = meta_image(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize", line + b"\nDimSize"))
    with refused_with(r"a\.mha", expected="lines 'Key = value' in the MetaImage header") as refused:
        read_grid(path)
    assert refused.value.found == found


@pytest.mark.parametrize("line", ["DimSize = 3 4 5", "Comment = a", "0008|0060 = MR"])
def test_a_duplicate_key_is_refused(tmp_path: Path, line: str) -> None:
    path = meta_image(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize", f"{line}\n{line}\nDimSize".encode()))
    with refused_with(problem=r"duplicate \S+ in the MetaImage header"):
        read_grid(path)


def test_notes_of_other_tools_have_no_effect(tmp_path: Path) -> None:
    """SimpleITK writes what its dictionary holds: DICOM's elements, ITK's own keys, anybody's; 110 KB here."""
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.float32).reshape(5, 4, 3))
    notes = {"0008|0060": "MR", "0010|0010": "Bär^Ü", "ITK_InputFilterName": "GDCM", "Modality": "MET_MOD_MR"}
    notes |= {f"0009|{number:04x}": "x" * 800 for number in range(100)} | {"Study.Note-1": r"a\\b: c = d"}
    notes |= {"0029|1020": "QUJD" * 8_000, "pixel size (mm)": "1\t2", "it's/a#key": "1"}  # Siemens' private header
    for key, value in notes.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    assert (tmp_path / "a.mha").read_bytes().index(b"LOCAL") > 110_000
    assert np.array_equal(read_volume(tmp_path / "a.mha").array, sitk.GetArrayFromImage(image))


def test_a_meta_image_with_a_nifti_header_as_notes_is_read(saved: Saved, noise: Volume, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(saved(".nii.gz", True))), str(tmp_path / "a.mha"))
    assert b"\ndim[0] = 3\n" in (tmp_path / "a.mha").read_bytes()
    assert np.array_equal(read_volume(tmp_path / "a.mha").array, noise.array)


def test_a_header_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    for text in (b"Comment = " + b"x" * (1 << 22), b"".join(b"a%d = b\n" % number for number in range(200_000))):
        path.write_bytes(text)
        with refused_with(problem="MetaImage header is too long"):
            read_grid(path)


@pytest.mark.parametrize(
    ("key", "synonym"),
    [("Offset", "Position"), ("Offset", "Origin"), ("TransformMatrix", "Orientation"), ("TransformMatrix", "Rotation")],
)
def test_synonyms_of_the_format_are_understood_as_by_itk(tmp_path: Path, key: str, synonym: str) -> None:
    values = {"Offset": "1 2 3", "TransformMatrix": "0 1 0 -1 0 0 0 0 1"}
    path = meta_image(tmp_path / "a.mha", **values)
    expected = read_grid(path)
    path = meta_image(tmp_path / "b.mha", without=key, **values | {synonym: values[key]})
    image = sitk.ReadImage(str(path))
    assert read_grid(path) == expected
    assert (image.GetOrigin(), image.GetDirection()) == (expected.origin_mm_xyz, expected.direction)


@pytest.mark.parametrize(("suffix", "compressed"), FORMATS)
def test_bytes_behind_the_voxels_are_refused(saved: Saved, suffix: str, compressed: bool) -> None:
    path = saved(suffix, compressed)
    path.write_bytes(path.read_bytes() + b"more")
    with refused_with(f"^{path}$") as refused:
        read_volume(path)
    assert re.search(r"^\d+$|after the compressed voxels$", refused.value.problem or refused.value.found or "")


def test_a_tail_of_zeros_is_refused_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_header("<", (3, 4, 5)) + bytes(240 + (1 << 24))))
    with refused_with(expected="240 bytes of voxels", found="more"):
        read_volume(path)


def test_a_stream_that_ends_before_its_length_is_refused(tmp_path: Path) -> None:
    stream = zlib.compress(bytes(240))
    length = str(len(stream) + 8)
    path = meta_image(tmp_path / "a.mha", CompressedData="True", CompressedDataSize=length)
    path.write_bytes(path.read_bytes()[:-240] + stream + bytes(8))
    with refused_with(problem="more bytes after the compressed voxels"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz"])
def test_a_file_too_short_even_if_compressed_is_refused_by_its_header(tmp_path: Path, name: str) -> None:
    path = meta_image(tmp_path / "a.mha", CompressedData="True", CompressedDataSize="240", DimSize="1000 1000 1000")
    if name != "a.mha":
        whole = nifti_header("<", (1000, 1000, 1000)) + bytes(240)
        path = tmp_path / name
        path.write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
    with refused_with(expected="4000000000 bytes of voxels", found=r"(at most )?\d+: truncated"):
        read_grid(path)


def test_voxels_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    path = meta_image(tmp_path / "a.mha")
    header = replace(read_header(path), size_xyz=(1 << 20, 1 << 20, 1 << 18))
    with refused_with("a.mha", expected="voxels that fit into memory", found=f"{1 << 60} bytes"):
        read_voxels(path, header)


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz"])
def test_only_regular_files_are_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with refused_with(name, "not a regular file"):
        read_grid(tmp_path / name)


def nifti_header(order: str, sizes: tuple[int, ...]) -> bytes:
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}{1 + len(sizes)}h", header, 40, len(sizes), *sizes)
    struct.pack_into(f"{order}2h", header, 70, 16, 32)  # float, 32 bits
    struct.pack_into(f"{order}4f", header, 76, 1.0, 0.5, 0.75, 3.0)
    struct.pack_into(f"{order}f", header, 108, 352.0)
    struct.pack_into(f"{order}2h", header, 252, 1, 0)  # placed by the quaternion
    header[344:348] = b"n+1\0"
    return bytes(header)


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


def test_itk_warnings_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header = bytearray(nifti_header("<", (3, 4, 5)))
    struct.pack_into("<2h24x12f", header, 252, 0, 1, 0.5, 0.3, 0, 0, 0, 0.75, 0, 0, 0, 0, 3, 0)
    (tmp_path / "a.nii").write_bytes(bytes(header) + bytes(240))
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii"))
    assert {record.name for record in caplog.records} == {"contract.images.volume"}
    assert "unexpected scales in sform" in caplog.text


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
def test_a_small_file_that_inflates_to_much_is_checked_in_little_memory(tmp_path: Path, suffix: str) -> None:
    voxels = bytes(1 << 26)
    path = tmp_path / f"a{suffix}"
    if suffix == ".mha":
        stream = zlib.compress(voxels)
        changes = {"DimSize": "256 256 256", "CompressedData": "True", "CompressedDataSize": str(len(stream))}
        path.write_bytes(meta_image(path, **changes).read_bytes()[:-240] + stream)
    else:
        path.write_bytes(gzip.compress(nifti_header("<", (256, 256, 256)) + voxels))
    tracemalloc.start()
    try:
        require_whole(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
