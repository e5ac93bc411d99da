import logging
import math
import signal

import pytest
from refusals import refused_with

from contract.process.workers import each_of


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_pieces(workers):
    assert list(each_of(math.factorial, range(5), workers=workers)) == [1, 1, 2, 6, 24]


@pytest.mark.parametrize("fault", [OSError(30, "Read-only file system"), FileNotFoundError(2, "No such file")])
def test_without_semaphores_one_process_does_all_the_work_and_says_so(monkeypatch, caplog, fault):
    """As where /dev/shm is read-only, not mounted or not ours: the operating system refuses each semaphore."""

    def refuse(*_, **__):
        raise fault

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    with caplog.at_level(logging.WARNING, "contract.process.workers"):
        assert list(each_of(math.factorial, range(5), workers=2)) == [1, 1, 2, 6, 24]
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("--workers 2: cannot start processes here (")


def test_a_killed_process_is_reported_in_one_line():
    with refused_with("--workers 2", "a process was killed"):
        list(each_of(signal.raise_signal, [signal.SIGKILL], workers=2))
