"""nnDetection's programs: found on PATH, run one after the other, with all that they say in a log.

A program may work for days. It is a process group of its own, which ends with the step that waits for it; and because a
killed process cannot end anything, each program inherits a lock by which the next start notices it and ends it.
"""

import fcntl
import logging
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from contract.errors import OncoduetError, one_line
from training.nndetection.layout import Layout
from training.turns import Steps

TRAINING = ("nndet_prep", "nndet_unpack", "nndet_train", "nndet_sweep", "nndet_consolidate")
PREDICTION = ("nndet_predict",)

LOADERS = 12
"""Processes by which nnDetection makes batches, where the machine has that many processors; its own number."""
LOADERS_VARIABLE = "det_num_threads"

_POLL_S = 0.05
_PATIENCE_S = 10.0
_HOME = Path(__file__).resolve().parents[2]

logger = logging.getLogger(__name__)


def find_programs(names: Sequence[str]) -> dict[str, Path]:
    """Where nnDetection's programs are.

    Raises
    ------
    OncoduetError
        One is not on PATH.
    """
    found = {name: shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise OncoduetError(
            f"{missing[0]}: expected nnDetection's program on PATH, found none; "
            "docs/nndetection.md says how to install nnDetection"
        )
    return {name: Path(str(path)).absolute() for name, path in found.items()}


def loaders() -> int:
    """How many processes nnDetection may use: as its own variable says, else by the machine.

    Raises
    ------
    OncoduetError
        The variable says no number above 0.
    """
    wanted = os.environ.get(LOADERS_VARIABLE, str(min(LOADERS, os.cpu_count() or 1)))
    if not wanted.isdecimal() or not int(wanted):
        raise OncoduetError(f"{LOADERS_VARIABLE}: expected a number of processes above 0, found {wanted!r}")
    return int(wanted)


@dataclass(frozen=True)
class Programs:
    """nnDetection's programs at work on one layout."""

    paths: Mapping[str, Path]
    layout: Layout
    log: Path
    """What they say is appended here."""
    lock: IO[str]
    """Inherited by each of them; see :func:`no_leftovers`."""

    def run(self, name: str, *words: str) -> Steps[float]:
        """Run one program to its end; yields while it works, and ends it when closed.

        Returns
        -------
        float
            CPU seconds that it took.

        Raises
        ------
        OncoduetError
            It failed; with the last line of what it said on stderr.
        """
        command = [str(self.paths[name]), *words]
        logger.info("%s", shlex.join(command))
        before_s = _children_cpu_s()
        with self.log.open("ab", buffering=0) as log:
            process = subprocess.Popen(
                command,
                cwd=self.layout.root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[self.lock.fileno()],
            )
            _note_group(self.lock, process.pid)
            errors = _Errors(process, log)
            try:
                while process.poll() is None:
                    yield
                    time.sleep(_POLL_S)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                errors.close()
        if process.returncode:
            ended = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            said = f": {errors.last}" if errors.last else ""
            raise OncoduetError(f"{name}: expected nnDetection's program to succeed, found {ended}{said} ({self.log})")
        return _children_cpu_s() - before_s

    def _environment(self) -> dict[str, str]:
        """What nnDetection demands; our packages are hidden from its Python, which is another."""
        inherited = dict(os.environ)
        others = [each for each in inherited.pop("PYTHONPATH", "").split(os.pathsep) if each]
        kept = [each for each in others if Path(each).resolve() != _HOME]
        return {
            **inherited,
            **({"PYTHONPATH": os.pathsep.join(kept)} if kept else {}),
            "det_data": str(self.layout.data),
            "det_models": str(self.layout.models),
            LOADERS_VARIABLE: str(loaders()),
            "det_verbose": "0",
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": str(self.layout.root / "mlruns"),
        }


@contextmanager
def no_leftovers(path: Path) -> Iterator[IO[str]]:
    """Give a lock for the programs to inherit, once no program of an earlier start holds it.

    A program whose parent was killed is ended here. For a process that knows already that no other one is at work.

    Raises
    ------
    OncoduetError
        Such a program runs on another machine, or does not end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        if not _locked(lock):
            lock.seek(0)
            host, _, group = lock.read().partition(" ")
            if host == socket.gethostname() and group.isdigit():
                logger.info("ending what an earlier start of nnDetection left at work: process group %s", group)
                with suppress(ProcessLookupError):
                    os.killpg(int(group), signal.SIGKILL)
            until = time.monotonic() + _PATIENCE_S
            while not _locked(lock):
                if time.monotonic() > until:
                    raise OncoduetError(
                        f"{path}: expected no program of nnDetection at work from an earlier start, found one "
                        f"(on {host or 'an unknown machine'}); end it first"
                    )
                time.sleep(_POLL_S)
        lock.truncate(0)
        yield lock


class _Errors:
    """Takes what a program says on stderr into the log, and remembers the last line."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        assert process.stderr is not None
        self.last = ""
        self._stream, self._log = process.stderr, log
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the last lines, but for no process that outlives the program and keeps its stderr open."""
        self._thread.join(timeout=_PATIENCE_S)

    def _take(self) -> None:
        for line in self._stream:
            with suppress(OSError, ValueError):  # a full disk, or a log that was closed: the program shall not wait
                self._log.write(line)
            spoken = one_line(line.decode(errors="replace"))
            self.last = spoken or self.last


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _note_group(lock: IO[str], group: int) -> None:
    """Write down whom a later start would have to end."""
    lock.truncate(0)
    lock.write(f"{socket.gethostname()} {group}")
    lock.flush()


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
