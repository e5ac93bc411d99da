"""Every command killed at any of its steps on the disk, then given again: it does its work, and leaves no partial file.

``--kills N`` says at how many steps each command is killed, half as many as other programs; 0 at every one.
"""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
from demo_files import run
from programs import fork
from safety.test_nothing_is_lost import ROWS, Row

_REFUSED = {("phantom", "sheet"), ("training", "predict"), ("training", "status"), ("evaluation", "")}
"""Commands that cannot do their work on the demo's files."""
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def call(row: Row, demo: Path, output: Path, *, killed_at: int = 0) -> int | None:
    """The exit code of the command in its own process, which perhaps is killed just before a change of the output."""

    def work() -> None:
        steps = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal steps
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
            if (writes or event in _CHANGES) and any(str(each).startswith(str(output)) for each in arguments):
                steps += 1
                if steps == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        status = run(*row.words(demo), row.option, output)
        (output.parent / "steps").write_text(f"{steps}")
        sys.exit(status)

    process = fork(work)
    process.join()
    return process.exitcode


def found(output: Path) -> set[str]:
    return {path.relative_to(output.parent).as_posix() for path in output.parent.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({*ROWS} - _REFUSED), ids=" ".join)
def test_killed_command_does_its_work_when_it_is_given_again(demo, tmp_path, request, command):
    row, output = ROWS[command], tmp_path / "place" / f"output{ROWS[command].suffix}"
    output.parent.mkdir()
    assert call(row, demo, output) == 0
    steps, expected = int((output.parent / "steps").read_text()), found(output)
    assert steps > 0
    kills = request.config.getoption("--kills")
    for moment in random.sample(range(1, steps + 1), min(steps, kills // 2 if kills else steps)):
        shutil.rmtree(output.parent)
        output.parent.mkdir()
        assert call(row, demo, output, killed_at=moment) == -signal.SIGKILL
        assert (call(row, demo, output), found(output)) == (0, expected), f"killed at step {moment} of {steps}"
