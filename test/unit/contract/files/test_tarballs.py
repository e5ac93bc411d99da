"""Archives that tarfile would read without end, into all memory or with a traceback; each a few bytes long."""

import io
import tarfile

import pytest

from contract.files.tarballs import LONGEST_HEADER_BYTES, members


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("x", len(content), kind) + padded(content) + header("a.mha")


def sparse(size: int) -> bytes:
    """One file without content that is as large as it says (GNU's oldest form: its size stands in bytes 483 to 494)."""
    block = bytearray(header("a.mha", kind=tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"00000000000\0" * 2
    block[482:495] = b"\0\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(2 * tarfile.BLOCKSIZE)
LONG = b"1" * (LONGEST_HEADER_BYTES + 20_000)  # tarfile reads ahead
FAULTS = {
    "a sparse file of 2^60 bytes": (sparse(1 << 60), "'a.mha' is a sparse file"),
    "a long extended header": (extended(LONG), "a header of more than 1048576 bytes"),
    "a long name": (extended(LONG, tarfile.GNUTYPE_LONGNAME), "a header of more than 1048576 bytes"),
    "headers in a chain": (
        (header("x", 1, tarfile.GNUTYPE_LONGNAME) + padded(b"a")) * 900,
        "a header that cannot be read: maximum recursion depth",
    ),
    "no number": (extended(b"27 GNU.sparse.map=1,2,3,xx\n"), "a header that cannot be read: invalid literal"),
    "a name that ends early": (extended(b"16 path=a\0/../b\n"), r"'a\x00/../b' is no file name"),
    "a damaged header between": (header("a.mha") + b"\1" * 512 + header("b.mha"), "invalid header"),
    "half a header": (header("a.mha") + header("b.mha")[:300], "truncated header"),
    "no end": (header("a.mha"), "empty header"),
}


@pytest.mark.parametrize(("content", "found"), FAULTS.values(), ids=FAULTS)
def test_a_hostile_archive_is_an_error_and_not_a_shorter_archive(content, found):
    rest = b"" if found in ("truncated header", "empty header") else END
    with pytest.raises(tarfile.TarError) as caught:
        list(members(io.BytesIO(content + rest)))
    assert str(caught.value).startswith(found)


def test_members_may_be_read_or_skipped():
    blocks = [
        header("a", 3),
        padded(b"aaa"),
        header("folder", kind=tarfile.DIRTYPE),
        header("b", 2),
        padded(b"bb"),
        END,
    ]
    found = [(member.name, content) for member, content in members(io.BytesIO(b"".join(blocks)))]
    assert [name for name, _ in found] == ["a", "folder", "b"]
    read = [(member.name, content.read()) for member, content in members(io.BytesIO(b"".join(blocks)))]
    assert read == [("a", b"aaa"), ("folder", b""), ("b", b"bb")]


def test_more_members_than_asked_for_are_an_error():
    assert len(list(members(io.BytesIO(header("a") * 3 + END), most=4))) == 3
    with pytest.raises(tarfile.TarError, match="more than 3 members"):
        list(members(io.BytesIO(header("a") * 4 + END), most=3))


def test_content_may_be_longer_than_any_header():
    size = 3 * LONGEST_HEADER_BYTES
    stream = io.BytesIO(header("a", size) + bytes(size) + header("b", 1) + padded(b"b") + END)
    assert [member.size for member, _ in members(stream)] == [size, 1]
