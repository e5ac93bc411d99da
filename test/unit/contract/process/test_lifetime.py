"""Programs that begin and end as the commands do, each in a process of its own."""

import gc
import sys

import pytest
from programs import python, run

from contract.process.command import run_command
from contract.process.lifetime import begin_imports, end_imports

LEAVES = """
import atexit, logging, multiprocessing, sys, tempfile, threading, time, weakref
from pathlib import Path
from contract.process.lifetime import begin_imports, leave
if __name__ == "__main__":
    begin_imports()
from contract.process.command import run_command
folder = Path(sys.argv[1])

class Torn:
    def __del__(self):  # when modules are taken apart
        print("taken apart")

kept = Torn()

def work(options):
    atexit.register(lambda: print("registered"))
    logging.basicConfig(handlers=[logging.handlers.MemoryHandler(100, target=logging.FileHandler(folder / "log"))])
    logging.warning("buffered")
    global left
    left = tempfile.TemporaryDirectory(dir=folder)
    def late():
        time.sleep(0.3)
        (folder / "late").touch()
    if "process" in sys.argv:
        multiprocessing.get_context("fork").Process(target=late).start()
    if "thread" in sys.argv:
        threading.Thread(target=late).start()
    if "daemon" in sys.argv:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print("no end of line", end="")
    print("nor here", end="", file=sys.stderr)
    if "wrong" in sys.argv:
        from contract.errors import OncoduetError
        raise OncoduetError("it", "is wrong")

import logging.handlers
leave(run_command(lambda: None, work, log=lambda: None))
"""


@pytest.mark.parametrize(
    ("words", "code", "waited_for"),
    [([], 0, False), (["wrong"], 3, False), (["process"], 0, True), (["thread"], 0, True), (["daemon"], 0, False)],
)
def test_nothing_is_lost_by_leaving_but_what_takes_modules_apart(tmp_path, words, code, waited_for):
    ended = python("-c", LEAVES, tmp_path, *words)
    assert ended.returncode == code
    assert ended.stdout.startswith("no end of lineregistered\n")
    assert "thread" in words or "taken apart" not in ended.stdout
    assert ended.stderr == "nor here" + ("error: it: is wrong\n" if code else "")
    assert (tmp_path / "log").read_text() == "buffered\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == (["late", "log"] if waited_for else ["log"])


def test_output_that_cannot_be_written_is_no_success(tmp_path):
    ended = run("sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, "-c", LEAVES, tmp_path)
    assert ended.returncode == 3
    assert "error: standard output: no space left on device\n" in ended.stderr


def test_garbage_is_collected_again_when_the_work_begins(monkeypatch):
    monkeypatch.setattr("contract.process.lifetime.heed_signals", lambda: None)
    try:
        begin_imports()
        assert not gc.isenabled()
        seen = []

        def work(_):
            seen.append((gc.isenabled(), gc.get_freeze_count()))

        assert run_command(lambda: None, work, log=lambda: None) == 0
        assert seen[0][0]
        assert seen[0][1] > 10_000
        gc.unfreeze()
        end_imports()
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
        gc.enable()
