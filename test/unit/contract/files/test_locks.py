"""Locks on files: one holder, file systems without them, and a lock file that says who holds it."""

import json
import os

import pytest
from refusals import refused_with

from contract.files.locks import holder_in_words, is_work_lock, names_holder, this_process, try_lock


def test_a_lock_names_its_process_and_slurm_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    holder = json.loads(this_process())
    assert (holder["pid"], holder["slurm_job"]) == (os.getpid(), "4711")
    words = holder_in_words(this_process())
    assert words.startswith(f"process {os.getpid()} on {holder['host']}, Slurm job 4711, since 20")


@pytest.mark.parametrize("text", ["mine", "{}", "[1]", '{"host": "a", "pid": 1}'])
def test_other_text_names_no_holder(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    assert not is_work_lock(tmp_path / ".lock")
    assert holder_in_words(text) == text


@pytest.mark.parametrize("write", [lambda: "", this_process], ids=["nothing", "a holder"])
def test_nothing_and_a_holder_are_a_lock(tmp_path, write):
    text = write()
    (tmp_path / ".lock").write_text(text)
    assert names_holder(text) and is_work_lock(tmp_path / ".lock")


def test_bytes_that_are_no_text_are_no_lock(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\xfe")
    assert not is_work_lock(tmp_path / ".lock")


@pytest.mark.parametrize("number", [38, 95, 37])  # ENOSYS, EOPNOTSUPP, ENOLCK
def test_a_file_system_without_locks_is_named_in_one_line(number, tmp_path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "whatever")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        (tmp_path / ".lock").open("w") as lock,
        refused_with(r"\.lock", "not supported by this file system|file system without locks"),
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
