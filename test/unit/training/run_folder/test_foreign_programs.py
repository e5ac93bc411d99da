"""What was put into a folder of other programs while none was at work there is the user's."""

import os
import time

import pytest
from refusals import refused_with

from training.run_folder import foreign_programs
from training.run_folder.foreign_programs import SIGN, at_work, remove_untouched, require_untouched

FOREIGN = {"expected": "only files of the programs", "found": "one not written by them"}


@pytest.fixture
def left(tmp_path):
    """A folder as programs left it a hundred seconds ago, copied or restored since, which keeps only those times."""
    folder = tmp_path / "programs"
    (folder / "models").mkdir(parents=True)
    (folder / f".partial-{'0' * 32}.json").write_text("half")
    with at_work(folder):
        (folder / "models" / "last.ckpt").write_text("theirs")
    for path in (folder / SIGN, folder / "models" / "last.ckpt"):
        set_age(path, 100)
    return folder


def set_age(path, seconds):
    when = time.time() - seconds
    os.utime(path, (when, when), follow_symlinks=False)


def test_a_folder_as_its_programs_left_it_is_removed(left):
    require_untouched(left)
    remove_untouched(left)
    assert not left.exists()


def test_a_folder_that_does_not_exist_is_untouched(tmp_path):
    require_untouched(tmp_path / "none")


@pytest.mark.parametrize("name", ["mine.txt", "models/mine.txt", "models/last.ckpt", "new/mine.txt"])
def test_a_later_file_is_refused_and_stays(left, name):
    (left / name).parent.mkdir(exist_ok=True)
    (left / name).write_text("mine")
    with refused_with(f"{name}$", **FOREIGN):
        require_untouched(left)
    remove_untouched(left)
    assert (left / name).read_text() == "mine"


def test_a_later_link_is_refused(left, tmp_path):
    (left / "mine").symlink_to(tmp_path)
    with refused_with("mine$", **FOREIGN):
        require_untouched(left)


def test_an_old_file_that_was_moved_there_later_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_programs, "SLACK_S", 0.0)
    with at_work(tmp_path):
        pass
    (tmp_path / "mine.txt").write_text("mine")
    deadline = time.monotonic() + 10
    while (tmp_path / "mine.txt").stat().st_ctime_ns <= (tmp_path / SIGN).stat().st_mtime_ns:
        assert time.monotonic() < deadline
        set_age(tmp_path / "mine.txt", 1000)
    with refused_with("mine.txt$", **FOREIGN):
        require_untouched(tmp_path)


def test_files_in_a_folder_without_the_sign_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with refused_with("mine.txt$", **FOREIGN):
        require_untouched(tmp_path)


def test_the_sign_is_touched_while_the_programs_work(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_programs, "INTERVAL_S", 0.01)
    with at_work(tmp_path):
        set_age(tmp_path / SIGN, 100)
        deadline = time.monotonic() + 10
        while (tmp_path / SIGN).stat().st_mtime < time.time() - 50:
            assert time.monotonic() < deadline
            time.sleep(0.01)
