"""Programs that tests start, each in a process of its own."""

import http.client
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from paths import MOUNT, PROJECT

Ended = subprocess.CompletedProcess[str]


def run(*words: object, env: dict[str, str] | None = None) -> Ended:
    """Run a program in the project's folder and keep what it says on both streams."""
    command = [str(word) for word in words]
    ended = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=500, check=False)
    if ended.returncode == 1:  # a traceback, for whoever looks why the test fails
        print(ended.stderr, file=sys.stderr)
    return ended


def python(*words: object, **variables: str) -> Ended:
    """Run Python, with more variables in its environment."""
    return run(sys.executable, *words, env=os.environ | variables)


def fork(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    """Begin work in a process that need not import anything: its whole life is the work's."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def run_on_small_disk(namespace: list[str], size: str, folder: Path, *words: object) -> tuple[Ended, Path]:
    """Run Python with ``--output`` on a file system of this size; also where a copy is of what it then holds."""
    disk, copy = folder / "disk", folder / "copy"
    disk.mkdir()
    script = f'{MOUNT} || exit 99; disk=$2 copy=$3; shift 3; "$@"; code=$?; cp -a "$disk" "$copy"; exit $code'
    shell = [*namespace, "sh", "-c", script, "sh", size, disk, copy]
    return run(*shell, sys.executable, *words, "--output", disk / "output"), copy


def ask(port: int, method: str, path: str) -> int:
    """The HTTP status with which a server of this machine answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


def wait_until(condition: Callable[[], object]) -> None:
    """Ask again and again for two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_at_work(pid: int) -> bool:
    """A process that was ended may stay in the table until its adoptive parent asks for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
