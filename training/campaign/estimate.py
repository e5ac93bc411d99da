"""What a campaign will cost: hours, disk and memory, and whether the machine has them.

Hours are measured: on the epochs that runs of this plan have done, else on a few training steps
(``training.campaign.probe``).
Disk and memory follow from the plan by the numbers below, so that an estimate is cheap and a campaign that cannot
succeed is refused before its first iteration.

Runs of an engine without epochs are not counted: upstream nnDetection plans its own networks, whose cost has not been
measured.

Memory on the CPU was calibrated on the resident set of training processes (``test/benchmark/campaign_memory.py``):
seven plans of 4 to 32 features, patches of 8 × 16 × 16 to 24 × 128 × 128, batches of 1 to 4. None needed more than is
estimated here; where the estimate is above 500 MB it is at most 1.6 times what was needed.
The largest of them was measured with nnU-Net's loader only. For networks that find boxes the estimate was 0.98 to
1.43 times what four of these plans needed.
"""

import math
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError
from contract.files.reading import read_json
from network.plans import full_resolution
from training.campaign.devices import CudaDevice
from training.campaign.plan import Campaign
from training.campaign.probe import LIMIT_S, EpochTime, device_name, probe
from training.campaign.status import CampaignStatus, Progress, clock, hours
from training.engine import Run

GB = 10**9

_FLOAT, _HALF, _LABEL = 4, 2, 2
_CHECKPOINTS = 3
"""The two that are kept and the one that is being written."""
_BYTES_PER_EPOCH = 1000
"""Of ``run.json`` and the log together."""
_PROCESS = 75 * 10**6
"""What a forked process holds with any plan: pages written to, and the libraries' own buffers."""
_IMPORTS = 600 * 10**6
"""What a process that was not forked holds after its imports."""
_PARAMETER_COPIES = 4
"""Weights, gradients, momentum, and one for a checkpoint."""
_CPU_FEATURES = 4.5
"""Floats alive per element of the feature maps that the convolutions give."""
_CUDA_BYTES = 8e9 / (2 * 560e6)
"""Per element of the same: nnU-Net's planner reckons 8 GB for 560 million elements in each of two patches."""


RunKind = tuple[str, str]
"""Engine and stage: networks and data differ between these only."""


@dataclass(frozen=True)
class Needs:
    """What one run takes, in bytes."""

    weights: int
    checkpoint: int
    kept: int
    """Weights that wait for the choice by detection."""
    log: int
    on_cpu: int
    """Memory of network, gradients and activations in training."""
    on_cuda: int

    @property
    def disk_when_finished(self) -> int:
        """What stays in its folder."""
        return self.weights + self.log

    @property
    def disk_at_work(self) -> int:
        """What its checkpoints take in addition."""
        return _CHECKPOINTS * self.checkpoint + self.kept


@dataclass(frozen=True)
class Capacity:
    """How much of a campaign happens at the same time, and where."""

    processes: int
    packed: int
    """Runs in parallel in each process."""
    devices: tuple[CudaDevice, ...] = ()
    """One per process, or none on the CPU."""
    elsewhere: bool = False
    """Whether other machines do it: then only the disk is ours."""
    memory_gb: float | None = None
    """What each process is given, where that was said."""


@dataclass(frozen=True)
class CostEstimate:
    """What the missing runs need on the disk and in memory, in bytes, and what there is."""

    missing: int
    finished_each: int
    disk: int
    disk_free: int
    memory: int
    memory_free: int | None
    """None: not known."""
    memory_source: str
    at_once: int
    uncounted: tuple[str, ...] = ()
    """The engine of each missing run whose costs are not known."""

    def refuse_if_short(self, campaign: Campaign) -> None:
        """Raise ``OncoduetError`` if disk or memory are too small."""
        if self.disk > self.disk_free:
            raise OncoduetError(
                campaign.output,
                expected=f"{_size(self.disk)} of free disk for {self.missing} runs",
                found=_size(self.disk_free),
            )
        if self.memory_free is not None and self.memory > self.memory_free:
            raise OncoduetError(
                campaign.path,
                expected=f"{_size(self.memory)} of memory for {self.at_once} runs at a time",
                found=(
                    f"{_size(self.memory_free)} ({self.memory_source}); fewer resources.workers or "
                    "resources.packed need less"
                ),
            )

    def lines(self) -> list[str]:
        """For the console: disk, memory, and what was not counted."""
        free = "" if self.memory_free is None else f"; {_size(self.memory_free)} there ({self.memory_source})"
        return [
            f"disk: {_size(self.finished_each)} per finished run, at most {_size(self.disk)} on the way; "
            f"{_size(self.disk_free)} free",
            f"memory: at most {_size(self.memory)} for {self.at_once} runs at a time{free}",
            *(
                f"not counted: {_runs(count)} of {title}, whose costs are unknown"
                for title, count in Counter(self.uncounted).items()
            ),
        ]


def estimate_costs(campaign: Campaign, status: CampaignStatus, capacity: Capacity) -> CostEstimate:
    """What the missing runs need, and what is available."""
    from network.memory_plan import held_bytes, memory_budget  # noqa: PLC0415

    missing, uncounted = _missing(status)
    need = {kind: needs(run) for kind, run in _by_kind(missing).items()}
    of = [need[kind_of(progress.planned.run)] for progress in missing]
    at_once = min(len(missing), capacity.processes * capacity.packed)
    disk = sum(each.disk_when_finished for each in of) + at_once * max((each.disk_at_work for each in of), default=0)
    on_cuda = bool(capacity.devices)
    kinds = _by_kind(missing).values()
    resident = max((training_set_bytes(run, on_cuda=on_cuda) for run in kinds), default=0)
    numbers = max((numbers_bytes(run) for run in kinds), default=0)
    packed, processes = min(capacity.packed, max(1, len(missing))), min(len(missing), capacity.processes)
    on_device = packed * max((each.on_cuda for each in of), default=0) + resident + numbers
    on_host = _PROCESS + numbers + packed * max((each.on_cpu for each in of), default=0)
    if capacity.elsewhere:
        memory, free, source = _IMPORTS + on_host + resident, capacity.memory_gb, "slurm.memory_gb"
        memory_free = None if free is None else round(free * GB)
        at_once = packed
    elif capacity.devices:
        memory, source = on_device, f"the GPU {capacity.devices[0].name}"
        memory_free = min(device.free_bytes for device in capacity.devices)
        at_once = packed
    else:
        budget = memory_budget()
        memory = processes * on_host + resident  # read before the processes are forked
        memory_free, source = budget.total - held_bytes(), budget.source
    return CostEstimate(
        missing=len(missing),
        finished_each=max((each.disk_when_finished for each in of), default=0),
        disk=disk,
        disk_free=shutil.disk_usage(_existing(campaign.output)).free,
        memory=memory if missing else 0,
        memory_free=memory_free,
        memory_source=source,
        at_once=at_once,
        uncounted=tuple(progress.planned.run.engine.title for progress in uncounted),
    )


def needs(run: Run) -> Needs:
    """What a run of this plan takes. The network is built without memory for its weights.

    Raises ``OncoduetError``: a network that finds boxes has a patch that is no multiple of its strides.
    """
    import torch  # noqa: PLC0415

    with torch.device("meta"):
        network, per_patch = run.engine.network(run)
    elements = per_patch * full_resolution(run.plans).batch_size
    unique = {id(parameter): parameter.numel() for parameter in network.parameters()}
    parameters = sum(unique.values())
    copies = 3 if run.keep == "best" else 2  # weights, momentum, and the best weights so far
    kept = run.profile.epochs // run.profile.keep_every_epochs + 1 if run.keep == "detection" else 0
    return Needs(
        weights=_FLOAT * parameters,
        checkpoint=copies * _FLOAT * parameters,
        kept=kept * _FLOAT * parameters,
        log=_BYTES_PER_EPOCH * run.profile.epochs,
        on_cpu=round(_FLOAT * (_PARAMETER_COPIES * parameters + _CPU_FEATURES * elements)),
        on_cuda=round(_PARAMETER_COPIES * _FLOAT * parameters + _CUDA_BYTES * elements),
    )


def training_set_bytes(run: Run, *, on_cuda: bool = False) -> int:
    """The preprocessed studies in the memory of the device, as far as a process keeps them there.

    The resident loader keeps all of them, on a GPU in half precision; nnU-Net's own reads patches from files.
    """
    if run.profile.loader == "nnunet":
        return 0
    prepared = run.prepared
    per_voxel = _LABEL + len(prepared.dataset["channel_names"]) * (_HALF if on_cuda else _FLOAT)
    return round(_training_voxels(run) * per_voxel)


def numbers_bytes(run: Run) -> int:
    """The numbered lesions of the same studies, which each process keeps for itself where a network finds boxes."""
    own = run.engine.own_bytes_per_voxel
    return round(_training_voxels(run) * own) if own else 0


def _training_voxels(run: Run) -> float:
    """Voxels of all preprocessed studies, known from the fingerprint and the plan."""
    prepared = run.prepared
    fingerprint: dict[str, Any] = read_json(prepared.folder / "dataset_fingerprint.json")
    target_mm = full_resolution(prepared.plans).spacing
    voxels: float = sum(
        math.prod(shape) * math.prod(spacing) / math.prod(target_mm)
        for shape, spacing in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True)
    )
    return voxels


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
            if kind_of(progress.planned.run) == kind and progress.epochs and progress.wall_s > 0
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
        each = epoch_times[kind_of(progress.planned.run)]
        assert each is not None
        total_s += each.epoch_s * (progress.planned.run.profile.epochs - len(progress.epochs))
    unit = "GPU-hours" if capacity.devices else "hours of computing"
    at_once = min(len(missing), capacity.processes)
    source = "; ".join(dict.fromkeys(each.source for each in known))
    parallel = f"{at_once} process{'es' if at_once > 1 else ''} at a time"
    return (
        f"hours: about {hours(total_s)} {unit} for {len(missing)} runs, "
        f"{clock(total_s / at_once)} by the clock with {parallel} ({source})"
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
    return {kind_of(progress.planned.run): progress.planned.run for progress in reversed(missing)}


def kind_of(run: Run) -> RunKind:
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
