"""Damaged and ambiguous headers of a MetaImage, which ITK would read without complaint."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_makers import Saved, meta_image
from refusals import refused_with

from contract.images.volume import Volume, read_grid, read_volume


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


def test_a_meta_image_with_a_nifti_header_as_notes_is_read(saved: Saved, scan: Volume, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(saved(".nii.gz", True))), str(tmp_path / "a.mha"))
    assert b"\ndim[0] = 3\n" in (tmp_path / "a.mha").read_bytes()
    assert np.array_equal(read_volume(tmp_path / "a.mha").array, scan.array)


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
