"""Batches by nnU-Net's loader, made in processes of their own as nnU-Net does, but repeatable.

nnU-Net's processes draw from unseeded generators, and their batches come in the order in which they are done. Here each
batch has random numbers of its own, which follow from the run's seed, the epoch and the batch's number, and batches
come in order. So a run gives the same bits with any number of processes, in none of its own (0), and interrupted.
"""

import ctypes
import itertools
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from contract.errors import OncoduetError
from contract.process.signals import children_that_end_with_us, leave_last_word_to_parent
from network.machine.cgroups import cores_left
from network.machine.device import Kind

VARIABLE = "nnUNet_n_proc_DA"
"""By which nnU-Net's users set the number of processes."""
PROCESSES = 12
"""nnU-Net's number, for machines that it does not know."""
PREFETCHED = 2
"""Batches that each process makes ahead."""
SHARED_MEMORY = Path("/dev/shm")

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class WorkerBatches:
    """An endless iterator over batches, as nnU-Net's trainer takes them.

    Parameters
    ----------
    batches
        Gives a new batch each time, from Python's, numpy's and torch's global generators.
    reseed
        Seeds these for a moment of the run, which it is given in words.
    purpose
        Training or validation; a part of each moment.
    per_epoch
        Batches of an epoch, after which those of the next one are made.
    processes
        Worker processes; 0: this one.
    pinned
        Whether batches are in page-locked memory, from which they are copied to a GPU without waiting.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        reseed: Callable[[str], None],
        *,
        purpose: str,
        per_epoch: int,
        processes: int,
        pinned: bool,
    ) -> None:
        self.batches, self.processes, self.pinned = batches, processes, pinned
        self._moments = _Moments(purpose, per_epoch)
        self._made = _Made(batches, reseed)
        self._coming: Iterator[Any] | None = None
        self._epoch: int | None = None

    def begin(self, epoch: int) -> None:
        """Go on with an epoch's first batch; what was made ahead is kept where this epoch follows the last one."""
        if self._epoch is None or epoch != self._epoch + 1:
            self._coming, self._moments.first = None, epoch
        self._epoch = epoch

    def __iter__(self) -> "WorkerBatches":
        return self

    def __next__(self) -> Any:
        """The next batch; processes are started with the first one."""
        if self._coming is None:
            with children_that_end_with_us():
                self._coming = iter(self._loader())
        batch = next(self._coming)
        if isinstance(batch, OncoduetError):
            raise batch
        return batch

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._made,
            sampler=self._moments,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.processes,
            prefetch_factor=PREFETCHED if self.processes else None,
            multiprocessing_context="fork" if self.processes else None,
            worker_init_fn=_begin_worker,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # or else it would draw from the global one
        )


def processes_of(wanted: int | None, device: Kind) -> int:
    """How many processes make training batches: as the profile says, else nnU-Net's variable, else its own number.

    Raises ``OncoduetError``: the variable says no number.
    """
    if wanted is not None:
        return wanted
    said = os.environ.get(VARIABLE)
    if said is not None:
        if not said.isdecimal():
            raise OncoduetError(VARIABLE, expected="a number of processes", found=f"{said!r}")
        return int(said)
    if device == "cpu":  # whose cores compute already
        return 0
    cores = len(os.sched_getaffinity(0))
    return min(PROCESSES, max(1, math.floor(min(cores, cores_left() or cores))))


def shared_at_most(processes: int, batch_bytes: int) -> int:
    """So many processes, or fewer: as many as have room for their batches where processes share memory.

    Docker gives a container 64 MB of it; a process that finds none left is killed by a bus error.
    """
    if not SHARED_MEMORY.is_dir():
        return processes
    return min(processes, shutil.disk_usage(SHARED_MEMORY).free // ((PREFETCHED + 1) * batch_bytes))


class _Made(Dataset[Any]):
    """The batch of each moment."""

    def __init__(self, batches: Iterator[Any], reseed: Callable[[str], None]) -> None:
        self.batches, self.reseed = batches, reseed

    def __getitem__(self, moment: str) -> Any:
        self.reseed(moment)
        try:
            return next(self.batches)
        except OncoduetError as error:  # torch would pass it on as text with a traceback
            return error


class _Moments(Sampler[str]):
    """The moments of all batches from the first epoch's on."""

    def __init__(self, purpose: str, per_epoch: int) -> None:
        self.purpose, self.per_epoch, self.first = purpose, per_epoch, 0

    def __iter__(self) -> Iterator[str]:
        for epoch in itertools.count(self.first):
            for number in range(self.per_epoch):
                yield f"epoch {epoch} {self.purpose} {number}"


def _begin_worker(_: int) -> None:
    """In a worker: end with the training, however that ends; until then the run's lock is held."""
    leave_last_word_to_parent()
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _as_it_is(batch: Any) -> Any:
    return batch
