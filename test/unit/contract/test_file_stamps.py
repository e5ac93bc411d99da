"""A file of equal size and time is taken as unchanged; otherwise its hash decides."""

import os

import pytest

from contract.file_stamps import FileStamp, is_unchanged, look_at


@pytest.mark.parametrize(
    ("content", "later_ns", "unchanged", "by_hash"),
    [
        (b"abc", 0, True, True),
        (b"abc", 1, True, True),
        (b"abd", 0, True, False),
        (b"abd", 1, False, False),
        (b"abcd", 0, False, False),
    ],
    ids=["same", "copied", "equal size and time", "edited", "longer"],
)
def test_size_and_time_are_believed_and_else_the_hash_decides(tmp_path, content, later_ns, unchanged, by_hash):
    path = tmp_path / "a.mha"
    path.write_bytes(b"abc")
    stamp = FileStamp(path="a.mha", **look_at(path))
    path.write_bytes(content)
    os.utime(path, ns=(0, stamp.modified_ns + later_ns))
    assert is_unchanged(stamp, path) is unchanged
    assert is_unchanged(stamp, path, hash_all=True) is by_hash
