"""Damaged, ambiguous and lying files, byte by byte: what ITK would read without complaint, or follow elsewhere."""

import gzip
import os
import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_makers import Saved, meta_image, nifti_header
from refusals import refused_with

from contract.images.volume import Volume, read_grid, read_volume
from contract.images.whole_image import read_header, read_voxels, require_whole

FORMATS = [(".mha", True), (".mha", False), (".nii.gz", True), (".nii", False)]


@pytest.mark.parametrize(("suffix", "compressed"), FORMATS)
def test_whole_file_is_accepted_silently(
    saved: Saved, scan: Volume, suffix: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(suffix, compressed)
    require_whole(path)
    assert np.array_equal(read_volume(path).array, scan.array)
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


def test_itk_reads_what_is_refused_here(saved: Saved, scan: Volume) -> None:
    """The reason for the module; once this fails, ITK has become stricter and the module may shrink."""
    path = saved(".nii.gz", True)
    path.write_bytes(path.read_bytes()[:-100_000])
    assert not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), scan.array)
    with refused_with(problem="truncated"):
        require_whole(path)


def test_a_header_can_be_read_without_voxels(saved: Saved, scan: Volume) -> None:
    path = saved(".nii.gz", True)
    path.write_bytes(path.read_bytes()[:-100_000])
    require_whole(path, voxels=False)
    assert read_grid(path).size_xyz == scan.grid.size_xyz


def test_a_stream_with_fewer_voxels_than_the_header_says_is_refused(saved: Saved) -> None:
    path = saved(".mha", True)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 61 52 43", b"DimSize = 61 52 44"))
    with refused_with(expected="558272 bytes of voxels", found="545584: truncated"):
        read_volume(path)


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
