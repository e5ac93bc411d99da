"""The precision of the networks: what ``--precision`` and a profile's ``amp`` mean, and which devices support it.

``fp16`` and ``bf16`` are torch's autocast: convolutions in half precision, norms and sums in single. ``tf32`` are
convolutions in single precision whose factors keep ten digits. Whatever is chosen, weights, accumulators and
probabilities are float32.

``auto`` is ``fp16`` on any GPU, as stock nnU-Net has it, and ``fp32`` on the CPU (docs/decisions/precision.md). torch
emulates bf16 where a GPU lacks it, slower than fp32; that is refused here, and so is TF32 where there is none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from contract.errors import OncoduetError
from network.machine.device import Kind, Precision, WantedPrecision

HALF: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""What autocast computes in; for the others it is off."""
_ON_AMPERE = "a GPU of compute capability 8.0 or newer"


def choose_precision(wanted: WantedPrecision, kind: Kind) -> Precision:
    """What networks compute in on this device. Raises ``OncoduetError`` as :func:`require_precision`."""
    if wanted == "auto":
        return "fp16" if kind == "cuda" else "fp32"
    require_precision(f"--precision {wanted}", wanted, kind)
    return wanted


def require_precision(where: object, precision: Precision, kind: Kind) -> None:
    """Raise ``OncoduetError`` unless the device computes in this precision by itself; this wakes CUDA on a GPU.

    Parameters
    ----------
    where
        The option or the key that asks for it, for the message.
    """
    if precision in ("fp32", "fp16") or (kind, precision) == ("cpu", "bf16"):
        return
    if kind == "cpu":
        raise OncoduetError(where, expected=_ON_AMPERE, found="the CPU, which has no TF32; use fp32")
    native = torch.cuda.is_tf32_supported() if precision == "tf32" else torch.cuda.is_bf16_supported(False)
    if not native:
        major, minor = torch.cuda.get_device_capability()
        found = f"{torch.cuda.get_device_name()} ({major}.{minor}), which "
        found += "has no TF32; use fp32 or fp16" if precision == "tf32" else "emulates bf16 slowly; use fp16"
        raise OncoduetError(where, expected=_ON_AMPERE, found=found)


def native_precisions(kind: Kind) -> list[Precision]:
    """All that the device computes in by itself, fp32 first."""
    if kind == "cpu":
        return ["fp32", "fp16", "bf16"]
    from_ampere_on = {"tf32": torch.cuda.is_tf32_supported(), "bf16": torch.cuda.is_bf16_supported(False)}
    return [each for each in get_args(Precision) if from_ampere_on.get(each, True)]


@contextmanager
def computing_in(precision: Precision, device_type: str) -> Iterator[None]:
    """Networks that are called in here compute in this precision; TF32 is off but where it was asked for."""
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.allow_tf32
    cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device_type, dtype=HALF.get(precision, torch.float16), enabled=precision in HALF):
            yield
    finally:
        cudnn.allow_tf32 = before
