"""Untrusted tar archives, read once from front to back in bounded memory.

Python's ``tarfile`` does the parsing, as on the platform. It takes a header of any length into memory, fills sparse
files with zeros without end, and takes a damaged header for the archive's end; here each of these is an error.
"""

import io
import tarfile
from collections.abc import Iterator
from typing import IO, Any, Protocol

MOST_MEMBERS = 100_000
"""Limit of members per archive."""
LONGEST_HEADER_BYTES = 1 << 20
"""Limit of a member's header, including extended headers."""
_CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """Source of a tar."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


def members(stream: Readable, *, most: int = MOST_MEMBERS) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Each member with its content (nothing, unless it is a regular file), which is to be read before the next one.

    Raises
    ------
    tarfile.TarError
        The archive is damaged or ends early, or holds a sparse file, a very long header or more than ``most`` members.
    OSError, EOFError, zlib.error
        As the stream.
    """
    source = _Source(stream)
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_Header) as tar:  # type: ignore[call-overload]
            for _ in range(most):
                member = tar.next()
                if member is None:
                    return
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name!r} is a sparse file")
                if "\0" in member.name + member.linkname:
                    raise tarfile.ReadError(f"{member.name!r} is no file name")
                source.left_bytes = None
                content = tar.extractfile(member) if member.isfile() else None
                yield member, content or io.BytesIO()
                while content is not None and content.read(_CHUNK_BYTES):
                    pass
                source.left_bytes = LONGEST_HEADER_BYTES
                tar.members.clear()  # which tarfile would keep
            raise tarfile.ReadError(f"more than {most} members")
    except (ValueError, RecursionError) as error:  # tarfile's own, of numbers that are none and headers in a chain
        raise tarfile.ReadError(f"a header that cannot be read: {error}") from None


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf).count(0) == tarfile.BLOCKSIZE:  # the archive's end
                raise
            raise tarfile.ReadError(str(error)) from None


class _Source:
    """Stream for tarfile that limits the bytes of each member's header."""

    def __init__(self, stream: Readable) -> None:
        self.stream = stream
        self.left_bytes: int | None = LONGEST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        found = self.stream.read(size)
        if self.left_bytes is not None:
            self.left_bytes -= len(found)
            if self.left_bytes < 0:
                raise tarfile.ReadError(f"a header of more than {LONGEST_HEADER_BYTES} bytes")
        return found
