"""The number of threads: the cores that this process may use, as the libraries are told."""

import math
import os
from pathlib import Path

from contract.errors import UsageError
from network.machine.cgroups import ROOT, cores_left

MOST_THREADS = 256
"""Most threads, on any number of cores: a run's number is repeated on other machines to obtain the same bits."""


def usable_cores(root: Path = ROOT) -> int:
    """Cores that the affinity mask and the quotas of its control groups leave to this process; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = cores_left(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def use_threads(count: int) -> None:
    """Give PyTorch and SimpleITK this many threads; networks compute as many passes at a time.

    Raises
    ------
    UsageError
        There are far more than cores, which libraries answer by a crash.
    """
    most = max(MOST_THREADS, 4 * (os.cpu_count() or 1))
    if count > most:
        raise UsageError("--threads", expected=f"at most {most}", found=count)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(count)
    import torch  # noqa: PLC0415

    torch.set_num_threads(count)
