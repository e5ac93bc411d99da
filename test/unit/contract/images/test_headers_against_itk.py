"""Mutated headers: our one parser and SimpleITK, in a child, agree on the grid and the voxels to the bit, or we refuse.

Headers that SimpleITK wrote, of several types, placements and compressions (and some of the real data, where they are),
are changed as people, tools and attackers change them. ``ONCODUET_HEADERS`` says how many (5,000); each follows from
its number. What we refuse is never given to ITK, which dies of some of it: the child reads what we accept.
"""

import gzip
import hashlib
import json
import math
import os
import re
import select
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from paths import DATA
from refusals import refused_with

from contract.errors import OncoduetError
from contract.images.whole_image import read_header, read_voxels

HEADERS = int(os.environ.get("ONCODUET_HEADERS", "5000"))
LONGEST_SECONDS = 5.0
ROUNDING_MM = 0.02
"""Between corners of an image of 40 mm, where two placements agree to 1e-4 and ITK's choice is one of rounding."""
TYPES = [sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32]
TYPES += [sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat32, sitk.sitkFloat64]
SUFFIXES = (".mha", ".nii", ".nii.gz")

NUMBERS = [
    "0", "-0", "1", "-1", "3", "+2", "0.5", ".5", "5.", "1e1", "1e-3", "1E+2", "1e400", "nan", "inf", "-inf",
    "0x1",
]  # fmt: skip
NUMBERS += [
    "1e", "e1", "1,5", "1_0", "٣", "007", "4294967297", "2147483648", "9" * 30, "1d3", "--1", "1e-400", "", "1 2",
]  # fmt: skip
KEYS = ["HeaderSize", "ElementDataFile", "CompressedData", "CompressedDataSize", "BinaryData", "ElementByteOrderMSB"]
KEYS += [
    "BinaryDataByteOrderMSB", "Position", "Origin", "Offset", "Rotation", "Orientation", "TransformMatrix",
    "NDims",
]  # fmt: skip
KEYS += ["DimSize", "ElementSpacing", "ElementSize", "ElementNBits", "ElementNumberOfChannels", "ElementType", "Color"]
KEYS += ["ElementMin", "ElementMax", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "Comment"]
KEYS += ["Name", "ID", "ParentID", "Modality", "SequenceID", "ImagePosition", "FileFormatVersion", "ElementOrigin"]
KEYS += ["ElementDirection", "DistanceUnits", "AnatomicalOrientation", "CenterOfRotation", "ObjectSubType", "0008|0060"]
KEYS += ["ITK_InputFilterName", "Anything-else", "AcquisitionDate", "CompressionLevel", "elementdatafile", "Dim Size"]
VALUES = [*NUMBERS, "True", "False", "true", "T", "1 0 0 0 1 0 0 0 1", "1 2 3", "0.5 0.75 3", "7 5 3", "3 5 7", "LOCAL"]
VALUES += [
    "local", "LIST", "LIST 2", "/etc/passwd", "a.raw", "%d.raw 1 3 1", "MET_UCHAR", "MET_FLOAT", "MET_LONG", "mm",
]  # fmt: skip
VALUES += ["\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "a\x0cb", "a\r", "3.0", "1.000", "0.000000"]
VALUES += ["MET_SHORT", "MET_OTHER", "MET_UCHAR_ARRAY", "RAI", "?", "LPS", "x" * 300, "a = b", "a : b", "Image", "um"]
SIGNS = [" = ", "=", " =", "= ", " : ", ":", "  =  ", " == ", " ", "\t=\t", " = \0", "\0 = ", " =\r"]
ENDS = ["\n", "\n", "\n", "\r\n", "\r", "\0\n", "\n\n", " \n", "\t\n", "", "\x0b\n", "\x85\n"]
NIFTI_FIELDS = ["0:i", "39:B", "40:h", "42:h", "44:h", "46:h", "48:h", "56:f", "60:f", "68:h", "70:h", "72:h", "74:h"]
NIFTI_FIELDS += ["76:f", "80:f", "84:f", "88:f", "92:f", "108:f", "112:f", "116:f", "123:B", "252:h", "254:h", "256:f"]
NIFTI_FIELDS += [
    "260:f", "264:f", "268:f", "272:f", "276:f", "280:f", "284:f", "296:f", "300:f", "308:f", "320:f", "324:f",
]  # fmt: skip
WHOLES = [0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 768, 1001, 1002, 1007, 1024, 1280, 2304, -1, 32767, -32768]
REALS = [
    0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 352.0, 348.0, 356.0, 0.25, 1e-30, 1e30, math.nan, math.inf, -math.inf, 1e-3,
]  # fmt: skip


def images(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Suffix and bytes of what SimpleITK writes, and of some real files that are small."""
    random = np.random.default_rng(11)
    for number in range(60):
        image = sitk.GetImageFromArray(random.integers(0, 100, (3, 5, 7)))
        image = sitk.Cast(image, TYPES[number % len(TYPES)])
        axes = np.eye(3)[list(random.permutation(3))] if number % 3 else np.linalg.qr(random.normal(size=(3, 3)))[0]
        image.SetDirection(axes.ravel().tolist())
        image.SetSpacing(random.uniform(0.05, 6, 3).tolist())
        image.SetOrigin(random.uniform(-500, 500, 3).tolist())
        suffix = SUFFIXES[number % 3]
        if number % 4 == 0:
            image.SetMetaData("0010|0010", "Bär^Ü")
            image.SetMetaData("Note", "a : b = c")
        path = folder / f"seed{suffix}"
        sitk.WriteImage(image, str(path), useCompression=bool(number % 2))
        yield suffix, path.read_bytes()
    real = sorted(DATA.glob("prostatex/mha/**/*.mha")) + sorted(DATA.glob("picai_eval/**/*.nii.gz"))
    for path in [each for each in real if each.stat().st_size < 300_000][:12]:
        yield (".mha" if path.suffix == ".mha" else ".nii.gz"), path.read_bytes()


def mutated_meta(random: np.random.Generator, data: bytes) -> bytes:
    """A header with one to three changes; the voxels stay, or lose or gain a few bytes."""
    begin = data.index(b"ElementDataFile = LOCAL\n") + 24
    lines = data[:begin].decode("latin-1").splitlines(keepends=True)
    voxels = data[begin:]
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(len(lines)))
        key, _, value = lines[place].rstrip("\n").partition(" = ")
        way = int(random.integers(12))
        if way == 0:
            lines[place] = f"{key} = {pick(random, VALUES)}\n"
        elif way == 1:
            words = value.split() or [""]
            words[int(random.integers(len(words)))] = pick(random, NUMBERS)
            lines[place] = f"{key} = {' '.join(words)}\n"
        elif way == 2:
            lines.insert(place, f"{pick(random, KEYS)} = {pick(random, VALUES)}\n")
        elif way == 3:
            lines.insert(place, f"{pick(random, KEYS)}{pick(random, SIGNS)}{pick(random, VALUES)}{pick(random, ENDS)}")
        elif way == 4:
            lines[place] = f"{key}{pick(random, SIGNS)}{value}\n"
        elif way == 5:
            lines[place] = f"{key} = {value}{pick(random, ENDS)}"
        elif way == 6:
            lines.insert(int(random.integers(len(lines))), lines[place])
        elif way == 7 and len(lines) > 2:
            del lines[place]
        elif way == 8:
            other = int(random.integers(len(lines)))
            lines[place], lines[other] = lines[other], lines[place]
        elif way == 9:
            lines[place] = f"{pick(random, KEYS)} = {value}\n"
        elif way == 10:
            lines[place] = flipped(random, lines[place].encode("latin-1", "replace")).decode("latin-1")
        else:
            voxels = voxels[:-1] if random.random() < 0.5 else voxels + bytes(int(random.integers(1, 9)))
    return "".join(lines).encode("latin-1", "replace") + voxels


def mutated_nifti(random: np.random.Generator, data: bytes) -> bytes:
    """One to three fields or bytes of the header changed; now and then the length of the file."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        way = int(random.integers(7))
        place, kind = pick(random, NIFTI_FIELDS).split(":")
        if way < 3:
            value = pick(random, REALS) if kind == "f" else pick(random, WHOLES)
            struct.pack_into(f"<{kind}", changed, int(place), value & 255 if kind == "B" else value)
        elif way == 3 and kind == "f":
            (old,) = struct.unpack_from("<f", changed, int(place))
            struct.pack_into("<f", changed, int(place), np.float32(old * (1 + random.choice([1e-7, 1e-4, 1e-2, 9]))))
        elif way == 4:
            struct.pack_into("<2h", changed, 252, *random.integers(0, 6, 2).tolist())
        elif way == 5:
            changed[int(random.integers(352))] = int(random.integers(256))
        elif way == 6:
            struct.pack_into("<2f", changed, 112, pick(random, REALS), pick(random, REALS))
    if random.random() < 0.1:
        return bytes(changed[: int(random.integers(300, len(changed)))])
    return bytes(changed) + bytes(5 if random.random() < 0.05 else 0)


def pick(random: np.random.Generator, choices: list[Any]) -> Any:
    return choices[int(random.integers(len(choices)))]


def flipped(random: np.random.Generator, data: bytes) -> bytes:
    spoilt = bytearray(data)
    if spoilt:
        spoilt[int(random.integers(len(spoilt)))] ^= 1 << int(random.integers(8))
    return bytes(spoilt)


def mutated(random: np.random.Generator, suffix: str, data: bytes) -> bytes:
    if suffix == ".mha":
        return mutated_meta(random, data)
    if suffix == ".nii":
        return mutated_nifti(random, data)
    inner = mutated_nifti(random, gzip.decompress(data))
    if random.random() < 0.1:
        cuts = sorted(random.integers(0, len(inner) + 1, int(random.integers(1, 5))).tolist())
        parts = [inner[a:b] for a, b in pairwise([0, *cuts, len(inner)])]
        return b"".join(gzip.compress(part, 1) for part in parts) + bytes(int(random.integers(3)) * 512)
    outer = gzip.compress(inner, 1)
    return flipped(random, outer) if random.random() < 0.1 else outer


class Itk:
    """SimpleITK in a child process, started anew after it died."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        if self.child is None or self.child.poll() is not None:
            command = [sys.executable, str(Path(__file__).parent / "header_reader.py")]
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{path}\n")
        self.child.stdin.flush()
        if not select.select([self.child.stdout], [], [], 60)[0]:
            self.close()
            return {"refused": "hangs"}
        return json.loads(self.child.stdout.readline() or '{"refused": "died"}')  # type: ignore[no-any-return]

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None


@contextmanager
def itk() -> Iterator[Itk]:
    reader = Itk()
    try:
        yield reader
    finally:
        reader.close()


def beside_nothing(folder: Path, suffix: str) -> Path:
    """A path without a sibling: ITK, asked for ``a.nii.gz``, reads ``a.nii`` where there is one."""
    return folder / f"{suffix.removeprefix('.').replace('.', '-')}{suffix}"


def ours(path: Path) -> dict[str, Any]:
    header = read_header(path)
    voxels = read_voxels(path, header)
    return {
        "size": list(header.size_xyz),
        "spacing": [value.hex() for value in header.spacing_mm_xyz],
        "origin": [value.hex() for value in header.origin_mm_xyz],
        "direction": [value.hex() for value in header.direction],
        "type": str(voxels.dtype),
        "voxels": hashlib.sha256(voxels.tobytes()).hexdigest(),
    }


def finite(path: Path) -> bool:
    """Whether all voxels are numbers: ITK puts zeros for others in a NIfTI, and every reader of ours refuses them."""
    voxels = read_voxels(path, read_header(path))
    return voxels.dtype.kind != "f" or bool(np.isfinite(voxels).all())


def agree(one: dict[str, Any], other: dict[str, Any], *, tolerance_mm: float = 0.0) -> bool:
    """To the bit, but for the sign of a zero of the grid; or grids whose corners are no further apart."""
    if any(one[key] != other[key] for key in ("size", "spacing", "type", "voxels")):
        return False
    if tolerance_mm:
        return bool(np.abs(corners(one) - corners(other)).max() <= tolerance_mm)
    return all(
        float.fromhex(mine) == float.fromhex(theirs)
        for key in ("origin", "direction")
        for mine, theirs in zip(one[key], other[key], strict=True)
    )


def corners(answer: dict[str, Any]) -> np.ndarray:
    """Where the image's corners lie, shape (8, 3)."""
    spacing, origin, direction = (
        np.array([float.fromhex(value) for value in answer[key]]) for key in ("spacing", "origin", "direction")
    )
    return np.array(
        [
            origin + direction.reshape(3, 3) @ (spacing * corner * (np.array(answer["size"]) - 1))
            for corner in np.ndindex(2, 2, 2)
        ]
    )


def twice_placed(path: Path) -> bool:
    """A NIfTI with a qform and an sform that is not the scanner's: ITK follows either, as an SVD has it."""
    if path.suffix == ".mha":
        return False
    qform, sform = struct.unpack("<2h", (gzip.open if path.suffix == ".gz" else open)(path, "rb").read(256)[252:])
    return bool(qform > 0 and sform > 1)


@pytest.mark.slow
def test_we_read_what_simpleitk_reads_or_refuse_it(tmp_path: Path) -> None:
    seeds = list(images(tmp_path))
    outcomes: Counter[str] = Counter()
    with itk() as reader:
        for suffix, data in seeds:
            path = beside_nothing(tmp_path, suffix)
            path.write_bytes(data)
            assert agree(ours(path), reader.read(path))
        for number in range(HEADERS):
            random = np.random.default_rng(number)
            suffix, data = seeds[number % len(seeds)]
            path = beside_nothing(tmp_path, suffix)
            path.write_bytes(mutated(random, suffix, data))
            begun = time.perf_counter()
            try:
                found = ours(path)
            except OncoduetError as error:
                assert str(error).startswith(f"{path}: ")
                outcomes["refused", suffix] += 1
                continue
            finally:
                assert time.perf_counter() - begun < LONGEST_SECONDS
            outcomes["read", suffix] += 1
            if finite(path):
                expected = reader.read(path)
                assert "refused" not in expected, (number, found, expected)
                tolerance_mm = ROUNDING_MM if twice_placed(path) else 0.0
                assert agree(found, expected, tolerance_mm=tolerance_mm), (number, found, expected)
    assert min(outcomes[outcome, suffix] for outcome in ("read", "refused") for suffix in SUFFIXES) > HEADERS // 50


def nifti(
    folder: Path, suffix: str = ".nii.gz", *, end: bytes = b"", **fields: tuple[int, str, tuple[float, ...]]
) -> Path:
    """A tilted image with a quaternion and an affine of one meaning, and fields (place, layout, values) changed."""
    random = np.random.default_rng(3)
    image = sitk.GetImageFromArray(random.integers(0, 99, (3, 5, 7)).astype(np.int16))
    image.SetDirection(np.linalg.qr(random.normal(size=(3, 3)))[0].ravel().tolist())
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-80.5, 31.25, 7.0))
    sitk.WriteImage(image, str(folder / "made.nii"))
    data = bytearray((folder / "made.nii").read_bytes())
    for place, layout, values in fields.values():
        struct.pack_into(f"<{layout}", data, place, *values)
    path = beside_nothing(folder, suffix)
    path.write_bytes(gzip.compress(bytes(data)) + end if suffix == ".nii.gz" else bytes(data))
    return path


@pytest.mark.parametrize("shift_mm", [0.0, 0.3])
def test_of_two_placements_the_one_counts_that_itk_takes(
    tmp_path: Path, shift_mm: float, caplog: pytest.LogCaptureFixture
) -> None:
    moved = (struct.unpack_from("<f", gzip.decompress(nifti(tmp_path).read_bytes()), 292)[0] + shift_mm,)
    origins = {}
    with itk() as reader:
        for codes in product(range(6), repeat=2):
            if codes != (0, 0):
                path = nifti(tmp_path, codes=(252, "2h", codes), shift=(292, "f", moved))
                mine, theirs = ours(path), reader.read(path)
                assert agree(mine, theirs, tolerance_mm=0.0 if shift_mm else 1e-5), codes
                origins[codes] = float.fromhex(mine["origin"][0])
    quaternion, affine = origins[1, 0], origins[0, 1]
    assert abs(quaternion - affine) == pytest.approx(shift_mm, abs=1e-5)
    if shift_mm:
        assert {codes for codes, origin in origins.items() if origin == affine} == {
            codes for codes in origins if codes[1] == 1 or codes[0] == 0
        }
        assert "up to 0.3 mm apart" in caplog.text
    else:
        assert not caplog.records


def test_an_affine_that_is_skewed_counts_where_it_equals_the_quaternion(tmp_path: Path) -> None:
    """ITK's first question, before it asks for the axes: which differ here by more than 1e-4 of 0.05 mm."""
    affine = (0.05, 0.000008, 0, 0, 0, 0.05, 0, 0, 0, 0, 3, 0)
    path = nifti(
        tmp_path,
        spacings=(80, "3f", (0.05, 0.05, 3)),
        codes=(252, "2h", (1, 2)),
        placed=(256, "18f", (0,) * 6 + affine),
    )
    with itk() as reader:
        assert agree(ours(path), reader.read(path))


LENIENT = {
    "no bits per voxel": (72, "h", (0,)),
    "a fourth axis of 0": (40, "5h", (4, 7, 5, 3, 0)),
    "NaN for no scale": (112, "2f", (math.nan, math.nan)),
    "NaN for no slope": (112, "2f", (math.nan, 0)),
    **{
        f"the intent {intent}": (68, "h", (intent,))
        for intent in (2, 24, 1001, 1002, 1003, 1011, 2001, 2002, 2005, 2016)
    },
}


@pytest.mark.parametrize("field", LENIENT.values(), ids=LENIENT.keys())
def test_a_nifti_header_of_other_tools_is_read_as_itk_reads_it(
    tmp_path: Path, field: tuple[int, str, tuple[float, ...]]
) -> None:
    path = nifti(tmp_path, field=field)
    with itk() as reader:
        assert agree(ours(path), reader.read(path))


def bgzipped(data: bytes, size: int = 100) -> bytes:
    """As bgzip writes: members of their own, each with its length in an extra field, and an empty one at the end."""
    blocks = []
    for place in range(0, len(data) + size, size):
        deflate = zlib.compressobj(wbits=-15)
        part = data[place : place + size]
        body = deflate.compress(part) + deflate.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(body) + 25)
        blocks.append(head + body + struct.pack("<2I", zlib.crc32(part), len(part)))
    return b"".join(blocks)


MEMBERS = {
    "bgzip": bgzipped,
    "an empty first member": lambda data: gzip.compress(b"") + gzip.compress(data),
    "an empty last member": lambda data: gzip.compress(data) + gzip.compress(b""),
    "a first member shorter than a header": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "many empty members": lambda data: gzip.compress(b"") * 999 + gzip.compress(data) + gzip.compress(b"") * 999,
    "zeros to a whole block of a tape": lambda data: (done := gzip.compress(data)) + bytes(10240 - len(done)),
}


@pytest.mark.parametrize("compress", MEMBERS.values(), ids=MEMBERS.keys())
def test_a_gzip_of_several_members_is_read_as_itk_reads_it(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = nifti(tmp_path)
    path.write_bytes(compress(gzip.decompress(path.read_bytes())))
    with itk() as reader:
        assert agree(ours(path), reader.read(path))


@pytest.mark.parametrize("end", [b"more", bytes(512) + b"more", bytes(512) + gzip.compress(b"")])
def test_other_bytes_than_members_and_zeros_behind_a_gzip_are_refused(tmp_path: Path, end: bytes) -> None:
    path = nifti(tmp_path, end=end)
    with refused_with(problem="more bytes after the compressed voxels"):
        ours(path)


NOTES = {
    "a name in Japanese (ISO 2022)": {"0010|0010": "Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"},
    "a name in Korean": {"0010|0010": "Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"},
    "an address with a form feed": {"0008|0081": "Street\x0cCity"},
    "a carriage return at the end": {"0008|4000": "a comment\r"},
    "any other byte": {"note": "".join(map(chr, [*range(1, 10), *range(11, 256)]))},
    "a key in brackets": {"(0008,0060)": "MR"},
    "an intensity that is unknown": {"ElementMin": "nan", "ElementMax": "1e+06"},
    "a scale of 1.000000": {"ElementToIntensityFunctionSlope": "1.000000", "ElementToIntensityFunctionOffset": "0.0"},
    "the byte order twice": {"ElementByteOrderMSB": "False"},
    "no header in front": {"HeaderSize": "0"},
    "tabs between numbers": {"CenterOfRotation": "0\t0\t0"},
}


@pytest.mark.parametrize("notes", NOTES.values(), ids=NOTES.keys())
def test_a_meta_image_of_other_tools_is_read_as_itk_reads_it(tmp_path: Path, notes: dict[str, str]) -> None:
    path = beside_nothing(tmp_path, ".mha")
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3)), str(path))
    lines = "".join(f"{key} = {value}\n" for key, value in notes.items()).encode("latin-1")
    data = (
        re.sub(rb"CenterOfRotation = .*\n", b"", path.read_bytes())
        if "CenterOfRotation" in notes
        else path.read_bytes()
    )
    path.write_bytes(data.replace(b"ElementSpacing", lines + b"ElementSpacing"))
    with itk() as reader:
        assert agree(ours(path), reader.read(path))
