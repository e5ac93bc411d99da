"""Exit codes, and the one line that a user sees."""

import errno

import pytest

from contract.errors import OncoduetError, UsageError, exit_status, one_line


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return exit_status(command)


def test_a_command_that_ends_well_exits_with_zero_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_wrong_input_exits_with_three_and_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(OncoduetError("a.mha: expected an image,\n   found:\tno file")) == 3
    assert capsys.readouterr() == ("", "error: a.mha: expected an image, found: no file\n")


def test_a_file_that_this_user_may_not_read_exits_with_three(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(PermissionError(13, "Permission denied", "/input/a.mha")) == 3
    assert capsys.readouterr() == (
        "",
        "error: /input/a.mha: expected to be allowed to use it, found: Permission denied\n",
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_exits_with_three(capsys: pytest.CaptureFixture[str], number: int) -> None:
    assert raising(OSError(number, "No space", "/output/a.mha")) == 3
    assert raising(OSError(number, "No space")) == 3
    assert capsys.readouterr().err.splitlines() == [
        "error: /output/a.mha: expected space on the disk, found none",
        "error: a file: expected space on the disk, found none",
    ]


def test_another_fault_of_the_system_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(OSError(errno.EIO, "Input/output error", "/output/a.mha")) == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


def test_wrong_usage_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(UsageError("no profile 'long'")) == 2
    assert capsys.readouterr().err == "error: no profile 'long'\n"


def test_a_bug_exits_with_one_and_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyError("lesion")) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("KeyError: 'lesion'\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)])
def test_an_interruption_and_argparse_s_exit_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        raising(error)


def test_any_text_becomes_one_line() -> None:
    assert one_line(" two\n\nlines\t and\r\nmore ") == "two lines and more"
