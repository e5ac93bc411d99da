"""What reaches a terminal, a log or a table of foreign names: their text, never what it would make a terminal do."""

import ast
import contextlib
import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import PROJECT
from refusals import refused_with
from rich.console import Group
from rich.table import Table
from rich.text import Text

from contract.files.locks import try_lock
from contract.names import cell, require_case_id
from contract.process.terminal import clean_streams, console, log_to_stdout, progress_on, said
from contract.text import printable

HOSTILE = "[old] [/b] a\x1b[31m\r\nerror: forged\u202e\x9b2J\ud800:smile:"
SHOWN = r"[old] [/b] a\x1b[31m\r\nerror: forged\u202e\x9b2J\ud800:smile:"


def _printed(renderable: object, capsys: pytest.CaptureFixture[str]) -> str:
    console().print(renderable, soft_wrap=True)
    return capsys.readouterr().out


def _table(content: object) -> Table:
    table = Table(title="runs", box=None)
    table.add_column("run", no_wrap=True)
    table.add_row(content)
    return table


@pytest.mark.parametrize("made", [str, _table, lambda text: Group(Text("ours"), text)], ids=["text", "cell", "group"])
def test_a_name_is_shown_as_it_is_and_nothing_in_it_is_obeyed(made, capsys) -> None:
    lines = _printed(made(HOSTILE), capsys).splitlines()
    assert SHOWN in [line.strip() for line in lines]
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("error") for line in lines)


@pytest.mark.parametrize("made", [Text, lambda text: _table(Text(text))], ids=["text", "cell"])
def test_nor_in_a_text_of_rich_s_own(made, capsys) -> None:
    lines = _printed(made(HOSTILE), capsys).splitlines()
    assert any(r"[old] [/b] a\x1b[31m" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("error") for line in lines)


def test_what_a_progress_bar_says_is_shown_as_it_is(capsys) -> None:
    with progress_on(console(), said("fields[loss]")) as progress:
        progress.add_task("[old] [/b]", total=1, loss="[red]\x1b[31m")
    shown = capsys.readouterr().out
    assert "[old] [/b]" in shown
    assert "[red]" in shown
    assert "\x1b" not in shown


def test_a_log_message_is_one_printable_line_and_a_traceback_several(capsys) -> None:
    log_to_stdout("%(levelname)s %(message)s")
    logging.getLogger("any").info("study %s", "a\x1b[31m\nerror: forged")
    try:
        raise ValueError("\x1b]0;title\x07")
    except ValueError:
        logging.getLogger("any").exception("failed")
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("INFO study a\\x1b[31m error: forged\nERROR failed\nTraceback (most recent call last):\n")
    assert all(line.isprintable() for line in out.splitlines())


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch, capsys) -> None:
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - its end complains, which is not the subject
    monkeypatch.setattr(sys, "stdout", full)
    log_to_stdout("%(message)s")
    logging.getLogger("any").info("lost")
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full.close()
    assert capsys.readouterr().err == ""  # where logging reports its own errors


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "iso-8859-15", "utf-8", "UTF8", "cp1252"])
def test_any_sign_can_be_said_in_any_locale_and_is_utf8(encoding, monkeypatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    clean_streams()
    print("IoU ≥ 0.1 ± µ é \ud800")
    sys.stdout.flush()
    expected = (
        "IoU ≥ 0.1 ± µ é \\ud800\n" if "utf" in encoding.lower() else "IoU \\u2265 0.1 \\xb1 \\xb5 \\xe9 \\ud800\n"
    )
    assert raw.getvalue().decode("utf-8") == expected


@pytest.mark.parametrize("package", ["training", "algorithm", "evaluation", "phantom", "conformance"])
@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}]
)
def test_help_is_given_in_every_locale(package, locale) -> None:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{PROJECT}", **locale}
    asked = subprocess.run(
        [sys.executable, "-m", package, "--help"], cwd=PROJECT, env=env, capture_output=True, check=False
    )
    assert (asked.returncode, asked.stderr) == (0, b"")
    asked.stdout.decode("utf-8")


def test_a_closed_stdout_is_no_data_file(tmp_path) -> None:
    """The first file that is opened gets its number, and all that is printed."""
    program = "import sys; from pathlib import Path; from contract.process.command import run_command\n"
    program += "def work(path):\n  stream = path.open('w'); print('said', flush=True); stream.write('data')\n"
    program += f"sys.exit(run_command(lambda: Path({str(tmp_path / 'data')!r}), work, log=lambda: None))"
    asked = subprocess.run(["sh", "-c", '"$0" -c "$1" >&-', sys.executable, program], cwd=PROJECT, check=False)
    assert asked.returncode == 0
    assert (tmp_path / "data").read_text() == "data"


def test_every_console_progress_and_log_comes_from_one_place() -> None:
    """Called anywhere else, rich would take names for markup, and logging would pass escape sequences on."""
    makers = {"Console", "Progress", "basicConfig", "StreamHandler", "Formatter", "ArgumentParser"}
    ours = ("contract", "network", "algorithm", "evaluation", "training", "phantom", "conformance")
    found = []
    for folder in ours:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            if path.name == "terminal.py" or "broken" in path.parts or path.name.startswith("test_"):
                continue
            assert "track" not in "".join(re.findall("from rich.progress import .*", path.read_text())), path
            own_progress = "class Progress" in path.read_text()
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name in makers and not (name == "Progress" and own_progress):
                    found.append(f"{path.relative_to(PROJECT)}:{node.lineno}: {name}")
    known = {
        "training/run_folder/logs.py": "StreamHandler",  # the file beside what is made, with our formatter
        "conformance/tryout.py": "ArgumentParser",  # its environment is another and has no rich
    }
    assert [each for each in found if known.get(each.split(":")[0]) not in each.split(": ")] == []


def test_printable_text_stays_and_the_rest_is_escaped() -> None:
    assert printable("Jürgen 肺 $x$ [b]") == "Jürgen 肺 $x$ [b]"
    assert printable("a\tb\nc\x00\x7f\x85\u2028\u2066\ufeff") == r"a\tb\nc\x00\x7f\x85\u2028\u2066\ufeff"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t1", "\r1", " 1", "1 ", "", "a\x1b", "a\nb", "a\udcff"])
def test_what_a_spreadsheet_would_calculate_is_no_name_of_a_case(name) -> None:
    with refused_with("x", expected=r"the name of a case: printable, without = \+ - @"):
        require_case_id(name, Path("x"))


@pytest.mark.parametrize("name", ["predictions.json", "Source.json", "batch.json", "card.toml", "source"])
def test_a_name_of_our_files_is_none_of_a_case(name) -> None:
    with refused_with("x", expected="the name of a case", found=name):
        require_case_id(name, Path("x"))


@pytest.mark.parametrize("name", ["10032_1000032", "Jürgen_1", "a=b", "a-b", "$x$", "[a]", "a b"])
def test_other_names_of_cases_are(name) -> None:
    assert require_case_id(name, Path("x")) == name


def test_titles_are_text_and_numbers_numbers_for_a_spreadsheet() -> None:
    values = ["=HYPERLINK(1)", "+1", "-1", "@x", "ce", "a\x1b\n", -1, -0.5, None]
    shown = ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "ce", r"a\x1b\n", -1, -0.5, None]
    assert [cell(each) for each in values] == shown


@pytest.mark.parametrize("number", [38, 95, 37])  # ENOSYS, EOPNOTSUPP, ENOLCK
def test_a_file_system_without_locks_is_named_in_one_line(number, tmp_path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "whatever")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        (tmp_path / ".lock").open("w") as lock,
        refused_with(r"\.lock", "not supported by this file system|file system without locks"),
    ):
        try_lock(lock)


def test_a_lock_is_had_by_one_at_a_time_unless_it_is_shared(tmp_path) -> None:
    path = tmp_path / ".lock"
    with path.open("w") as first, path.open("r") as second, path.open("r") as third:
        assert try_lock(first)
        assert not try_lock(second, shared=True)
        first.close()
        assert try_lock(second, shared=True)
        assert try_lock(third, shared=True)
