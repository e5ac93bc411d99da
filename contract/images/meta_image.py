"""The header of a ``.mha``: one strict grammar, in which nothing can mean two things.

A header is lines ``Key = value``, each key once, the last of them ``ElementDataFile = LOCAL``. Keys with an effect have
one meaning and one spelling; those with which the format places voxels elsewhere or twice (``ImagePosition``,
``ElementOrigin``, …) are refused; all others are notes of other tools (ITK, DICOM) and are ignored, whatever bytes but
NUL they hold: names of patients in Japanese have escape sequences. Missing values are never assumed: no spacing of 1
mm, no origin at 0.

Source: the MetaIO documentation (https://itk.org/Wiki/ITK/MetaIO/Documentation); ITK 5.4, ``metaObject.cxx`` and
``metaImage.cxx``, for the synonyms and for what overrides what.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from contract.errors import OncoduetError
from contract.images.image_header import ImageHeader, checked

_LONGEST_HEADER_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 1 << 15  # ITK takes what is behind for another line

_LINE = re.compile(rb"([A-Za-z0-9_(](?:[!-9;<>-~ ]*[!-9;<>-~])?) =(?: ([^\0\n]*))?\n")
"""A line of the header; a key is printable ASCII without ``:`` and ``=``, which end a key."""
_NUMBER = re.compile(r"[-+]?([0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]{1,18}")

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_LENGTHS = {"DimSize": 3, "ElementSpacing": 3, "Offset": 3, "TransformMatrix": 9}
"""Required keys, with their number of values."""
_NOTES = {"CenterOfRotation": 3, "SequenceID": 3, "ElementSize": 3, "Color": 4, "ElementNBits": 1, "ElementMin": 1}
_NOTES |= {"ElementMax": 1, "ID": 1, "ParentID": 1}
"""Keys without effect, with their number of values; ITK reads on in the next line if there are fewer."""
_ONLY = {
    "ObjectType": ("Image", "an image"),
    "NDims": ("3", "a 3D image"),
    "BinaryData": ("True", "binary voxels"),
    "ElementDataFile": ("LOCAL", "the voxels in the file itself"),
    "ElementNumberOfChannels": ("1", "one value per voxel"),
    "DistanceUnits": ("mm", "lengths in mm"),
    "ElementToIntensityFunctionSlope": ("1", "voxels that are the intensities"),
    "ElementToIntensityFunctionOffset": ("0", "voxels that are the intensities"),
    "HeaderSize": ("0", "voxels that begin behind the header"),
}
"""The only accepted value of a key, and its meaning; the first four keys are required."""
_REQUIRED = list(_ONLY)[:4]
_REALS = ("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
_REFUSED = ("FileFormatVersion", "ImagePosition", "ElementOrigin", "ElementDirection")
_KNOWN = {*_SYNONYMS, *_LENGTHS, *_NOTES, *_ONLY, *_REFUSED}
_KNOWN |= {"CompressedData", "CompressedDataSize", "ElementType", "BinaryDataByteOrderMSB"}
_PER_AXIS = {*_LENGTHS, "CenterOfRotation", "SequenceID", "ElementSize"}
_KNOWN_LOWER = {key.lower(): key for key in _KNOWN}


def read_meta_header(path: Path, stream: IO[bytes], file_bytes: int) -> ImageHeader:
    """Read and check a header; the stream is at the file's first byte.

    Raises ``OncoduetError``: the header does not follow the grammar, or describes anything but a 3D image with one
    number per voxel.

    Parameters
    ----------
    file_bytes
        Length of the file.
    """
    lines, begin = _lines(path, stream)
    for key in _REFUSED:
        if key in lines:
            raise OncoduetError(path, expected=f"a MetaImage header without {key}", found=f"{key} = {lines[key]!r}")
    header = _without_synonyms(path, lines)
    for key, (value, meaning) in _ONLY.items():
        found = header.get(key, "none" if key in _REQUIRED else value)
        if found != value and not (key in _REALS and re.fullmatch(rf"{value}\.0*", found)):
            raise OncoduetError(path, expected=f"{meaning} ({key} = {value})", found=f"{found!r}")
    numbers = {key: _numbers(path, header, key, length) for key, length in _LENGTHS.items()}
    for key in _NOTES.keys() & header.keys():
        _numbers(path, header, key, _NOTES[key])
    if not all(_WHOLE.fullmatch(word) and int(word) for word in numbers["DimSize"]):
        raise OncoduetError(path, expected="3 positive whole numbers as DimSize", found=f"{header['DimSize']!r}")
    kind = header.get("ElementType", "none")
    if kind not in _TYPES:
        raise OncoduetError(path, expected=f"an ElementType among {', '.join(_TYPES)}", found=f"{kind!r}")
    order = ">" if _truth(path, header, "BinaryDataByteOrderMSB") else "<"
    axes = np.array(numbers["TransformMatrix"], dtype=np.float64).reshape(3, 3)  # row: an axis of the image
    x, y, z = (int(word) for word in numbers["DimSize"])
    dx, dy, dz = (float(word) for word in numbers["ElementSpacing"])
    px, py, pz = (float(word) for word in numbers["Offset"])
    return checked(
        path,
        ImageHeader(
            size_xyz=(x, y, z),
            spacing_mm_xyz=(dx, dy, dz),
            origin_mm_xyz=(px, py, pz),
            direction=tuple(axes.T.ravel().tolist()),
            type=np.dtype(order + _TYPES[kind]),
            begin=begin,
            stream_bytes=_stream_bytes(path, header, file_bytes - begin),
        ),
    )


def _lines(path: Path, stream: IO[bytes]) -> tuple[dict[str, str], int]:
    """All keys with their values, and where the voxels begin."""
    lines: dict[str, str] = {}
    begin = 0
    while "ElementDataFile" not in lines:
        line = stream.readline(_LONGEST_LINE_BYTES)
        begin += len(line)
        if len(line) == _LONGEST_LINE_BYTES or begin > _LONGEST_HEADER_BYTES:
            limits = f"limits: {_LONGEST_LINE_BYTES - 1} bytes per line, {_LONGEST_HEADER_BYTES} in all"
            raise OncoduetError(path, f"MetaImage header is too long ({limits})")
        if not line.endswith(b"\n"):
            raise OncoduetError(path, "MetaImage header has no ElementDataFile")
        match = _LINE.fullmatch(line)
        if match is None:
            raise OncoduetError(path, expected="lines 'Key = value' in the MetaImage header", found=_shown(line))
        key, value = match[1].decode("ascii"), (match[2] or b"").decode("latin-1").strip(" ")
        if key in lines:
            raise OncoduetError(path, f"duplicate {key} in the MetaImage header")
        known = _KNOWN_LOWER.get(key.lower(), key)
        if known != key:
            raise OncoduetError(path, expected=f"{known} in the MetaImage header", found=key)
        if _SYNONYMS.get(key, key) in _PER_AXIS and "NDims" not in lines:
            raise OncoduetError(path, f"MetaImage header has no NDims before {key}")
        lines[key] = value
    return lines, begin


def _without_synonyms(path: Path, lines: Mapping[str, str]) -> dict[str, str]:
    header: dict[str, str] = {}
    for key, value in lines.items():
        meaning = _SYNONYMS.get(key, key)
        if header.get(meaning, value) != value:
            raise OncoduetError(path, f"{meaning} and its synonym {key} differ in the MetaImage header")
        header[meaning] = value
    return header


def _numbers(path: Path, header: Mapping[str, str], key: str, length: int) -> list[str]:
    if key not in header:
        raise OncoduetError(path, f"MetaImage header has no {key}")
    words = re.findall(r"[^ \t]+", header[key])
    if words == ["nan"] and key in ("ElementMin", "ElementMax"):
        return words
    if len(words) != length or not all(map(_is_number, words)):
        raise OncoduetError(path, expected=f"{length} numbers as {key}", found=f"{header[key]!r}")
    return words


def _is_number(word: str) -> bool:
    """Whether a word is a number that fits into a double; ITK refuses others, wherever they are."""
    match = _NUMBER.fullmatch(word)
    is_zero = match is not None and not match[1].strip("0.")
    return match is not None and (is_zero or sys.float_info.min <= abs(float(word)) <= sys.float_info.max)


def _truth(path: Path, header: Mapping[str, str], key: str) -> bool:
    value = header.get(key, "False").lower()
    if value not in ("true", "false"):
        raise OncoduetError(path, expected=f"{key} = True or False in the MetaImage header", found=f"{header[key]!r}")
    return value == "true"


def _stream_bytes(path: Path, header: Mapping[str, str], present: int) -> int | None:
    """How long the compressed stream is; ITK would read noise where a header does not say, or says too little."""
    compressed = _truth(path, header, "CompressedData")
    stated = header.get("CompressedDataSize", "none" if compressed else "0")
    if not _WHOLE.fullmatch(stated) or (compressed and int(stated) == 0):
        raise OncoduetError(path, expected="the length of the compressed voxels as CompressedDataSize", found=stated)
    if not compressed:
        return None
    if int(stated) > present:
        raise OncoduetError(
            path, expected=f"{stated} bytes of compressed voxels (CompressedDataSize)", found=f"{present}: truncated"
        )
    if int(stated) < present:
        raise OncoduetError(path, expected=f"{stated} bytes of compressed voxels (CompressedDataSize)", found=present)
    return int(stated)


def _shown(line: bytes) -> str:
    text = line[:60].decode("latin-1")
    return repr(text if len(line) <= 60 else f"{text}…")
