"""The local executor: runs in processes on this machine, several at a time, each with one GPU or none.

Everything is imported, and the studies are read, once; then each process is made by ``fork``, which saves the seconds
that this takes, and memory. The parent stays single-threaded and away from CUDA for that reason: forking a process with
threads may lock up, and one that has used CUDA cannot lend it. A run's result does not depend on how it was started
or on what runs in parallel.
"""

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rich.console import Console

from contract.files.locks import kind_of_locks
from contract.records import Stage
from network.machine.device import Device
from training.campaign.console import Display
from training.campaign.devices import chosen_devices, see_only
from training.campaign.estimate import Capacity, estimate_costs
from training.campaign.planned_runs import Campaign, PlannedRun, campaign_lock
from training.campaign.status import ExecutorMessage, StatusMonitor
from training.campaign.worker import Ended, Stepped, make_pack, raise_for
from training.dataloading.training_set import Place, home
from training.planned_run import Run

REFRESH_S = 0.25

Places = Mapping[tuple[int | None, Stage], Place]
"""Where training sets are kept, by device and stage."""


@dataclass(frozen=True)
class Worker:
    """A process and the pack of runs that it trains."""

    pack: tuple[PlannedRun, ...]
    process: BaseProcess
    device: int | None


def local_capacity(campaign: Campaign, device: Device) -> Capacity:
    """How much of a campaign this machine makes at a time.

    Raises ``OncoduetError``: a device that the campaign names is not there.
    """
    resources = campaign.file.resources
    devices = chosen_devices(resources.devices, device=device)
    return Capacity(len(devices) or campaign.file.processes, resources.packed, devices)


def make_locally(campaign: Campaign, *, console: Console, device: Device) -> None:
    """Make every run that is missing.

    Raises
    ------
    OncoduetError
        Another campaign works in the folder; disk or memory are too small; runs failed, all for their input's
        fault.
    RuntimeError
        Runs failed, at least one by a bug or a killed process.
    """
    import torch  # noqa: PLC0415 - these take seconds, which each forked process is spared

    import training.nnunet.trainer  # noqa: F401, PLC0415

    torch.set_num_threads(1)
    capacity = local_capacity(campaign, device)
    monitor = StatusMonitor(campaign)
    status = monitor.look()
    costs = estimate_costs(campaign, status, capacity)
    costs.refuse_if_short(campaign)
    places = {} if costs.memory is None else costs.memory.places
    if costs.memory is not None:
        for line in costs.memory.lines:
            console.print(line, soft_wrap=True)
        capacity = replace(capacity, devices=costs.memory.devices)
    with campaign_lock(campaign.output):
        console.print(kind_of_locks(campaign.output), soft_wrap=True, markup=False)
        missing = [run.planned.run for run in status.runs if run.state != "finished"]
        held = _read_studies(missing, places)
        with Display(monitor, console) as display:
            ended = _Workshop(campaign, capacity, places, monitor, display).make()
        del held
    raise_for(campaign, ended)


def _read_studies(runs: Sequence[Run], places: Places) -> list[object]:
    """The runs' studies in the main memory, where they are kept there: processes that are forked now share them."""
    from training.dataloading.resident_studies import resident_studies  # noqa: PLC0415

    wanted = {
        (stage, *home(place, "cpu" if device is None else "cuda"))
        for (device, stage), place in places.items()
        if place != "nnunet"
    }
    return [
        resident_studies(run.prepared.folder, [*run.fold.train, *run.fold.validation], device=device, dtype=dtype)
        for run in runs
        for stage, device, dtype in wanted
        if device.type == "cpu" and run.configuration.stage == stage and run.engine.archive_need is None
    ]


class _Workshop:
    """The processes, and what they have reported."""

    def __init__(
        self, campaign: Campaign, capacity: Capacity, places: Places, monitor: StatusMonitor, display: Display
    ) -> None:
        self.capacity, self.places, self.display = capacity, places, display
        self.free: list[int | None] = [each.index for each in capacity.devices] or [None] * capacity.processes
        runs = monitor.look().runs
        self.waiting = [run.planned for run in runs if run.state != "finished"]
        self.workers: dict[Connection, Worker] = {}
        self.messages: dict[str, ExecutorMessage] = {}
        self.ended: dict[str, Ended] = {}

    def make(self) -> list[Ended]:
        """Make the waiting runs, as many at a time as there are places for."""
        for planned in self.waiting:
            planned.announce()
        try:
            while self.waiting or self.workers:
                while self.waiting and self.free:
                    self._start(self.free.pop(0))
                self.display.show(self.messages)
                self._listen(timeout_s=REFRESH_S)
        finally:
            for worker in self.workers.values():
                worker.process.terminate()
        self.display.show(self.messages, is_last=True)
        return list(self.ended.values())

    def _start(self, device: int | None) -> None:
        pack = _pack(self.waiting, self.capacity.packed)
        self.waiting = [planned for planned in self.waiting if planned not in pack]
        place = self.places.get((device, pack[0].run.configuration.stage))
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(pack, device, place, theirs, [ours, *self.workers]))
        process.start()
        theirs.close()
        self.workers[ours] = Worker(pack, process, device)
        self.messages |= {planned.name: ExecutorMessage("running") for planned in pack}

    def _listen(self, *, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while self.workers and (ready := wait(list(self.workers), timeout=max(0.0, until - time.monotonic()))):
            for end in ready:
                assert isinstance(end, Connection)
                try:
                    self._take(end.recv())
                except EOFError:
                    self._lose(end)
            if self.free and self.waiting:
                return

    def _take(self, event: object) -> None:
        match event:
            case Stepped(name, iterations):
                self.messages[name] = ExecutorMessage("running", iterations)
            case Ended(name):
                self.ended[name] = event
                self.messages[name] = event.executor_message

    def _lose(self, end: Connection) -> None:
        worker = self.workers.pop(end)
        worker.process.join()
        end.close()
        self.free.append(worker.device)
        for planned in worker.pack:
            if planned.name not in self.ended:
                code = worker.process.exitcode
                self._take(Ended(planned.name, f"its process ended with code {code}", is_bug=True))


def _pack(waiting: Sequence[PlannedRun], packed: int) -> tuple[PlannedRun, ...]:
    """The next runs that are interleaved: of one stage, since they read the same studies."""
    stage = waiting[0].run.configuration.stage
    return tuple([planned for planned in waiting if planned.run.configuration.stage == stage][:packed])


def _work(
    pack: Sequence[PlannedRun],
    device: int | None,
    place: Place | None,
    events: Connection,
    others: Sequence[Connection],
) -> None:
    """The forked process: make a pack of runs and report progress to the parent."""
    for connection in others:
        connection.close()
    if device is not None:
        see_only(device)

    def tell(event: object) -> None:
        try:
            events.send(event)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone: stop; the checkpoint remains for the next campaign

    try:
        make_pack(pack, device="cpu" if device is None else "cuda", training_set=place, tell=tell)
    finally:
        events.close()
        os._exit(0)
