"""Ctrl-C and SIGTERM end a command with one line, at every moment of its life."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from paths import PROJECT
from programs import python

ENDS = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")]

PROGRAM = """
from contract.process.signals import heed_signals
if __name__ == "__main__":
    heed_signals()
import sys, time
from pathlib import Path
from contract.process.command import run_command
from contract.files.atomic import held_folder
print("imports", flush=True)
if "imports" in sys.argv:
    time.sleep(60)

def work(folder):
    with held_folder(folder) as stage:
        (stage / "half").write_text("half")
        print("work", flush=True)
        time.sleep(60)

sys.exit(run_command(lambda: Path(sys.argv[1]), work, log=lambda: None))
"""


def begin(*words: object, ignored: Sequence[int] = (), cwd: Path = PROJECT, **options) -> subprocess.Popen[str]:
    def dispositions() -> None:
        for number, _, _ in ENDS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return subprocess.Popen(
        list(map(str, words)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=dispositions,  # noqa: PLW1509 - no thread runs here
        start_new_session=True,
        **options,
    )


def end(process: subprocess.Popen[str], *numbers: int) -> tuple[int, str]:
    for number in numbers:
        os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (said := process.stdout.readline()) != f"{line}\n":
        assert said, process.stderr.read()


@pytest.mark.parametrize(("number", "code", "word"), ENDS)
@pytest.mark.parametrize("moment", ["imports", "work"])
def test_a_signal_ends_a_command_with_one_line_and_no_partial_file(tmp_path, number, code, word, moment):
    process = begin(sys.executable, "-c", PROGRAM, tmp_path, moment)
    until(process, moment)
    status, err = end(process, number)
    assert (status, err.count("\n")) == (code, 1)
    assert err.startswith(f"error: stopped by {word}")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_comes_twice_at_once_does_not_disturb_the_tidying(tmp_path):
    process = begin(sys.executable, "-c", PROGRAM, tmp_path)
    until(process, "work")
    assert end(process, signal.SIGINT, signal.SIGINT, signal.SIGTERM) in [
        (130, "error: stopped by Ctrl-C\n"),
        (143, "error: stopped by SIGTERM\n"),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_shell_had_ignored_in_the_background_stays_ignored(tmp_path, number):
    process = begin(sys.executable, "-c", PROGRAM, tmp_path, ignored=[number])
    until(process, "work")
    os.killpg(process.pid, number)
    time.sleep(0.5)
    assert process.poll() is None
    assert end(process, signal.SIGTERM) == (143, "error: stopped by SIGTERM\n")


@pytest.mark.parametrize("moment", ["imports", "work"])
def test_as_the_first_process_of_a_container_it_ends_on_sigterm(tmp_path, moment):
    """The kernel drops signals without handler for PID 1; without the right to make one this shows nothing."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        unshare = ["unshare", "--pid", "--fork"]
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
            handled = "import signal; from contract.process.signals import heed_signals; heed_signals()\n"
            handled += "print(all(callable(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP)))"
            assert python("-c", handled).stdout == "True\n"
            return
    process = begin(*unshare, sys.executable, "-c", PROGRAM, tmp_path, moment)
    until(process, moment)
    first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    begun = time.monotonic()
    os.kill(int(first), signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "error: stopped by SIGTERM\n")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("package", ["training", "algorithm", "evaluation", "phantom", "conformance"])
def test_each_package_s_program_heeds_signals_from_its_first_line(package):
    """Whatever it imports comes after; there the signal would be a traceback, and to PID 1 nothing."""
    folder = PROJECT / package
    lines = [line for line in (folder / "__main__.py").read_text().split('"""')[2].splitlines() if line.strip()]
    assert lines[0] == "from contract.process.lifetime import begin_imports, leave"
    lines = [line for line in lines if not line.startswith("from contract.process.signals import ")]
    assert lines[1] == 'if __name__ == "__main__":'
    assert lines[2].strip().startswith("begin_imports()")
    assert (folder / "__main__.py").read_text().endswith("\n    leave(main())\n")


def test_ctrl_c_ends_the_processes_of_a_comparison_too():
    words = ["evaluation", "plan", "--simulate", "--studies", "20000", "--workers", "2"]
    process = begin(sys.executable, "-m", *words)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    begun = time.monotonic()
    while len(children.read_text().split()) < 3:  # two, and multiprocessing's own
        assert process.poll() is None and time.monotonic() - begun < 60
        time.sleep(0.1)
    assert end(process, signal.SIGINT) == (130, "error: stopped by Ctrl-C\n")
    deadline = time.monotonic() + 10
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("code", ["print('x' * 100_000)", "import time; time.sleep(0.3); print('x')"])
def test_a_reader_that_left_ends_a_command_in_silence(code):
    program = "from contract.process.command import run_command; import sys\n" + f"def work(_):\n {code}\n"
    program += "sys.exit(run_command(lambda: 0, work, log=lambda: None))"
    process = begin(sys.executable, "-c", program)
    process.stdout.close()
    assert (process.wait(timeout=30), process.stderr.read()) == (141, "")


def test_a_full_disk_below_stdout_is_one_line():
    program = "from contract.process.command import run_command; import sys\n"
    program += "sys.exit(run_command(lambda: 0, lambda _: print('x'), log=lambda: None))"
    with Path("/dev/full").open("w") as full:
        asked = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, stdout=full, stderr=-1, check=False)
    assert (asked.returncode, asked.stderr) == (3, b"error: standard output: no space left on device\n")
