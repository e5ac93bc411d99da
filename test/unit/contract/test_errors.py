"""Exit codes, and the one line that a user sees."""

import errno

import numpy as np
import pytest

from contract.errors import OncoduetError, UsageError, exit_status


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return exit_status(command)


def test_successful_command_exits_with_0_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OncoduetError("a.mha", expected="1 image", found="2 images"), "a.mha: expected 1 image, found 2 images"),
        (OncoduetError("a.mha", "image not found"), "a.mha: image not found"),
        (OncoduetError("a.mha", "2 images", expected="1"), "a.mha: 2 images, expected 1"),
        (OncoduetError("a.mha:\n   no\timage"), "a.mha: no image"),
    ],
)
def test_wrong_input_exits_with_three_and_one_line_on_stderr(error, line, capsys) -> None:
    assert raising(error) == 3
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_an_error_keeps_what_it_was_made_of() -> None:
    error = OncoduetError(3, "b", expected=1, found=2.5)
    assert (error.where, error.problem, error.expected, error.found) == ("3", "b", "1", "2.5")


def test_a_moved_error_names_the_new_path_in_every_field() -> None:
    moved = UsageError("/old/a.mha", "in /old", expected="/old/b.mha", found="/old").moved("/old", "/new")
    assert type(moved) is UsageError
    assert (moved.where, moved.problem, moved.expected, moved.found) == ("/new/a.mha", "in /new", "/new/b.mha", "/new")
    assert str(moved) == "/new/a.mha: in /new, expected /new/b.mha, found /new"
    assert OncoduetError("a.mha").moved("/old", "/new").problem is None


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.ENOENT, "file not found"),
        (errno.EACCES, "permission denied"),
        (errno.ENOSPC, "no space left on device"),
        (errno.EDQUOT, "disk quota exceeded"),
        (errno.EROFS, "read-only file system"),
        (errno.ENOTDIR, "not a directory"),
        (errno.EISDIR, "is a directory"),
        (errno.ENAMETOOLONG, "file name is too long"),
        (errno.ELOOP, "too many levels of symbolic links"),
        (errno.EIO, "input/output error of the device"),
        (errno.ENOSYS, "not supported by this file system"),
        (errno.EINVAL, "invalid argument"),
    ],
)
def test_system_errors_about_a_file_are_one_line_with_its_name(number, problem, capsys) -> None:
    assert raising(OSError(number, "ignored", b"/output/a\xff\nerror: b.mha")) == 3
    assert capsys.readouterr() == ("", f"error: /output/a\\udcff error: b.mha: {problem}\n")


@pytest.mark.parametrize(
    ("number", "problem"), [(errno.EMFILE, "too many open files"), (errno.ENOSPC, "no space left on device")]
)
def test_a_fault_of_the_machine_that_names_no_file_is_one_line_too(number, problem, capsys) -> None:
    assert raising(OSError(number, "ignored")) == 3
    assert capsys.readouterr().err == f"error: a file: {problem}\n"


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), OSError("of no number")])
def test_a_fault_of_our_own_use_of_the_system_is_a_bug(capsys, error: OSError) -> None:
    assert raising(error) == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


def test_names_and_texts_in_another_encoding_are_wrong_input(capsys) -> None:
    assert exit_status("Bj\udcf6rn.mha".encode) == 3
    assert exit_status(b"Bj\xf6rn".decode) == 3
    assert capsys.readouterr().err.splitlines() == [
        r"error: 'Bj\udcf6rn.mha': name is not valid UTF-8",
        r"error: text is not valid utf-8: b'\xf6rn' after 2 bytes",
    ]


def test_links_that_lead_in_a_circle_are_one_line(tmp_path, capsys) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert exit_status((tmp_path / "loop").resolve) == 3
    assert capsys.readouterr().err == f"error: '{tmp_path}/loop': too many levels of symbolic links\n"


def test_memory_that_is_not_there_is_one_line(capsys) -> None:
    assert exit_status(lambda: np.zeros((2**40, 2**10), np.float64)) == 3
    assert capsys.readouterr().err.startswith("error: not enough memory (Unable to allocate")


def test_a_bug_s_traceback_obeys_no_escape_sequence(capsys) -> None:
    assert raising(KeyError("\x1b[31m")) == 1
    assert raising(RuntimeError("\x1b]0;title\x07")) == 1
    assert "\x1b" not in capsys.readouterr().err


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
