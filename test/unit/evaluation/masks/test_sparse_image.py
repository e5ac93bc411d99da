"""The sparse reading against the whole volume's: the same voxels, and memory that no header can inflate.

Headers are read as everywhere: ``contract/images`` has their tests, against SimpleITK.
"""

import gzip
import logging
import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from refusals import refused_with

from contract.images.grid import Grid
from contract.images.volume import Volume, read_label, read_volume, to_image, write_volume
from evaluation.masks import sparse_image
from evaluation.masks.sparse_image import Foreground, open_image, read_confidences, read_label_map, read_labels

BIG = Grid((61, 43, 37), (0.5, 0.75, 3.0), (-20.0, 31.0, 7.5), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
SMALL = Grid((7, 5, 3), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), BIG.direction)
ONES = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), BIG.direction)
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")


@pytest.fixture
def image():
    """97,051 voxels: several pieces in any type, with foreground in the first, the last and across their borders."""
    random = np.random.default_rng(4)
    array = np.zeros(BIG.shape_zyx)
    array[0, 0, 0] = array[-1, -1, -1] = 1
    array[5:12, 10:30, 20:40] = random.integers(0, 3, (7, 20, 20))
    array.ravel()[65536 // 8 - 3 : 65536 // 8 + 3] = 2
    return array


def written(path, array, grid=BIG, *, compressed=True):
    sitk.WriteImage(to_image(Volume(array, grid)), str(path), compressed)
    return path


def same(found, array):
    expected = Foreground.of(array)
    assert found.shape_zyx == expected.shape_zyx
    assert found.values.dtype == array.dtype
    assert np.array_equal(found.voxels, expected.voxels)
    assert np.array_equal(found.values, expected.values)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("name", "compressed"), [("a.mha", True), ("a.mha", False), ("a.nii.gz", True), ("a.nii", False)]
)
def test_sparse_reading_gives_the_voxels_of_the_volume(tmp_path, image, kind, name, compressed):
    path = written(tmp_path / name, image.astype(kind), compressed=compressed)
    same(read_confidences(open_image(path)), read_volume(path).array)
    same(read_labels(open_image(path)), read_label(path).array)


def meta(header, voxels):
    keys = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True", "CompressedDataSize": len(voxels), "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0", "ElementSpacing": "1 1 1", "DimSize": "7 5 3", "ElementType": "MET_FLOAT", **header,
        "ElementDataFile": "LOCAL",
    }  # fmt: skip
    return "".join(f"{key} = {value}\n" for key, value in keys.items()).encode() + voxels


@pytest.fixture
def small():
    array = np.zeros((3, 5, 7), dtype=np.float32)
    array[1, 2:4, 3:6] = 0.5
    return array


@pytest.mark.parametrize(
    ("header", "dtype"),
    [
        ({"BinaryDataByteOrderMSB": "True"}, ">f4"),
        ({"BinaryDataByteOrderMSB": "False"}, "<f4"),
        ({"ElementType": "MET_LONG_LONG"}, "<i8"),
        ({"CompressedData": "true"}, "<f4"),
        ({"ElementNumberOfChannels": "1"}, "<f4"),
        ({"ElementNBits": "32"}, "<f4"),
    ],
)
def test_an_unusual_meta_image_gives_the_same_voxels(tmp_path, small, header, dtype):
    path = tmp_path / "a.mha"
    values = (small * 2).astype(dtype)
    path.write_bytes(meta(header, zlib.compress(values.tobytes())))
    same(read_confidences(open_image(path)), read_volume(path).array)
    same(read_labels(open_image(path)), read_label(path).array)


@pytest.mark.parametrize("change", ["slope", "intercept", "big-endian", "one time point", "int64"])
def test_an_unusual_nifti_gives_the_same_voxels(tmp_path, small, change):
    path = written(tmp_path / "a.nii", small * 4, SMALL, compressed=False)
    data = bytearray(path.read_bytes())
    if change == "slope":
        struct.pack_into("<f", data, 112, 0.5)
    elif change == "intercept":
        struct.pack_into("<f", data, 116, 1.0)
    elif change == "one time point":
        struct.pack_into("<h", data, 40, 4)
    elif change == "int64":
        struct.pack_into("<hh", data, 70, 1024, 64)
        data[352:] = (small * 4).astype("<i8").tobytes()
    else:
        data = big_endian(data)
    path.write_bytes(data)
    same(read_confidences(open_image(path)), read_volume(path).array)


def big_endian(data):
    swapped = bytearray(data)
    fields = "i10s18sihcc8h3f4h8f3fhcc4f2i80s24s2h6f4f4f4f16s4s"
    struct.pack_into(">" + fields, swapped, 0, *struct.unpack_from("<" + fields, data))
    swapped[352:] = np.frombuffer(bytes(data[352:]), "<f4").astype(">f4").tobytes()
    return swapped


def test_a_gzip_file_of_several_members_is_one_stream(tmp_path, image):
    path = written(tmp_path / "a.nii.gz", image.astype(np.float32))
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:70_001]) + gzip.compress(data[70_001:]))
    same(read_confidences(open_image(path)), read_volume(path).array)


def test_a_negative_zero_is_background(tmp_path, small):
    small[0, 0, 0] = -0.0
    path = written(tmp_path / "a.mha", small, SMALL)
    assert read_confidences(open_image(path)).voxels.size == 6


def test_quirk_10_confidences_lost_in_float32_are_counted_in_the_log(tmp_path, small, caplog):
    array = np.zeros(small.shape)
    array[0, 0, 0], array[1, 2, 3], array[2, 4, 6] = 1e-50, 0.5, 0.5 + 1e-12
    path = written(tmp_path / "a.mha", array, SMALL)
    with caplog.at_level(logging.WARNING):
        found = read_confidences(open_image(path))
    assert found.values.tolist() == [0.5, 0.5]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 1 voxels have a confidence that is 0 in float32: they count as background",
        f"{path}: 3 confidences are 2 in float32: the others became ties",
    ]


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_in_float32_is_counted(tmp_path, small, name, value):
    array = small.astype(np.float64)
    array[0, 0, :2] = value
    path = written(tmp_path / name, array, SMALL)
    for read in (lambda: read_confidences(open_image(path)), lambda: read_volume(path)):
        with refused_with(expected="finite voxels", found="2 NaN or infinite"):
            read()


@pytest.mark.parametrize("value", [0.5, np.nan, 3e9])
def test_labels_that_are_not_whole_numbers_of_32_bits_are_refused(tmp_path, small, value):
    array = small.astype(np.float64) * 2
    array[0, 0, 0] = value
    path = written(tmp_path / "a.mha", array, SMALL)
    for read in (lambda: read_label_map(path), lambda: read_label(path)):
        with refused_with(expected="whole numbers in a label map"):
            read()


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz", "a.nii"])
def test_a_file_cut_anywhere_is_refused(tmp_path, image, name):
    path = written(tmp_path / name, image.astype(np.float32), compressed=name != "a.nii")
    data = path.read_bytes()
    begin = 900 if name == "a.mha" else 360
    for end in np.linspace(begin, len(data) - 1, 25).astype(int):
        path.write_bytes(data[:end])
        with refused_with(path.name) as refused:
            read_confidences(open_image(path))
        assert re.search("truncated|header", refused.value.problem or refused.value.found)
    path.write_bytes(data)
    assert read_confidences(open_image(path)).voxels.size > 6


def test_a_changed_byte_is_refused_by_the_checksum(tmp_path, image):
    for name in ("a.mha", "a.nii.gz"):
        path = written(tmp_path / name, image.astype(np.float32))
        data = bytearray(path.read_bytes())
        data[-1 if name == "a.mha" else -6] ^= 1
        path.write_bytes(data)
        with refused_with(problem="compressed stream is damaged"):
            read_confidences(open_image(path))


@pytest.mark.parametrize(
    ("header", "change", "expected", "found"),
    [
        ({}, lambda voxels: voxels + bytes(4), "420 bytes of voxels", "more"),
        ({}, lambda voxels: voxels[:-4], "420 bytes of voxels", "416: truncated"),
        ({"CompressedDataSize": "99"}, bytes, "99 bytes of compressed voxels .*", "19: truncated"),
        # ITK 5.4 takes a CompressedDataSize that is 0 or absent at its word, and reads noise
        *(
            ({"CompressedDataSize": size}, bytes, "length of the compressed voxels .*", size or "none")
            for size in ("0", "-1", None)
        ),
    ],
)
def test_another_number_of_voxels_than_in_the_header_is_refused(tmp_path, small, header, change, expected, found):
    path = tmp_path / "a.mha"
    data = meta(header, zlib.compress(change(small.tobytes())))
    path.write_bytes(data.replace(b"CompressedDataSize = None\n", b""))
    with refused_with("a.mha$", expected=expected, found=f"^{found}$"):
        read_confidences(open_image(path))


@pytest.mark.parametrize(
    ("size", "stream", "expected", "found", "most_bytes"),
    [
        ("7 5 3", lambda: bytes(1 << 28), "420 bytes of voxels", "more", 2e6),
        ("100000 100000 1000", lambda: bytes(1 << 24), "at most 2147483648 voxels", "10000000000000", 2e6),
        (
            "1000 1000 50",
            lambda: bytes(1 << 24) + os.urandom(1 << 18),
            "200000000 bytes of voxels",
            "17039360: truncated",
            8e6,
        ),
    ],
)
def test_endless_streams_and_huge_headers_take_no_memory(tmp_path, size, stream, expected, found, most_bytes):
    path = tmp_path / "a.mha"
    path.write_bytes(meta({"DimSize": size}, zlib.compress(stream())))
    tracemalloc.start()
    try:
        with refused_with(expected=f"^{expected}$", found=f"^{found}$"):
            read_confidences(open_image(path))
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def test_a_scaled_image_of_too_many_voxels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_image, "_MOST_SCALED_VOXELS", 100)
    path = tmp_path / "a.nii"
    write_volume(tmp_path / "a.nii.gz", Volume(np.zeros((3, 5, 7), np.float32), Grid((7, 5, 3), *ONES)))
    data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    struct.pack_into("<f", data, 112, 2.0)
    path.write_bytes(data)
    for read in (read_confidences, read_labels):
        with refused_with(r"a\.nii", expected="at most 100 scaled voxels", found="105"):
            read(open_image(path))


def test_too_much_foreground_is_refused(tmp_path, small, monkeypatch):
    monkeypatch.setattr(sparse_image, "_MOST_FOREGROUND", 5)
    path = written(tmp_path / "a.mha", small, SMALL)
    with refused_with(r"a\.mha", problem="more than 5 voxels are not zero"):
        read_confidences(open_image(path))


def test_an_image_without_foreground_is_empty(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, Volume(np.zeros(BIG.shape_zyx, np.float32), BIG))
    found = read_confidences(open_image(path))
    assert (found.voxels.size, found.values.dtype, found.has_background) == (0, np.float32, True)


def test_crop_and_padding_around_the_centre_equal_slicing():
    random = np.random.default_rng(9)
    for _ in range(100):
        shape, wanted = (tuple(int(n) for n in random.integers(1, 7, 3)) for _ in range(2))
        array = np.where(random.random(shape) < 0.5, random.random(shape), 0).astype(np.float32)
        expected = array
        for axis in range(3):
            found, size = shape[axis], wanted[axis]
            kept = min(found, size)
            expected = np.take(expected, np.arange((found - kept) // 2, (found - kept) // 2 + kept), axis)
            before = (size - kept) // 2
            expected = np.pad(expected, [(before, size - kept - before) if a == axis else (0, 0) for a in range(3)])
        same(Foreground.of(array).centred(wanted), expected)
