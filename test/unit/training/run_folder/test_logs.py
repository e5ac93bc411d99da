"""A run's log file, whatever lies under its name."""

import os
from pathlib import Path

import pytest
from refusals import refused_with

from training.campaign.status import last_words
from training.run_folder.logs import log_to


def test_a_log_is_appended_to_and_its_last_line_shown(tmp_path: Path) -> None:
    for line in ("one", "two"):
        with log_to(tmp_path / "training.log"):
            print(line)
    assert (tmp_path / "training.log").read_text() == "one\ntwo\n"
    assert last_words(tmp_path / "training.log") == "two"
    assert last_words(tmp_path / "none.log") == ""


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("make", "said"), [(os.mkfifo, "a pipe"), (os.mkdir, "directory")])
def test_no_process_waits_for_a_log_that_is_none(tmp_path: Path, make, said: str) -> None:
    log = tmp_path / "training.log"
    make(log)
    assert said in last_words(log)
    with pytest.raises(OSError, match=r"training\.log"), log_to(log):
        pass
    if make is os.mkfifo:
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)  # with which it could be opened
        with refused_with(found="a pipe"), log_to(log):
            pass
        os.close(reader)
