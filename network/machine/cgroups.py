"""Memory and cores that this process's control groups leave to it.

A container has one group, a job of Slurm or of systemd several, one inside the other, and each of them may set a limit.
All of them hold, so the least counts: of the process's own group (``/proc/self/cgroup``) and of every one above it.
Both versions of the interface are read, also where both exist. Where a container shows its own group as the root, the
part of the path that exists there is read.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_NO_LIMIT = 2**60
"""Value of cgroups v1 for no limit, rounded down."""


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that the tightest group leaves, counting file pages that the kernel can drop as free; None: no limit.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are.
    """
    left = [
        most - used + _field(group / "memory.stat", inactive)
        for controller, limits, usage, inactive in (
            ("", ("memory.max", "memory.high"), "memory.current", "inactive_file"),
            ("memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
        )
        for group in _groups(root, controller)
        for most in (_number(group / limit) for limit in limits)
        if most is not None and most < _NO_LIMIT and (used := _number(group / usage)) is not None
    ]
    return min(left, default=None)


def cores_left(root: Path = ROOT) -> float | None:
    """Cores, not always whole, that the tightest group leaves; None: no limit."""
    cores = []
    for group in _groups(root, ""):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        cores += [_ratio(quota, period), _cpus(group / "cpuset.cpus.effective")]
    for group in _groups(root, "cpu"):
        cores.append(_ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")))
    for group in _groups(root, "cpuset"):
        cores.append(_cpus(group / "cpuset.effective_cpus") or _cpus(group / "cpuset.cpus"))
    return min((each for each in cores if each), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The process's own group and all above it, as folders; ``controller`` is of version 1, none is version 2."""
    for line in _text(root / "proc/self/cgroup").splitlines() or [f"0:{controller}:/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        names = [name for name in path.split("/") if name not in ("", "..")]
        mounted = root / "sys/fs/cgroup"
        bases = [mounted / controllers, mounted / controller] if controller else [mounted, mounted / "unified"]
        for base in [each for each in bases if each.is_dir()][: 1 if controller else 2]:
            yield base
            first = next((index for index, name in enumerate(names) if (base / name).is_dir()), len(names))
            below = itertools.accumulate(names[first:], Path.joinpath, initial=base)
            yield from itertools.takewhile(Path.is_dir, itertools.islice(below, 1, None))


def _cpus(path: Path) -> float | None:
    """How many a list such as ``0-3,8`` names; None where it names none."""
    count = 0
    for part in filter(None, _text(path).split(",")):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            return None
        count += int(last or first) - int(first) + 1
    return count or None


def _ratio(quota: str, period: str) -> float | None:
    """Cores of a quota in each period; None for ``max``, -1 and what is no number."""
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0:
        return None
    return int(quota) / int(period)


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None  # "max": no limit


def _field(path: Path, name: str) -> int:
    words = (line.split() for line in _text(path).splitlines())
    return next((int(each[1]) for each in words if len(each) == 2 and each[0] == name and each[1].isdigit()), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
