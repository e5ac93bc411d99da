"""The environment of a run: the machine, versions and settings that decide its last bits."""

import os
import platform
import socket
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from contract.provenance import VERSION
from network.machine.device import machine_gpu


@cache
def versions() -> Mapping[str, str]:
    """Versions of the packages that a run's result depends on."""
    packages = {name: version(name) for name in ("torch", "nnunetv2", "batchgeneratorsv2", "numpy", "scipy", "blosc2")}
    return {"oncoduet": VERSION, "python": platform.python_version(), **packages}


@cache
def hardware(device: str, threads: int) -> Mapping[str, str | int]:
    """The machine, and how much of it is used."""
    described: dict[str, str | int] = {
        "host": socket.gethostname(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count() or 1,
        "device": device,
        "threads": threads,
        "system": sys.platform,
    }
    if device == "cuda":
        import torch  # noqa: PLC0415 - takes seconds to import

        gpu = machine_gpu()
        described |= {"gpu": torch.cuda.get_device_name(), "driver": gpu.driver if gpu else "unknown"}
    job = os.environ.get("SLURM_JOB_ID")
    return described | ({"slurm_job": job} if job else {})


def torch_build() -> Mapping[str, str | int | bool]:
    """Torch's build, the libraries and instructions that it computes with, and the switches that are set now."""
    import torch  # noqa: PLC0415

    return {
        "git": str(torch.version.git_version),
        "cuda": torch.version.cuda or "none",
        "cudnn": torch.backends.cudnn.version() or "none",  # type: ignore[no-untyped-call]
        "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
        "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def container() -> str | None:
    """Name of the image that this runs in: its build sets ``ONCODUET_IMAGE``."""
    return os.environ.get("ONCODUET_IMAGE") or None


def command_line() -> tuple[str, ...]:
    """Command line of this process."""
    return tuple(sys.orig_argv)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
