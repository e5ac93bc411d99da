"""Seconds per training step, taken inside the process: after warm-up, and on a GPU with its queue empty at both ends.

Start, imports, loading of studies, compilation and the first steps do not count. CPU seconds are those of the process
and of all below it, which nnU-Net's loader has.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class StepCost:
    """What the timed steps took, of all runs in the process together."""

    steps: int
    wall_s: float
    cpu_s: float
    host_s: float
    """Wall seconds until the last step was enqueued; on the CPU all of them."""
    peak_mb: float
    """On a GPU what torch held of its memory at most, from the start on; on the CPU the resident set."""


class StepClock:
    """Counts steps, and times all of them after the first ``warm_up`` up to ``last``."""

    def __init__(self, *, warm_up: int, last: int, device: str) -> None:
        self.warm_up, self.last, self.device = warm_up, last, device
        self.cost: StepCost | None = None
        self._done = 0

    def __call__(self, *_: object) -> None:
        """To be called after each step of any run."""
        self._done += 1
        if self._done == self.warm_up:
            self._wait()
            self._wall, self._cpu = time.perf_counter(), tree_cpu_s()
        elif self._done == self.last:
            enqueued = time.perf_counter()
            self._wait()
            self.cost = StepCost(
                self.last - self.warm_up,
                time.perf_counter() - self._wall,
                tree_cpu_s() - self._cpu,
                enqueued - self._wall,
                self._peak_mb(),
            )

    def write(self, path: Path) -> None:
        """Hand the cost to the process that asked."""
        assert self.cost is not None, f"{self._done} of {self.last} steps"
        path.write_text(json.dumps(asdict(self.cost)))

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.synchronize()

    def _peak_mb(self) -> float:
        if self.device == "cuda":
            import torch  # noqa: PLC0415

            return torch.cuda.max_memory_reserved() / 1e6
        import resource  # noqa: PLC0415

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def read_cost(path: Path) -> StepCost:
    """What :meth:`StepClock.write` wrote."""
    return StepCost(**json.loads(path.read_text()))


def tree_cpu_s(pid: int | None = None) -> float:
    """CPU seconds so far of a process and of all below it, those that have ended included (Linux)."""
    pid = os.getpid() if pid is None else pid
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        below = [int(each) for task in Path(f"/proc/{pid}/task").iterdir()
                 for each in (task / "children").read_text().split()]  # fmt: skip
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # ended meanwhile: its parent has its seconds
    own = sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")  # user, system, and of ended children
    return own + sum(map(tree_cpu_s, below))
