"""What a campaign will cost: hours, disk and memory, and whether the machine has them.

Hours are measured: on the epochs that runs of this plan have done, else on a few training steps
(``training.campaign.probe``).
Disk and memory follow from the plan by the numbers below, so that an estimate is cheap and a campaign that cannot
succeed is refused before its first iteration.

Runs of an engine without epochs are not counted: upstream nnDetection plans its own networks, whose cost has not been
measured.

What trainings take in memory is reckoned in :mod:`training.memory_bill`.
"""

import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.errors import OncoduetError
from training.campaign.devices import CudaDevice
from training.campaign.memory_estimate import MemoryEstimate, estimate_memory, estimate_memory_elsewhere
from training.campaign.planned_runs import Campaign
from training.campaign.probe import LIMIT_S, EpochTime, device_name, probe
from training.campaign.status import CampaignStatus, Progress, clock_time, hours
from training.memory_bill import needs
from training.planned_run import Run

GB = 10**9


RunKind = tuple[str, str]
"""Engine and stage: networks and data differ between these only."""


@dataclass(frozen=True)
class Capacity:
    """How much of a campaign happens at the same time, and where."""

    processes: int
    packed: int
    """Runs in parallel in each process."""
    devices: tuple[CudaDevice, ...] = ()
    """One per process, or none on the CPU."""
    elsewhere: bool = False
    """Whether other machines train: then only the disk is checked here."""
    memory_gb: float | None = None
    """Memory requested per job; None: not stated."""


@dataclass(frozen=True)
class CostEstimate:
    """What the missing runs need on the disk and in memory, in bytes, and what there is."""

    missing: int
    finished_each: int
    disk: int
    disk_free: int
    memory: MemoryEstimate | None
    """None where nothing is missing."""
    at_once: int
    uncounted: tuple[str, ...] = ()
    """Engines of the missing runs whose costs are not known, one per run."""

    def refuse_if_short(self, campaign: Campaign) -> None:
        """Raise ``OncoduetError`` if disk or memory are too small."""
        if self.disk > self.disk_free:
            raise OncoduetError(
                campaign.output,
                expected=f"{_size(self.disk)} of free disk for {self.missing} runs",
                found=_size(self.disk_free),
            )
        memory = self.memory
        if memory is not None and memory.free is not None and memory.needed > memory.free:
            raise OncoduetError(
                campaign.path,
                expected=f"{_size(memory.needed)} of memory for {self.at_once} runs at a time",
                found=f"{_size(memory.free)} ({memory.source}); {memory.remedy}",
            )

    def lines(self) -> list[str]:
        """For the console: training sets, disk, memory, and what was not counted."""
        memory = self.memory
        free = "" if memory is None or memory.free is None else f"; {_size(memory.free)} there ({memory.source})"
        needed = 0 if memory is None else memory.needed
        return [
            *(() if memory is None else memory.lines),
            f"disk: {_size(self.finished_each)} per finished run, at most {_size(self.disk)} on the way; "
            f"{_size(self.disk_free)} free",
            f"memory: at most {_size(needed)} for {self.at_once} runs at a time{free}",
            *(
                f"not counted: {_runs(count)} of {title}, whose costs are unknown"
                for title, count in Counter(self.uncounted).items()
            ),
        ]


def estimate_costs(campaign: Campaign, status: CampaignStatus, capacity: Capacity) -> CostEstimate:
    """What the missing runs need, and what is available."""
    missing, uncounted = _missing(status)
    runs = list(_by_kind(missing).values())
    need = {run_kind(run): needs(run) for run in runs}
    of = [need[run_kind(progress.planned.run)] for progress in missing]
    at_once = min(len(missing), capacity.processes * capacity.packed)
    disk = sum(each.disk_when_finished for each in of) + at_once * max((each.disk_at_work for each in of), default=0)
    packed, processes = min(capacity.packed, len(missing)), min(len(missing), capacity.processes)
    memory = None
    if missing and capacity.elsewhere:
        memory = estimate_memory_elsewhere(
            runs, packed=packed, memory_gb=capacity.memory_gb, on_gpu=campaign.file.slurm.gpus_per_run > 0
        )
    elif missing:
        named = campaign.file.resources.devices is not None
        memory = estimate_memory(runs, packed=packed, processes=processes, devices=capacity.devices, are_named=named)
    return CostEstimate(
        missing=len(missing),
        finished_each=max((each.disk_when_finished for each in of), default=0),
        disk=disk,
        disk_free=shutil.disk_usage(_existing(campaign.output)).free,
        memory=memory,
        at_once=packed if capacity.elsewhere or capacity.devices else at_once,
        uncounted=tuple(progress.planned.run.engine.title for progress in uncounted),
    )


def epoch_times(status: CampaignStatus, capacity: Capacity | None) -> dict[RunKind, EpochTime | None]:
    """How long an epoch takes, for each kind of network that has runs to be made; None where a probe gave nothing.

    Taken from epochs that runs of the campaign have done; else steps are made and timed, unless ``capacity`` is None.
    """
    missing, _ = _missing(status)
    found: dict[RunKind, EpochTime | None] = {}
    for kind, run in _by_kind(missing).items():
        behind = [
            progress
            for progress in status.runs
            if run_kind(progress.planned.run) == kind and progress.epochs and progress.wall_s > 0
        ]
        if behind:
            found[kind] = _remembered(behind)
        else:
            found[kind] = None if capacity is None else probe(run, capacity.devices)
    return found


def hours_line(status: CampaignStatus, capacity: Capacity, epoch_times: dict[RunKind, EpochTime | None]) -> str:
    """One sentence about the hours that the missing runs will take."""
    total_s = 0.0
    missing, uncounted = _missing(status)
    known = [each for each in epoch_times.values() if each is not None]
    if not missing:
        return "hours: not known" if uncounted else "hours: nothing to do"
    if len(known) < len(epoch_times):
        return f"hours: not known: no training step ended within {LIMIT_S:.0f} s on {device_name(capacity.devices)}"
    for progress in missing:
        each = epoch_times[run_kind(progress.planned.run)]
        assert each is not None
        total_s += each.epoch_s * (progress.planned.run.profile.epochs - len(progress.epochs))
    unit = "GPU-hours" if capacity.devices else "hours of computing"
    at_once = min(len(missing), capacity.processes)
    source = "; ".join(dict.fromkeys(each.source for each in known))
    parallel = f"{at_once} process{'es' if at_once > 1 else ''} at a time"
    return (
        f"hours: about {hours(total_s)} {unit} for {len(missing)} runs, "
        f"{clock_time(total_s / at_once)} by the clock with {parallel} ({source})"
    )


def _remembered(behind: Sequence[Progress]) -> EpochTime:
    epochs = sum(len(progress.epochs) for progress in behind)
    return EpochTime(
        statistics.median(progress.wall_s / len(progress.epochs) for progress in behind),
        f"from {epochs} epochs of {_runs(len(behind))} in this folder",
    )


def _missing(status: CampaignStatus) -> tuple[list[Progress], list[Progress]]:
    """The unfinished runs: those with epochs, and those of engines whose costs are not known."""
    missing = [progress for progress in status.runs if progress.state != "finished"]
    counted = [progress for progress in missing if progress.planned.run.engine.counts_epochs]
    return counted, [progress for progress in missing if not progress.planned.run.engine.counts_epochs]


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _by_kind(missing: Sequence[Progress]) -> dict[RunKind, Run]:
    """A run of each kind."""
    return {run_kind(progress.planned.run): progress.planned.run for progress in reversed(missing)}


def run_kind(run: Run) -> RunKind:
    """By which runs are alike in what they cost."""
    return run.configuration.engine, run.configuration.stage


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _size(size: float) -> str:
    if size < GB / 10:
        return f"{size / 10**6:.1f} MB"
    return f"{size / GB:.1f} GB" if size < 1000 * GB else f"{size / GB:,.0f} GB"
