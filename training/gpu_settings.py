"""A profile's ``[compute]`` table as settings of the process and of the network, for trainings on a GPU.

Settings of the process are set before each step of a training, since trainings with others may take turns with it. On
the CPU none is touched: there a training is eager, in float32 and deterministic.
"""

import importlib.util
import logging
import os
import shutil

import torch

from contract.errors import OncoduetError
from network.machine.device import Kind
from network.machine.precision import HALF, require_precision
from training.profile import Compute, Profile

logger = logging.getLogger(__name__)


def require_settings(profile: Profile, device: Kind) -> None:
    """Raise ``OncoduetError`` unless this device and this machine can do what the profile's table asks of a GPU."""
    if device == "cpu":
        return
    where = f"profile {profile.name}: compute"
    require_precision(f"{where}.amp", profile.compute.amp, device)
    lacking = _lacking_to_compile()
    if profile.compute.compile is True and lacking:
        raise OncoduetError(
            f"{where}.compile",
            expected="Triton and a C compiler, by which torch compiles for a GPU",
            found=f'no {lacking}; install it, or set compile = "auto" or false',
        )


def settle_process(compute: Compute, device: Kind) -> None:
    """Set what holds for the whole process."""
    if device == "cpu":
        return
    torch.backends.cudnn.benchmark = compute.cudnn_benchmark
    torch.backends.cudnn.deterministic = compute.deterministic
    torch.backends.cudnn.allow_tf32 = compute.amp != "fp32"
    torch.set_autocast_dtype("cuda", HALF.get(compute.amp, torch.float32))
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if compute.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(compute.deterministic, warn_only=True)
    # Otherwise torch fills all new memory with NaN first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def settle_network(network: torch.nn.Module, compute: Compute, device: Kind) -> None:
    """Lay out and compile a network in place; its weights keep their names."""
    if device == "cpu":
        return
    if compute.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if compiles(compute):
        network.compile()
    elif compute.compile == "auto":
        logger.info("the network is not compiled: no %s", _lacking_to_compile())


def compiles(compute: Compute) -> bool:
    """Whether networks are compiled on this machine's GPU."""
    return _lacking_to_compile() is None if compute.compile == "auto" else compute.compile


def scales_gradients(compute: Compute, device: Kind) -> bool:
    """Whether gradients are scaled, without which small ones would vanish in half precision."""
    return device == "cuda" and compute.amp == "fp16"


def _lacking_to_compile() -> str | None:
    """What Triton needs and this machine lacks."""
    if importlib.util.find_spec("triton") is None:
        return "Triton"
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cc"]
    return None if any(map(shutil.which, compilers)) else f"C compiler ({', '.join(compilers)})"
