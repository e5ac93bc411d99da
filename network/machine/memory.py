"""Memory of this process: what it holds, and what containers, limits, the machine and a GPU leave to it."""

import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from network.machine.cgroups import ROOT, memory_left

GB = 10**9

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Budget:
    """How large this process may grow."""

    total: int
    """Bytes that the process may use, those in use included."""
    source: str
    """What sets the limit, for messages."""


def memory_budget(limit_gb: float | None = None, *, root: Path = ROOT) -> Budget:
    """How large this process may grow: the least of what its container, its limits and the machine leave to it.

    Parameters
    ----------
    limit_gb
        The user's limit instead, in GB (10^9 bytes).
    root
        Where the control groups are looked for.
    """
    if limit_gb is not None:
        return Budget(round(limit_gb * GB), "--memory-gb")
    held = held_bytes()
    free = {
        "the container's limit": memory_left(root),
        "RLIMIT_AS": _limit_free(resource.RLIMIT_AS, "VmSize"),
        "RLIMIT_DATA": _limit_free(resource.RLIMIT_DATA, "VmData"),
        "the machine's free memory": _field(_MEMINFO, "MemAvailable"),
    }
    source, least = min(
        ((what, each) for what, each in free.items() if each is not None),
        key=lambda pair: pair[1],
        default=("no limit known", 2**63),
    )
    return Budget(held + max(0, least), source)


def gpu_bytes_left(device: torch.device | None) -> int:
    """What a GPU has left for this process, with what torch keeps of it for later."""
    return int(
        torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    )


def held_bytes() -> int:
    """Resident set of this process."""
    return _field(_STATUS, "VmRSS") or 0


def _limit_free(which: int, field: str) -> int | None:
    soft, _ = resource.getrlimit(which)
    used = _field(_STATUS, field)
    return None if soft == resource.RLIM_INFINITY or used is None else soft - used


def _field(path: Path, name: str) -> int | None:
    """A field's bytes from files such as ``/proc/meminfo`` (in kB) or ``memory.stat`` (in bytes)."""
    try:
        for line in path.read_text().splitlines():
            words = line.replace(":", " ").split()
            if words and words[0] == name:
                return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    except (OSError, ValueError, IndexError):
        pass
    return None
