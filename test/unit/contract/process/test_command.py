"""The edge of every command line: what an option's value may be, and streams that cannot be written to."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from paths import PROJECT

from contract.process.command import Parser


def test_a_path_that_is_empty_is_no_path(capsys):
    parser = Parser(prog="command")
    parser.add_subparsers().add_parser("batch").add_argument("--output", type=Path)

    assert parser.parse_args(["batch", "--output", "here"]).output == Path("here")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["batch", "--output", ""])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("argument --output: expected a path, found an empty text\n")


PROGRAM = """
import logging, os, signal, sys
from contract.errors import OncoduetError
from contract.process.command import Parser, run_command
from contract.process.terminal import console, log_to_stdout

def work(options):
    logging.warning("a line of the log")
    match options.what:
        case "result":
            console().print("a result")
        case "wrong":
            raise OncoduetError("a.mha: not found")
        case "bug":
            raise KeyError("adc")
        case "signal":
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        case "gone":
            os.mkdir("here")
            os.chdir("here")
            os.rmdir("../here")
            os.getcwd()

parser = Parser()
parser.add_argument("what")
sys.exit(run_command(parser.parse_args, work, log=lambda: log_to_stdout("%(message)s")))
"""


def ended(what, *, cwd, full="", unbuffered=""):
    """Exit code, and what the two streams said, of which one may lead to a full disk."""
    script = "".join(f"exec {number}>/dev/full; " for number in full) + 'exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-c", textwrap.dedent(PROGRAM), what]
    environment = {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout, run.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("what", ["result", "log"])
def test_stdout_on_a_full_disk_is_named_and_ends_a_command_with_3(tmp_path, what, unbuffered):
    error = "error: standard output: no space left on device\n"
    assert ended(what, cwd=tmp_path, full="1", unbuffered=unbuffered) == (3, "", error)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("result", 0, "a line of the log\na result\n"),
        ("wrong", 3, "a line of the log\nerror: a.mha: not found\n"),
        ("signal", 143, "a line of the log\nerror: stopped by SIGTERM\n"),
    ],
)
def test_a_last_line_that_stderr_cannot_hold_goes_to_stdout(tmp_path, what, code, said, unbuffered):
    assert ended(what, cwd=tmp_path, full="2", unbuffered=unbuffered) == (code, said, "")


@pytest.mark.parametrize(("what", "code"), [("result", 3), ("wrong", 3), ("bug", 1), ("signal", 143), ("log", 3)])
def test_exit_codes_are_the_same_without_a_writable_stream(tmp_path, what, code):
    assert ended(what, cwd=tmp_path, full="12") == (code, "", "")


def test_a_current_folder_that_is_gone_is_named(tmp_path):
    assert ended("gone", cwd=tmp_path)[::2] == (3, "error: the current folder: file not found\n")
