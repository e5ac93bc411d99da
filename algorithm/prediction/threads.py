"""How many cores this process may use, and that the libraries use so many."""

import math
import os
from pathlib import Path

from network.cgroups import ROOT, cores_left


def usable_cores(root: Path = ROOT) -> int:
    """Cores that the affinity mask and the quotas of its control groups leave to this process; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = cores_left(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def use_threads(count: int) -> None:
    """Give PyTorch and SimpleITK this many threads; results are reproducible for equal counts."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(count)
    import torch  # noqa: PLC0415

    torch.set_num_threads(count)
