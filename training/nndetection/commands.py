"""nnDetection's programs: found on PATH, run one after the other, with their output in a log.

A program may work for days. It ends, with all that it started, with the step that waits for it, and also when this
process is killed (``process_guard``).
"""

import logging
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from contract.errors import OncoduetError
from contract.files.reading import regular_only
from contract.text import one_line
from training.interleaving import Steps
from training.nndetection.dataset_layout import Layout

TRAINING = ("nndet_prep", "nndet_unpack", "nndet_train", "nndet_sweep", "nndet_consolidate")
PREDICTION = ("nndet_predict",)

LOADERS = 12
"""Processes by which nnDetection makes batches, on machines with that many processors; its own default."""
LOADERS_VARIABLE = "det_num_threads"

_POLL_S = 0.05
_PATIENCE_S = 10.0
_SIGNALS = 128
_HOME = Path(__file__).resolve().parents[2]
_KEEPER = Path(__file__).with_name("process_guard.py").resolve()

logger = logging.getLogger(__name__)


def find_programs(names: Sequence[str]) -> dict[str, Path]:
    """Where nnDetection's programs are. Raises ``OncoduetError``: one is not on PATH."""
    found = {name: shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise OncoduetError(
            missing[0],
            "program of nnDetection not found on PATH; docs/nndetection.md says how to install it",
        )
    return {name: Path(str(path)).absolute() for name, path in found.items()}


def loaders() -> int:
    """How many processes nnDetection may use: as its own variable says, else by the machine.

    Raises ``OncoduetError``: the variable says no number above 0.
    """
    wanted = os.environ.get(LOADERS_VARIABLE, str(min(LOADERS, os.cpu_count() or 1)))
    if not wanted.isdecimal() or not int(wanted):
        raise OncoduetError(LOADERS_VARIABLE, expected="a number of processes above 0", found=f"{wanted!r}")
    return int(wanted)


@dataclass(frozen=True)
class Programs:
    """nnDetection's programs, run on one layout."""

    paths: Mapping[str, Path]
    layout: Layout
    log: Path
    """File to which the programs' output is appended."""

    def run(self, name: str, *words: str) -> Steps[float]:
        """Run one program to its end; yields while it works, and ends it when closed.

        Raises ``OncoduetError``: it failed; with the last line of its stderr.

        Returns
        -------
        float
            CPU seconds that it took.
        """
        command = [str(self.paths[name]), *words]
        logger.info("%s", shlex.join(command))
        before_s = _children_cpu_s()
        theirs, ours = os.pipe()
        with open(self.log, "ab", buffering=0, opener=regular_only) as log, os.fdopen(ours):
            process = subprocess.Popen(
                [sys.executable, "-I", str(_KEEPER), str(theirs), *command],
                cwd=self.layout.root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[theirs],
            )
            os.close(theirs)
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
            code = process.returncode
            ended = f"exit code {code}" if 0 < code <= _SIGNALS else f"signal {abs(code) % _SIGNALS}"
            said = f": {errors.last}" if errors.last else ""
            raise OncoduetError(name, expected="nnDetection's program to succeed", found=f"{ended}{said} ({self.log})")
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


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
