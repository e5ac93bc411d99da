"""What the log says of a long command; what a terminal shows is tested with batches."""

import logging
import re
import time

import pytest

from contract.process import progress
from contract.process.progress import stdout_bar, time_left


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "contract.process.progress"]


def test_the_time_left_goes_as_fast_as_what_was_done():
    # 3 studies in 90 s are 30 s each; 122 more are 3660 s.
    assert time_left(90.0, done=3, left=122) == "about 1:01:00 left"
    assert time_left(90.0, done=3, left=0) == "done"


@pytest.mark.parametrize(("count", "lines"), [(40, 10), (3, 3), (41, 9), (0, 0)])
def test_a_log_gets_a_line_per_tenth(caplog, count, lines):
    with caplog.at_level(logging.INFO):
        assert list(stdout_bar("predicting")(range(count))) == list(range(count))
    assert len(told(caplog)) == lines


def test_a_log_gets_a_line_when_none_was_written_for_long(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    with caplog.at_level(logging.INFO):
        for number in stdout_bar("predicting")(range(100)):
            if number == 4:
                time.sleep(0.03)
    assert told(caplog)[0].startswith("predicting: 5 of 100 after 0:00:00, about 0:00:0")


def test_what_was_done_before_counts_but_says_nothing_of_the_speed(caplog):
    with caplog.at_level(logging.INFO):
        for _ in stdout_bar("predicting")(range(2), done=1000):
            time.sleep(1.0)
    first, last = told(caplog)
    assert re.fullmatch(r"predicting: 1001 of 1002 after 0:00:01, about 0:00:01 left", first)
    assert re.fullmatch(r"predicting: 1002 of 1002 after 0:00:02, done", last)
