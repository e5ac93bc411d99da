"""CPU seconds, wall seconds and peak memory of a program, and the benchmarks' report of two programs.

A benchmark ``test/benchmark/NAME.py`` runs us and the peer one after the other on the same input, each as a child
process, and ends with ``report``: a table, then one line of JSON. Conventions:

* CPU seconds are user plus system time of the child and of all descendants that it waited for. They are what a ratio
  should be quoted in: wall seconds depend on who else uses the machine.
* Peak memory is the largest resident set of any single process among them, in MB (10^6 bytes).
* A ratio is the peer's cost over ours: above 1 we are cheaper.

A child is started by a small launcher process, because Linux counts what the forking process held towards the peak of
its child: a benchmark that has arrays in memory may measure all the same.

Importing this module puts the project's root in front of the benchmarks' own folder, so that a benchmark named
``evaluation.py`` can import the package ``evaluation``; the tests' helpers come last.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(PROJECT), *(each for each in sys.path if each != str(PROJECT)), str(PROJECT / "test")]

from contract.errors import OncoduetError, exit_status  # noqa: E402

US = "oncoduet"
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_REVISION = {"ONCODUET_REVISION": "benchmark"}
"""Revision that our programs write into their files: an edit of a source meanwhile makes no difference."""
_LAUNCHER = """
import json, os, sys, time
begin = time.perf_counter()
child = os.fork()
if child == 0:
    os.dup2(2, 1)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        os.write(2, f"{sys.argv[1]}: {error.strerror}".encode())
        os._exit(127)
_, status, usage = os.wait4(child, 0)
wall_s = time.perf_counter() - begin
cpu_s = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), cpu_s, wall_s, usage.ru_maxrss * 1024 / 1e6]))
"""


@dataclass(frozen=True)
class Measured:
    """Cost of one program or of one part of it."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def run(
    command: Sequence[str | Path],
    *,
    limit_s: float = 3600,
    threads: int = 1,
    environment: Mapping[str, str] | None = None,
    folder: Path = PROJECT,
) -> Measured:
    """Run a program to its end and measure it.

    Parameters
    ----------
    command
        Program and arguments. What it prints is discarded, unless it fails.
    limit_s
        Wall seconds after which it is killed, with its process group.
    threads
        Threads that numerical libraries may use (``environment`` may say otherwise).
    environment
        Variables beside those of this process.
    folder
        Working directory; the project's root, so that ``[sys.executable, "-m", "evaluation", ...]`` works.

    Raises
    ------
    OncoduetError
        The program cannot be started, does not end in time, or its exit status is not 0.
    """
    words = [str(word) for word in command]
    settings = os.environ | dict.fromkeys(_THREADS, str(threads)) | _REVISION | dict(environment or {})
    with tempfile.TemporaryFile() as printed:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=printed,
            cwd=folder,
            env=settings,
            start_new_session=True,
        )
        try:
            answer, _ = launcher.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise OncoduetError(" ".join(words), f"not ended after {limit_s:g} s") from None
        finally:
            if launcher.poll() is None:  # out of time, or interrupted
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.communicate()
        status, cpu_s, wall_s, peak_mb = json.loads(answer)
        if status != 0:
            printed.seek(0)
            last = printed.read().decode(errors="replace").strip()[-2000:]
            raise OncoduetError(" ".join(words), expected="exit status 0", found=f"{status}: {last}")
    return Measured(cpu_s, wall_s, peak_mb)


@dataclass
class Clock:
    """What passed within ``clocked``; set when that ends."""

    cpu_s: float = field(default=float("nan"))
    wall_s: float = field(default=float("nan"))


@contextmanager
def clocked() -> Iterator[Clock]:
    """Measure a part of this process, for instance without its imports: CPU seconds (children included), wall seconds.

    For memory there is no such thing as a part: take the peak of the process, ``peak_mb``.
    """
    clock = Clock()
    begin_cpu, begin_wall = _cpu_s(), time.perf_counter()
    yield clock
    clock.cpu_s, clock.wall_s = _cpu_s() - begin_cpu, time.perf_counter() - begin_wall


def peak_mb() -> float:
    """Largest resident set that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def total(parts: Sequence[Measured]) -> Measured:
    """Cost of parts that ran one after the other."""
    return Measured(
        sum(each.cpu_s for each in parts), sum(each.wall_s for each in parts), max(each.peak_mb for each in parts)
    )


def machine(*packages: str, threads: int = 1) -> dict[str, Any]:
    """Conditions that hold for any benchmark: processor, cores, threads, and the versions of Python and of packages.

    Raises
    ------
    OncoduetError
        A package is not installed.
    """
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def report(
    benchmark: str,
    *,
    ours: Measured,
    peer: Measured,
    peer_name: str,
    identical: bool,
    conditions: Mapping[str, Any],
    details: Sequence[tuple[str, Measured, Measured]] = (),
) -> None:
    """Print the table and, as the last line, the JSON.

    Parameters
    ----------
    benchmark
        Its name, that of the file.
    identical
        Whether both gave the same results. False makes the benchmark fail after it has reported: a cheaper answer
        that differs is no gain.
    conditions
        Sizes, settings, and ``machine``.
    details
        Parts or variants as (what, ours, peer): rows of the table alone.

    Raises
    ------
    OncoduetError
        The results are not identical.
    """
    rows = [(f"{what}: {who}", *pair) for what, *both in details for who, *pair in _beside(peer_name, *both)]
    rows += [(who, *pair) for who, *pair in _beside(peer_name, ours, peer)]
    width = max(len(row[0]) for row in rows)
    print(f"{'':{width}}  {'CPU s':>10}  {'wall s':>10}  {'peak MB':>8}  {'CPU ratio':>9}")
    for who, measured, ratio in rows:
        cells = f"{measured.cpu_s:10.3f}  {measured.wall_s:10.3f}  {measured.peak_mb:8.0f}  {ratio:>9}"
        print(f"{who:{width}}  {cells}")
    line = {
        "benchmark": benchmark,
        "ratio_cpu": round(_ratio(peer.cpu_s, ours.cpu_s), 2),
        "ratio_wall": round(_ratio(peer.wall_s, ours.wall_s), 2),
        "identical": identical,
        "peak_mb": round(ours.peak_mb, 1),
        "conditions": dict(conditions),
    }
    print(json.dumps(line, allow_nan=False), flush=True)
    if not identical:
        raise OncoduetError(f"benchmark {benchmark}", f"{US} and {peer_name} give different results")


def main(benchmark: Callable[[argparse.Namespace], None], *, parser: argparse.ArgumentParser) -> int:
    """Run a benchmark's command line, with ``--quick`` added, and return its exit code."""
    parser.add_argument("--quick", action="store_true", help="end within a minute; its figures are not for quoting")
    options = parser.parse_args()
    return exit_status(lambda: benchmark(options))


def _beside(peer_name: str, ours: Measured, peer: Measured) -> list[tuple[str, Measured, str]]:
    """Our row and the peer's; the ratio stands with the peer."""
    return [(US, ours, ""), (peer_name, peer, f"{_ratio(peer.cpu_s, ours.cpu_s):.1f}x")]


def _ratio(peer: float, ours: float) -> float:
    return peer / max(ours, 1e-9)  # a clock may see nothing of a tiny part


def _cpu_s() -> float:
    """CPU seconds of this process and of the children that it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise OncoduetError(package, "not installed; requirements/dev.lock has it") from None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
