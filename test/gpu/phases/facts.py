"""What is there: GPU, driver, torch."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch
from workload import Workload

from network.machine.device import choose_device


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """One row. Raises ``OncoduetError``: the machine has a GPU that torch cannot use."""
    row: dict[str, Any] = {
        "device": str(choose_device("cpu" if workload.toy else "auto")),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nnunetv2": importlib.metadata.version("nnunetv2"),
    }
    if workload.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        row |= {
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory_gb": round(total / 1e9, 1),
            "free_gb": round(free / 1e9, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "architectures": torch.cuda.get_arch_list(),
        }
    yield row
