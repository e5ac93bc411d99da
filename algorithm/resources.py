"""How many cores this process may use, and that the libraries use so many."""

import math
import os
from pathlib import Path

_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cores() -> int:
    """Cores that the affinity mask and the container's CPU quota leave to this process; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota_cores()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def use_threads(count: int) -> None:
    """Give PyTorch and SimpleITK this many threads; results are reproducible for equal counts."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(count)
    import torch  # noqa: PLC0415

    torch.set_num_threads(count)


def _quota_cores() -> float | None:
    """The container's CPU quota in cores, or None where there is none."""
    try:
        if _QUOTA_V2.is_file():
            quota, period = _QUOTA_V2.read_text().split()
        else:
            quota, period = (path.read_text().strip() for path in _QUOTA_V1)
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
