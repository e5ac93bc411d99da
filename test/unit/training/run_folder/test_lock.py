"""Two processes on one run: one works, the other leaves or waits."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from paths import PROJECT
from refusals import refused_with

from contract.files.locks import is_locked
from training.make_run import execute
from training.run_folder.folder import RunFolder
from training.run_folder.lock import work_lock


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_the_message_names_the_holder(folder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with (
        work_lock(folder.lock),
        refused_with(expected="no other process at work on this run", found="process") as error,
        work_lock(folder.lock),
    ):
        pass
    place = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, Slurm job 4711, since 20\d\d-"
    assert re.search(place, error.value.found)


def test_a_lock_without_a_name_is_still_a_lock(folder):
    with work_lock(folder.lock):
        folder.lock.write_text("")  # its holder has not come to writing its name
        with refused_with(expected="at work on this run", found="^one$"), work_lock(folder.lock):
            pass


def test_a_lock_is_free_again_after_its_holder_was_killed(folder):
    command = "import sys, time; from pathlib import Path\n"
    command += "from training.run_folder.lock import work_lock; from training.run_folder.folder import RunFolder\n"
    command += "with work_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", command, str(folder.lock)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with refused_with(found=f"process {holder.pid} on"), work_lock(folder.lock):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with work_lock(folder.lock):
        assert json.loads(folder.lock.read_text())["pid"] == os.getpid()


def test_without_flock_a_run_is_made_and_its_holder_named(planned, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    run, folder = planned(), RunFolder(tmp_path / "run")
    seen = []

    def on_epoch(_):
        with refused_with(found=f"process {os.getpid()} on {re.escape(socket.gethostname())}, since"):
            execute(run, folder.path, device="cpu")
        seen.append(is_locked(folder.lock))

    assert execute(run, folder.path, device="cpu", on_epoch=on_epoch).state == "finished"
    assert seen == [True] * run.profile.epochs
    assert not is_locked(folder.lock)
    assert execute(run, folder.path, device="cpu").state == "finished"


def test_a_run_whose_lease_is_taken_stops_before_it_writes(planned, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    folder = RunFolder(tmp_path / "run")
    records = []

    def on_iteration(done):
        if done == 3:  # in the second epoch
            (lease,) = folder.path.glob(".lock.lease-*")
            lease.with_name(".lock.lease-9").write_text("{}")  # by another process, after this one was suspended
            records.append(folder.record.read_bytes())

    with refused_with(r"\.lock$", "lease lost"):
        execute(planned(), folder.path, device="cpu", on_iteration=on_iteration)
    assert [folder.record.read_bytes()] == records
    assert is_locked(folder.lock)


def test_of_two_processes_one_trains_and_the_others_leave_or_wait(prepared_folder, profile, tmp_path):
    options = {"prepared": prepared_folder, "configuration": "ce", "fold": 0, "restart": 1, "profile": profile}
    options |= {"output": tmp_path / "run", "device": "cpu"}
    command = [sys.executable, "-m", "training", "run"]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    lock = RunFolder(tmp_path / "run").lock
    with_pipes = {"cwd": PROJECT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, **with_pipes)
    while not (lock.is_file() and lock.read_text()):
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # so that it cannot finish before the others look
    try:
        leaving = subprocess.run(command, **with_pipes, check=False)
        waiting = subprocess.Popen([*command, "--wait"], **with_pipes)
        assert waiting.stdout.readline().startswith("device: cpu")
        assert f": waiting for process {first.pid} on" in waiting.stdout.readline()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert (leaving.returncode, leaving.stderr.count("\n")) == (3, 1)
    assert f"expected no other process at work on this run, found process {first.pid} on" in leaving.stderr
    assert first.communicate()[1] == ""
    said, complaint = waiting.communicate()
    assert (first.returncode, waiting.returncode, complaint) == (0, 0, "")
    assert "finished already, nothing to do" in said
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("Current learning rate") == 3  # each of the three epochs was trained once
