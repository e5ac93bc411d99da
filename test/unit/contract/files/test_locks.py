"""Locks on files, and file systems without them."""

import pytest
from refusals import refused_with

from contract.files.locks import try_lock


@pytest.mark.parametrize("number", [38, 95, 37])  # ENOSYS, EOPNOTSUPP, ENOLCK
def test_a_file_system_without_locks_is_named_in_one_line(number, tmp_path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "whatever")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        (tmp_path / ".lock").open("w") as lock,
        refused_with(r"\.lock", r"file system without locks \(flock; Lustre: mount with"),
    ):
        try_lock(lock)


def test_lock_has_one_holder_unless_shared(tmp_path) -> None:
    path = tmp_path / ".lock"
    with path.open("w") as first, path.open("r") as second, path.open("r") as third:
        assert try_lock(first)
        assert not try_lock(second, shared=True)
        first.close()
        assert try_lock(second, shared=True)
        assert try_lock(third, shared=True)
