"""Several processes: order, what they log, how they end. That results are the same is tested with each command."""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from paths import PROJECT
from pieces_of_work import speak, threads_of
from refusals import refused_with

from contract.process.workers import THREADS, Workers, each_of, shared_threads


def test_what_processes_log_is_told_once_and_in_order(caplog):
    logging.captureWarnings(True)
    try:
        with caplog.at_level(logging.INFO), Workers(2) as workers, pytest.raises(ValueError, match="3 is wrong"):
            list(workers.each(speak, range(4), at_once=1))
    finally:
        logging.captureWarnings(False)
    told = [(each.name, each.levelno, each.getMessage()) for each in caplog.records]
    own = [each for each in told if each[0] == "contract.somebody"]
    expected = [
        [(logging.INFO, f"{number} is told"), (logging.WARNING, f"{number} is doubtful")] for number in range(4)
    ]
    assert own == [("contract.somebody", *each) for pair in expected for each in pair]
    assert sum("numbers may be large" in message for _, _, message in told) == 1


def test_a_level_that_is_not_shown_here_is_not_shown_from_elsewhere(caplog):
    with caplog.at_level(logging.WARNING), Workers(2) as workers:
        assert list(workers.each(speak, range(2), at_once=2)) == [0, 1]
    assert "0 is doubtful" in caplog.text
    assert "is told" not in caplog.text


def test_processes_share_the_cores_unless_the_user_says_how(monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    cores = len(os.sched_getaffinity(0))
    assert set(shared_threads(2).values()) == {str(max(1, cores // 2))}
    assert set(shared_threads(1000).values()) == {"1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert shared_threads(2)["OMP_NUM_THREADS"] == "7"
    with Workers(2, dict.fromkeys(THREADS, "5")) as workers:
        assert list(workers.each(threads_of, range(2))) == [{"5"}] * 2
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert THREADS[1] not in os.environ


def test_after_a_killed_process_the_others_work_is_over():
    with Workers(2) as workers, refused_with("--workers 2", "a process was killed"):
        list(workers.each(signal.raise_signal, [signal.SIGKILL] * 3))


PROGRAM = """
import sys, time
from contract.process.command import run_command
from contract.process.workers import Workers

def work(_):
    with Workers(2) as workers:
        for _ in workers.each(time.sleep, [0.01, 60, 60, 60]):
            print("works", flush=True)

if __name__ == "__main__":
    sys.exit(run_command(lambda: None, work, log=lambda: None))
"""


def processes_of(group: int) -> list[str]:
    """Those of a process group that have not ended."""
    stats = [path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [text.rpartition(")")[2].split() for text in stats]
    return [each[0] for each in fields if each[2] == str(group) and each[0] != "Z"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_all_processes_end_with_the_one_that_asked(tmp_path, number, code):
    """Ctrl-C goes to the whole group, as a terminal sends it; SIGKILL to the first alone, as the system does."""
    (tmp_path / "program.py").write_text(PROGRAM)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    program = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        **streams,
    )
    assert program.stdout.readline() == "works\n"
    (os.killpg if number == signal.SIGINT else os.kill)(program.pid, number)
    _, stderr = program.communicate(timeout=60)
    assert program.returncode == code
    assert number == signal.SIGKILL or stderr == "error: stopped by Ctrl-C\n"
    until = time.monotonic() + 30
    while processes_of(program.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_of(program.pid) == []


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
