"""A lock file says who holds it; what says something else is the user's. Locks between processes: test_lock."""

import json
import os

import pytest

from contract.files.locks import holder_in_words, is_work_lock, names_holder, this_process


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


@pytest.mark.parametrize("text", ["", this_process()])
def test_nothing_and_a_holder_are_a_lock(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    assert names_holder(text) and is_work_lock(tmp_path / ".lock")


def test_bytes_that_are_no_text_are_no_lock(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\xfe")
    assert not is_work_lock(tmp_path / ".lock")
