"""The device of the networks: CPU or CUDA, decided in one place; and how running out of memory is recognised.

Who has a GPU expects it to be used. So ``auto`` is the GPU where the machine has one, and the CPU only where there is
none or where ``CUDA_VISIBLE_DEVICES`` hides it on purpose. A GPU that torch cannot use (an older driver than its build
asks for, a build without CUDA, a container that was not lent it) is an error that says what helps: on the CPU a
training of hours takes weeks, and torch's warning is easily missed.
"""

import gc
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contract.errors import OncoduetError
from contract.text import one_line

Device = Literal["auto", "cpu", "cuda"]
"""Value of ``--device``."""
Kind = Literal["cpu", "cuda"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
"""What networks compute in; see :mod:`network.machine.precision`."""
WantedPrecision = Literal["auto", "fp32", "tf32", "fp16", "bf16"]
"""As on the command line."""

HELP = "where the networks run; auto: on the GPU if the machine has one, else on the CPU (default: auto)"
"""Help text of ``--device``."""

OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""Oldest NVIDIA driver for each major version of CUDA (release notes, table of minor version compatibility)."""

_ASKING_S = 20.0
"""Longest wait for nvidia-smi, which hangs with a broken GPU."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_OUT_OF_MEMORY = (
    *("DefaultCPUAllocator", "CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED", "std::bad_alloc"),
)


@dataclass(frozen=True)
class ComputeDevice:
    """What networks compute on in this process."""

    kind: Kind
    name: str
    """Name of the processor or the GPU."""
    software: str
    """Torch's build and the GPU's driver."""
    why: str

    def __str__(self) -> str:
        return f"device: {self.kind}, {self.name}, {self.software} ({self.why})"


@dataclass(frozen=True)
class MachineGpu:
    """A GPU that the machine has, whether or not torch can use it."""

    name: str
    driver: str
    """Driver version, or ``unknown``."""
    lent: bool
    """Whether its device file exists; a container or a job may see a GPU that it was not given."""
    said: str = ""
    """Output of nvidia-smi, where it failed."""


def choose_device(wanted: Device, *, root: Path = Path("/")) -> ComputeDevice:
    """Decide where networks compute.

    This wakes CUDA where it is going to be used: a process that forks others which use it asks in a child.

    Raises ``OncoduetError``: ``cuda`` is wanted, or ``auto`` and the machine has a GPU, and torch cannot use any.

    Parameters
    ----------
    root
        Where the machine's ``/proc`` and ``/dev`` are.
    """
    gpu = machine_gpu(root)
    if wanted == "cpu":
        return _cpu("as asked for" if gpu is None else f"as asked for, although the machine has {gpu.name}", gpu)
    fault = _fault()
    if fault is None:
        import torch  # noqa: PLC0415 - takes seconds to import

        return ComputeDevice("cuda", torch.cuda.get_device_name(), software(gpu), _why(wanted))
    hidden = _hidden()
    if wanted == "auto" and (hidden or gpu is None):
        return _cpu(hidden or "the machine has no GPU", gpu)
    expected = "a CUDA device" if gpu is None else f"to use the machine's GPU ({gpu.name})"
    found = f"none ({fault})" if gpu is None else fault
    raise OncoduetError(
        f"--device {wanted}",
        expected=expected,
        found=(f"{found}; here: {software(gpu)}; {hidden or _remedy(gpu)}, or accept the CPU with --device cpu"),
    )


def machine_gpu(root: Path = Path("/")) -> MachineGpu | None:
    """The first GPU by NVIDIA that the machine has, as its driver reports; None without any."""
    proc, lent = root / "proc/driver/nvidia", any((root / "dev").glob("nvidia[0-9]*"))
    answer, said = _nvidia_smi()
    if answer is not None:
        name, _, driver = (part.strip() for part in answer.partition(","))
        return MachineGpu(one_line(name), one_line(driver) or "unknown", lent=True)
    listed = sorted((proc / "gpus").glob("*/information"))
    if not lent and not listed:
        return None
    name = _value(listed[0], "Model:") if listed else ""
    version = [word for word in _read(proc / "version").split() if word[:1].isdigit() and "." in word]
    return MachineGpu(name or "an NVIDIA GPU", version[0] if version else "unknown", lent=lent, said=said)


def software(gpu: MachineGpu | None = None) -> str:
    """Torch's build, CUDA's version in it and the driver, in words."""
    import torch  # noqa: PLC0415

    built = torch.version.cuda or torch.version.hip
    cuda = f"for CUDA {built}" if built else "without CUDA"
    return f"torch {torch.__version__} {cuda}, " + (f"driver {gpu.driver}" if gpu else "no NVIDIA driver")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out: torch has an exception of its own for the GPU's, for the rest nothing but texts."""
    import torch  # noqa: PLC0415

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


@contextmanager
def memory_or_refuse(what: str, *, remedy: str) -> Iterator[None]:
    """Raise ``OncoduetError`` with one line for the user where memory runs out within."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        found = one_line(str(error)).partition(" If reserved but unallocated")[0] or "too little"
        raise OncoduetError(what, f"not enough memory: {found}; {remedy}") from error


def require_same_device(what: str, *, begun: str, now: str) -> None:
    """Raise ``OncoduetError`` where a training would resume on another kind of device than it was begun on.

    Its state differs (gradients are scaled on CUDA alone), and so do its bits.
    """
    if begun != now:
        raise OncoduetError(
            what,
            f"the checkpoint was written on {begun}",
            found=f"{now}; use --device {begun}, or a new --output to start over on {now}",
        )


def free_device_memory() -> None:
    """Give back the GPU memory that torch keeps for later, so that other users of the GPU find all of it."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def _cpu(why: str, gpu: MachineGpu | None) -> ComputeDevice:
    name = _value(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()
    return ComputeDevice("cpu", name, software(gpu), why)


def _why(wanted: Device) -> str:
    return "as asked for" if wanted == "cuda" else "the machine has it"


def _fault() -> str | None:
    """Why torch cannot compute on a GPU; None where it can, which is tried."""
    import torch  # noqa: PLC0415

    if torch.version.cuda is None and torch.version.hip is None:
        return "a build of torch without CUDA"
    if not torch.cuda.is_available():
        return "that torch sees none"
    try:
        torch.ones(1, device="cuda").sum().item()
    except (RuntimeError, AssertionError) as error:
        return f"that torch cannot compute on it: {one_line(str(error))[:300]}"
    return None


def _hidden() -> str | None:
    """Whether no GPU is to be used here, by CUDA's own variable."""
    visible = os.environ.get(_VISIBLE)
    if visible is None or visible.strip()[:1].isdigit() or visible.strip().startswith(("GPU-", "MIG-")):
        return None
    return f"{_VISIBLE}={visible!r} hides every GPU"


def _remedy(gpu: MachineGpu | None) -> str:
    """What helps where a GPU cannot be used."""
    import torch  # noqa: PLC0415

    another = "install another build of torch (TORCH_REQUIREMENT, requirements/install.sh)"
    if gpu is None:
        return "is this the right machine, and does nvidia-smi show a GPU?"
    if torch.version.cuda is None:
        return f"{another}, one with CUDA"
    if not gpu.lent:
        return "lend the GPU to this container or job (docker run --gpus all, Slurm's --gpus)"
    oldest = OLDEST_DRIVER.get(int(torch.version.cuda.partition(".")[0]))
    major = gpu.driver.partition(".")[0]
    if oldest is not None and major.isdigit() and int(major) < oldest:
        return (
            f"CUDA {torch.version.cuda} asks for driver {oldest} or newer: update the driver, or {another}, "
            "one for an older CUDA"
        )
    if visible := os.environ.get(_VISIBLE):
        return f"does {_VISIBLE}={visible!r} name a GPU that is not there? nvidia-smi -L lists those that are"
    said = f" (nvidia-smi says: {gpu.said})" if gpu.said else ""
    return f"update or restart the driver{said}, or {another}"


def _nvidia_smi() -> tuple[str | None, str]:
    """Name and driver of the first GPU by nvidia-smi, or None; and its output where it failed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, ""
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASKING_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return None, f"nothing within {_ASKING_S:.0f} s"
    except OSError as error:
        return None, one_line(str(error))
    lines = answer.stdout.strip().splitlines()
    if answer.returncode == 0 and lines and "," in lines[0]:
        return lines[0], ""
    return None, one_line(answer.stdout + answer.stderr)[:200]


def _value(path: Path, name: str) -> str:
    """The value of a name in a file of lines ``name: value``; empty where there is no such line."""
    for line in _read(path).splitlines():
        if line.startswith(name.removesuffix(":")):
            return one_line(line.partition(":")[2])
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
