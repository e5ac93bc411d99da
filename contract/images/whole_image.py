"""An image file, read without ITK: its header by one grammar, and exactly the voxels that the header announces.

ITK reads a truncated NIfTI as if nothing were missing, takes a compressed MetaImage with a damaged or cut stream for an
image of noise, and follows a header to other files. Here a header is parsed once (``meta_image``, ``nifti``),
compressed streams are inflated once, piece by piece, to the length in the header, their checksums compared, and bytes
after the voxels are refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.images.image_header import ImageHeader
from contract.images.meta_image import read_meta_header
from contract.images.nifti import HEADER_BYTES, parse_nifti_header

try:  # the same calls, four to twenty times faster on streams of zeros
    from zlib_ng import zlib_ng as zlib  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    import zlib  # type: ignore[no-redef,unused-ignore]

PIECE_BYTES = (1 << 17) - 1024
"""Size of a piece: fits into the processor's cache, and below malloc's threshold for new memory."""

_COMPRESSED_PIECE_BYTES = 1 << 12
_BEST_COMPRESSION = 1032
"""Largest compression ratio of a deflate stream."""
_MEMBER = b"\x1f"
"""First byte of each member of a gzip file."""


def read_header(path: Path) -> ImageHeader:
    """Read and check the header of an image file (``.mha``, ``.nii.gz``, ``.nii``), without its voxels.

    Raises ``OncoduetError``: there is no such regular file; the header does not follow its format's grammar, or
    describes anything but a 3D image with one real number per voxel, whose voxels the file is long enough to hold.
    """
    if not path.is_file():
        raise OncoduetError(path, "not a regular file" if path.exists() else "image not found")
    file_bytes = path.stat().st_size
    with path.open("rb") as stream:
        if path.name.endswith(".mha"):
            header = read_meta_header(path, stream, file_bytes)
        elif path.name.endswith(".nii"):
            header = parse_nifti_header(path, stream.read(HEADER_BYTES))
        elif path.name.endswith(".nii.gz"):
            header = parse_nifti_header(path, _first_inflated(path, stream))
        else:
            raise OncoduetError(path, expected="an image that ends in .mha, .nii.gz or .nii", found=f"{path.suffix!r}")
    _require_room(path, header, file_bytes)
    return header


def read_voxels(path: Path, header: ImageHeader) -> npt.NDArray[Any]:
    """The voxels as an array (z, y, x), scaled as the header says.

    Raises ``OncoduetError``: the voxels are truncated or damaged, more than the header says, or more than there is
    memory for.
    """
    try:
        array = np.empty(header.shape_zyx, header.type)
    except MemoryError:
        raise OncoduetError(path, expected="voxels that fit into memory", found=f"{header.voxel_bytes} bytes") from None
    filled, place = 0, array.reshape(-1).view(np.uint8)
    for piece in voxel_pieces(path, header):
        place[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    if header.is_scaled:
        real = array if array.dtype.kind == "f" else array.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return (real * np.float64(header.slope) + header.intercept).astype(real.dtype.newbyteorder("="))
    return array.astype(header.type.newbyteorder("="), copy=False)


def voxel_pieces(path: Path, header: ImageHeader) -> Iterator[bytes]:
    """The bytes of the voxels as the file has them, inflated, ``PIECE_BYTES`` or less at a time.

    Raises ``OncoduetError``: the voxels are truncated or damaged, or more than the header says.
    """
    with path.open("rb") as stream:
        if path.name.endswith(".gz"):
            skipped = 0
            for piece in _inflated(path, _chunks(stream), header.voxel_bytes, before=header.begin, is_file=True):
                here = min(header.begin - skipped, len(piece))
                skipped += here
                yield piece[here:] if here else piece
            return
        stream.seek(header.begin)
        if header.stream_bytes is None:
            yield from _stored(path, stream, header.voxel_bytes)
        else:
            yield from _inflated(path, _chunks(stream), header.voxel_bytes, before=0, is_file=False)


def require_whole(path: Path, *, voxels: bool = True) -> None:
    """Raise ``OncoduetError`` unless an image file (``.mha``, ``.nii.gz``, ``.nii``) is whole.

    Parameters
    ----------
    path
        An existing file.
    voxels
        Whether to check the voxels too, which inflates compressed files once; else the header alone.
    """
    header = read_header(path)
    if voxels:
        for _ in voxel_pieces(path, header):
            pass


def _require_room(path: Path, header: ImageHeader, file_bytes: int) -> None:
    """Refuse a file that is too short for its voxels however well it is compressed, before anything is set aside."""
    whole, present = header.voxel_bytes, file_bytes - header.begin
    if path.name.endswith(".gz"):
        present = file_bytes * _BEST_COMPRESSION - header.begin
    elif header.stream_bytes is not None:
        present = header.stream_bytes * _BEST_COMPRESSION
    elif present > whole:
        raise OncoduetError(path, expected=f"{whole} bytes of voxels", found=present)
    if present < whole:
        most = "at most " if header.stream_bytes is not None or path.name.endswith(".gz") else ""
        raise OncoduetError(path, expected=f"{whole} bytes of voxels", found=f"{most}{max(present, 0)}: truncated")


def _first_inflated(path: Path, stream: IO[bytes]) -> bytes:
    """The first bytes of a gzip file; fewer than a header where there are no more."""
    found = b""
    for piece in _members(path, _chunks(stream), is_file=True):
        found += piece[: HEADER_BYTES - len(found)]
        if len(found) == HEADER_BYTES:
            break
    return found


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """The rest of a file in pieces."""
    while piece := stream.read(_COMPRESSED_PIECE_BYTES):
        yield piece


def _inflated(path: Path, stream: Iterator[bytes], length: int, *, before: int, is_file: bool) -> Iterator[bytes]:
    """The inflated bytes of a zlib stream or a gzip file, in pieces; checksums are compared at the end.

    Parameters
    ----------
    length
        Of the voxels.
    before
        Bytes that come before them.
    is_file
        A gzip file, which may consist of several members; else there is one stream.
    """
    found = -before
    for piece in _members(path, stream, is_file=is_file):
        found += len(piece)
        if found > length:
            raise OncoduetError(path, expected=f"{length} bytes of voxels", found="more")
        yield piece
    if found < length:
        raise OncoduetError(path, expected=f"{length} bytes of voxels", found=f"{max(found, 0)}: truncated")


def _members(path: Path, stream: Iterator[bytes], *, is_file: bool) -> Iterator[bytes]:
    """The inflated bytes of the one stream, or of all members of a gzip file, in non-empty pieces.

    As gzip and zlib have it, members may be empty (bgzip ends with one), and zeros may follow the last, as on tapes.
    """
    compressed = next(stream, b"")
    while compressed:
        inflate = zlib.decompressobj(wbits=31 if is_file else 47)  # 47: zlib's or gzip's header
        try:
            while not inflate.eof:
                piece = inflate.decompress(compressed, PIECE_BYTES)
                if piece:
                    yield piece
                elif not compressed:
                    raise OncoduetError(path, "file is truncated")
                compressed = inflate.unconsumed_tail or (b"" if inflate.eof else next(stream, b""))
        except zlib.error as error:  # type: ignore[misc,unused-ignore]
            raise OncoduetError(path, f"compressed stream is damaged: {error}") from None
        compressed = inflate.unused_data or next(stream, b"")
        if not is_file or not compressed.startswith(_MEMBER):
            break
    while is_file and compressed and not compressed.strip(b"\0"):
        compressed = next(stream, b"")
    if compressed:
        raise OncoduetError(path, "more bytes after the compressed voxels")


def _stored(path: Path, stream: IO[bytes], length: int) -> Iterator[bytes]:
    """The next ``length`` bytes of a file in pieces."""
    found = 0
    while found < length:
        piece = stream.read(min(PIECE_BYTES, length - found))
        if not piece:
            raise OncoduetError(path, expected=f"{length} bytes of voxels", found=f"{found}: truncated")
        found += len(piece)
        yield piece
