"""Which CUDA devices this machine has, without initialising CUDA in this process.

A process that has used CUDA can no longer fork ones that use it, so a forked child looks and reports.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

from contract.errors import OncoduetError
from contract.process.signals import children_that_end_with_us, leave_last_word_to_parent
from network.machine.device import ComputeDevice, Device, choose_device

Answer = TypeVar("Answer")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class CudaDevice:
    """One visible GPU."""

    index: int
    """Index among the visible devices."""
    name: str
    free_bytes: int


def visible_devices(device: Device = "auto") -> tuple[CudaDevice, ...]:
    """The CUDA devices that a new process would see.

    Raises ``OncoduetError`` as :func:`network.machine.device.choose_device`.
    """
    return in_a_child(partial(_ask, device))


def chosen_in_a_child(device: Device) -> ComputeDevice:
    """As :func:`network.machine.device.choose_device`, without initialising CUDA in this process."""
    import torch  # noqa: F401, PLC0415 - takes seconds, which each forked process is spared

    return in_a_child(partial(choose_device, device))


def chosen_devices(wanted: Sequence[int] | None, *, device: Device) -> tuple[CudaDevice, ...]:
    """The devices that a campaign works on; none where it works on the CPU.

    Raises ``OncoduetError``: a device that is wanted is not there, or torch cannot use the machine's GPU.

    Parameters
    ----------
    wanted
        Indices of the campaign file; all visible ones if None.
    device
        Of the command line.
    """
    if device == "cpu":
        return ()
    there = {each.index: each for each in visible_devices(device)}
    missing = [index for index in wanted or () if index not in there]
    if missing and (there or wanted):
        found = f"{len(there)} (0 to {len(there) - 1})" if there else "no CUDA device"
        raise OncoduetError("resources.devices", expected=f"CUDA device {missing[0]}", found=found)
    return tuple(there[index] for index in (there if wanted is None else wanted))


def see_only(index: int) -> None:
    """Hide all but one visible device from this process, before CUDA is initialised; it becomes number 0."""
    visible = os.environ.get(_VISIBLE)
    os.environ[_VISIBLE] = visible.split(",")[index] if visible else str(index)


def in_a_child(ask: Callable[[], Answer]) -> Answer:
    """Answer a question in a forked child, which leaves no trace in this process.

    Raises
    ------
    OncoduetError
        As the question raised it.
    RuntimeError
        The child ended without an answer.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(ask, theirs))
    with children_that_end_with_us():
        process.start()
    theirs.close()
    try:
        answer: Answer | OncoduetError = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"a process that was asked for this machine's devices ended with {process.exitcode}"
        ) from None
    process.join()
    if isinstance(answer, OncoduetError):
        raise answer
    return answer


def _answer(ask: Callable[[], Answer], answers: Connection) -> None:
    leave_last_word_to_parent()
    try:
        answers.send(ask())
    except OncoduetError as error:
        answers.send(error)
    answers.close()
    os._exit(0)


def _ask(device: Device) -> tuple[CudaDevice, ...]:
    import torch  # noqa: PLC0415

    if choose_device(device).kind == "cpu":
        return ()
    return tuple(
        CudaDevice(index, torch.cuda.get_device_name(index), torch.cuda.mem_get_info(index)[0])
        for index in range(torch.cuda.device_count())
    )
